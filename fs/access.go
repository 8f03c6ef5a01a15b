package fs

import (
	"context"
	iofs "io/fs"
)

// Access reports iofs.ErrPermission unless the User of ctx may use the file of
// st for what the bits of rwx, 0 to 7, say. Every door asks it before it opens
// a file or walks in a directory. There are no groups: a member of a file's
// group counts as one of the others. What uid 0 may do is the tree's to say.
//
// Every User may read a Public file: its Mode is part of what is served, and
// says nothing about its readers. The artifacts of a run are Public, as its tar
// holds them too; so are the files of an imported tree, whose server decides.
func Access(ctx context.Context, st *Stat, rwx iofs.FileMode) error {
	u := UserOf(ctx)
	perm := st.Mode.Perm()
	if u.UID >= 0 && u.UID == int64(st.UID) {
		perm >>= 6
	}
	if st.Public {
		perm |= 0o5
	}
	if perm&rwx != rwx && u.UID != 0 {
		return iofs.ErrPermission
	}
	return nil
}
