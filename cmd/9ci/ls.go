package main

import (
	"context"
	"fmt"
	iofs "io/fs"

	"9ci/cmd/internal/show"
	"9ci/fs"
	"9ci/fs/ci"
)

// lsCommand lists directories, and files by their names.
func lsCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("ls")
	addr := f.String("a", "", "")
	long := f.Bool("l", false, "")
	if err := parseFlags(f, args, 0, -1); err != nil {
		return exitError, err
	}
	names := f.Args()
	if len(names) == 0 {
		names = []string{"/"}
	}
	for _, name := range names {
		n, p, err := search{addr: *addr, store: true, link: *long}.find(ctx, name)
		if err != nil {
			return failed(1, err)
		}
		defer p.close()
		list := []fs.Stat{}
		if d, ok := n.(fs.Dir); ok {
			list, err = readDir(ctx, d, *long)
		} else {
			var st fs.Stat
			st, err = n.Stat(ctx)
			st.Name = name
			list = append(list, st)
		}
		if err != nil {
			return failed(1, fmt.Errorf("%s: %w", name, err))
		}
		for _, st := range list {
			if !*long {
				show.Out.Printf("%s\n", show.Out.Name(st.Name))
				continue
			}
			target := ""
			if st.Target != "" {
				target = " -> " + show.Out.Name(st.Target)
			}
			show.Out.Printf("%s %10d %s %s%s\n", modeString(st.Mode), st.Size, ci.FormatTime(st.ModTime), show.Out.Name(st.Name), target)
		}
	}
	return 0, nil
}

// modeString returns a mode as ls(1) prints it.
func modeString(m iofs.FileMode) string {
	b := []byte("-rwxrwxrwx")
	switch { // an alias is a link and a directory
	case m&iofs.ModeSymlink != 0:
		b[0] = 'l'
	case m.IsDir():
		b[0] = 'd'
	}
	for i := range 9 {
		if m&(1<<(8-i)) == 0 {
			b[1+i] = '-'
		}
	}
	for _, x := range []struct {
		bit iofs.FileMode
		at  int
		c   byte
	}{{iofs.ModeSetuid, 3, 's'}, {iofs.ModeSetgid, 6, 's'}, {iofs.ModeSticky, 9, 't'}} {
		if m&x.bit == 0 {
			continue
		}
		if b[x.at] == '-' {
			x.c -= 'a' - 'A' // it cannot be executed
		}
		b[x.at] = x.c
	}
	return string(b)
}

// readDir lists a directory. If it is not for long, only the names are right.
func readDir(ctx context.Context, d fs.Dir, long bool) ([]fs.Stat, error) {
	var list []fs.Stat
	entries := fs.Names(ctx, d)
	if long {
		entries = fs.Entries(ctx, d)
	}
	for st, err := range entries {
		if err != nil {
			return list, err
		}
		list = append(list, st)
	}
	return list, nil
}
