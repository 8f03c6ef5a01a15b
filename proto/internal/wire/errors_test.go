package wire

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"strings"
	"syscall"
	"testing"

	"9ci/fs"
	"9ci/proto/internal/linux"
)

// Errors survive the way to the client where it can know them.
func TestErrors(t *testing.T) {
	for _, err := range []error{
		iofs.ErrNotExist, iofs.ErrPermission, iofs.ErrExist, iofs.ErrInvalid, context.Canceled,
		fs.ErrIsDir, fs.ErrNotDir, fs.ErrReadOnly, fs.ErrIO,
	} {
		ename, errno := encodeError(&iofs.PathError{Op: "open", Path: "/home/glenda/x", Err: err})
		if strings.Contains(ename, "glenda") {
			t.Errorf("ename %q tells of the host", ename)
		}
		if got := EnameError(ename); !errors.Is(got, err) {
			t.Errorf("%v came as %q and then %v", err, ename, got)
		}
		if got := ErrnoError(uint32(errno)); !errors.Is(got, err) {
			t.Errorf("%v came as %d and then %v", err, errno, got)
		}
	}
	ename, _ := encodeError(errors.New("no such target:\n\tfoo"))
	if got := EnameError(ename); got.Error() != "no such target:; \tfoo" {
		t.Errorf("came as %q", got)
	}
	if err := EnameError("too many requests or fids: resource temporarily unavailable"); !errors.Is(err, syscall.EAGAIN) || !errors.Is(ErrTooMuch, syscall.EAGAIN) {
		t.Errorf("%v does not say that it passes", err)
	}
}

// Numbers are Linux's, whatever the host's are, and are passed on as they
// came where no error of ours has them.
func TestErrno(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want linux.Errno
	}{
		{syscall.ENAMETOOLONG, 36},
		{syscall.ELOOP, 40},
		{syscall.ESTALE, 116},
		{ErrTooMuch, 11},
		{ErrUnsupported, 95},
		{fmt.Errorf("x: %w", linux.Errno(18)), 18},
		{ErrnoError(18), 18},
		{errors.New("no number"), 5},
		{syscall.Errno(0), 5},
	} {
		if got := Errno(tt.err); got != tt.want {
			t.Errorf("Errno(%v) = %d, want %d", tt.err, got, tt.want)
		}
	}
	if got := ErrnoError(18).Error(); got != "invalid cross-device link" {
		t.Errorf("ErrnoError(18) = %q", got)
	}
	if got := ErrnoError(4096); got != fs.ErrIO {
		t.Errorf("ErrnoError(4096) = %v, want %v", got, fs.ErrIO)
	}
}
