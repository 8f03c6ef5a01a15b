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
	if err := EnameError("too many requests or fids: Resource temporarily unavailable"); !errors.Is(err, syscall.EAGAIN) || !errors.Is(ErrTooMuch, syscall.EAGAIN) {
		t.Errorf("%v does not say that it passes", err)
	}
}

// Each error of the table is told by its own text and number, and with its context
// where it has one. What is not in the table is told as strerror(3) does.
func TestEnames(t *testing.T) {
	for _, e := range errorTable {
		if ename, errno := encodeError(e.err); ename != e.ename || errno != e.errno {
			t.Errorf("encodeError(%v) = %q, %d, want %q, %d", e.err, ename, errno, e.ename, e.errno)
		}
	}
	for _, tt := range []struct {
		err   error
		ename string
		errno linux.Errno
	}{
		{ErrUnknownFid, "unknown fid: Bad file descriptor", linux.EBADF},
		{ErrMalformed, "malformed message: Invalid argument", linux.EINVAL},
		{ErrUnsupported, "Operation not supported", linux.EOPNOTSUPP},
		{fmt.Errorf("ctl: %w", syscall.ENOSPC), "ctl: No space left on device", linux.ENOSPC},
		{syscall.EXDEV, "Invalid cross-device link", 18},
		{&iofs.PathError{Op: "open", Path: "/home/glenda", Err: syscall.EIO}, "Input/output error", linux.EIO},
		{fmt.Errorf("x: %w", linux.Errno(18)), "x: Invalid cross-device link", 18},
		{errors.New("no such target"), "no such target", linux.EIO},
	} {
		if ename, errno := encodeError(tt.err); ename != tt.ename || errno != tt.errno {
			t.Errorf("encodeError(%v) = %q, %d, want %q, %d", tt.err, ename, errno, tt.ename, tt.errno)
		}
	}
}

// Errors of other servers, and of ours as it was, are known by their words.
func TestOtherEnames(t *testing.T) {
	for ename, want := range map[string]error{
		"permission denied":                iofs.ErrPermission,
		"Operation not permitted":          iofs.ErrPermission,
		"open x: read-only file system":    fs.ErrReadOnly,
		"No such file or directory":        iofs.ErrNotExist,
		"'x' file does not exist":          iofs.ErrNotExist,
		"file already exists":              iofs.ErrExist,
		"interrupted":                      context.Canceled,
		"unknown fid":                      syscall.EBADF,
		"fid unknown: bad file descriptor": syscall.EBADF,
		"bad command: Invalid argument":    iofs.ErrInvalid,
	} {
		if got := EnameError(ename); !errors.Is(got, want) {
			t.Errorf("EnameError(%q) = %v, want %v", ename, got, want)
		}
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
