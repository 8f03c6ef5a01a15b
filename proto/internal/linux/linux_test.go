package linux

import (
	iofs "io/fs"
	"testing"

	"9ci/fs"
)

// Every mode of a file survives the way there and back, and has the number
// that inode(7) gives it.
func TestMode(t *testing.T) {
	for _, tt := range []struct {
		mode  iofs.FileMode
		linux uint32
	}{
		{0o644, 0o100644},
		{iofs.ModeDir | 0o555, 0o040555},
		{iofs.ModeSymlink | 0o777, 0o120777},
		{iofs.ModeNamedPipe | 0o600, 0o010600},
		{iofs.ModeSocket | 0o755, 0o140755},
		{iofs.ModeDevice | 0o660, 0o060660},
		{iofs.ModeDevice | iofs.ModeCharDevice | 0o666, 0o020666},
		{iofs.ModeSetuid | 0o755, 0o104755},
		{iofs.ModeSetgid | 0o755, 0o102755},
		{iofs.ModeDir | iofs.ModeSticky | 0o777, 0o041777},
		{iofs.ModeSetuid | iofs.ModeSetgid | iofs.ModeSticky, 0o107000},
	} {
		if got := Mode(tt.mode); got != tt.linux {
			t.Errorf("Mode(%v) = %o, want %o", tt.mode, got, tt.linux)
		}
		if got := FileMode(tt.linux); got != tt.mode {
			t.Errorf("FileMode(%o) = %v, want %v", tt.linux, got, tt.mode)
		}
	}
	alias := iofs.ModeSymlink | iofs.ModeDir | 0o777
	if got := Mode(alias); got != 0o120777 {
		t.Errorf("Mode(%v) = %o, want that of a link", alias, got)
	}
	if got := FileMode(0o170644); got != 0o644 {
		t.Errorf("FileMode(%o) = %v, want a regular file", 0o170644, got)
	}
}

func TestOpenFlags(t *testing.T) {
	for _, tt := range []struct {
		mode  fs.OpenMode
		flags uint32
	}{
		{fs.OpenRead, 0},
		{fs.OpenWrite, 1},
		{fs.OpenRead | fs.OpenWrite, 2},
		{fs.OpenWrite | fs.OpenTrunc, 0o1001},
	} {
		if got := OpenFlags(tt.mode); got != tt.flags {
			t.Errorf("OpenFlags(%v) = %o, want %o", tt.mode, got, tt.flags)
		}
		if got := OpenMode(tt.flags | Directory | 0o100000); got != tt.mode {
			t.Errorf("OpenMode(%o) = %v, want %v", tt.flags, got, tt.mode)
		}
	}
}
