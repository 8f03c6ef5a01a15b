package fs

import (
	"errors"
	iofs "io/fs"
	"testing"
)

func TestAccess(t *testing.T) {
	for _, test := range []struct {
		uid    int64
		mode   iofs.FileMode
		public bool
		rwx    iofs.FileMode
		ok     bool
	}{
		{7, 0o600, false, 6, true},
		{7, 0o600, false, 1, false},
		{7, 0o044, false, 4, false}, // the owner's bits are the owner's
		{8, 0o600, false, 4, false},
		{8, 0o660, false, 4, false}, // there are no groups
		{8, 0o604, false, 4, true},
		{-1, 0o600, false, 4, false},
		{-1, 0o600, true, 4, true},
		{-1, 0o600, true, 2, false},
		{-1, iofs.ModeDir | 0o700, true, 5, true},
		{-1, 0o666, false, 2, true},
		{0, 0, false, 7, true},
	} {
		ctx := WithUser(t.Context(), User{UID: test.uid})
		err := Access(ctx, &Stat{Mode: test.mode, UID: 7, Public: test.public}, test.rwx)
		if test.ok && err != nil || !test.ok && !errors.Is(err, iofs.ErrPermission) {
			t.Errorf("Access of user %d to %v, public %v, for %o = %v, want ok %v", test.uid, test.mode, test.public, test.rwx, err, test.ok)
		}
	}
}
