// Package fs is a tree of files that are computed, kept on disk, or imported
// from another tree.
//
// A Node names a file and holds nothing. A File is an open Node and must be
// closed. Every door (9P2000, 9P2000.L, SFTP, FUSE, io/fs) serves Nodes, and asks
// Access before it opens one. What a tree means is not known here: package ci
// says what the files of a run are, and package store serves them.
//
// A tree is made of:
//
//   - SynthDir and NewDir, directories of Nodes; Text, Ctl and Feed, files whose
//     bytes are made or come in;
//   - DiskDir, a directory of this machine's;
//   - Namespaces, several trees under one root;
//   - Named, a tree under another name.
//
// A door that joins trees, as Namespaces do, renumbers them: a qid.path is unique
// in the tree that is served.
package fs

import (
	"context"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"time"
)

// A Node names a file. It holds nothing: no descriptor, no lock, no goroutine.
//
// A Node that is a directory is also a Dir. A Node whose Stat has ModeSymlink
// is a symbolic link; if it is a Dir too it is an alias: a walk that goes on
// through it follows the link, and a dialect without links shows a directory.
type Node interface {
	// Stat describes the file as it is now. It reports iofs.ErrNotExist where
	// the file is gone.
	Stat(ctx context.Context) (Stat, error)

	// Open makes the file ready for reading or writing. It has no effect on the
	// file itself: access(2) through 9pfuse opens and closes; a ctl takes
	// OpenTrunc and does nothing. A file that cannot be used so answers
	// iofs.ErrPermission or ErrReadOnly. A Dir answers ErrIsDir: read it with
	// ReadDir. The door has asked Access.
	Open(ctx context.Context, mode OpenMode) (File, error)
}

// A Dir is a Node with entries.
type Dir interface {
	Node

	// Walk returns the entry of that name, which is never "", "." or ".." and
	// holds no slash. It reports iofs.ErrNotExist when there is none, or none
	// that the User of ctx may know of.
	Walk(ctx context.Context, name string) (Node, error)

	// ReadDir returns at most n entries that follow the cookie after, in the
	// directory's own stable order; 0 starts at the first. It returns no
	// entries and no error at the end. It never lists "." and "..". A cookie
	// that the directory did not give answers any entries, or iofs.ErrInvalid.
	ReadDir(ctx context.Context, after uint64, n int) ([]Stat, error)
}

// A File is an open Node. Its methods may be called from several goroutines.
type File interface {
	// ReadAt reads up to len(p) bytes from off, which is not negative. Unlike
	// io.ReaderAt it may return fewer bytes without an error; 0 bytes come with
	// io.EOF at the end of the file. A live file blocks until there is more,
	// the file has ended, or ctx is done: then the error is ctx's cause.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)

	// WriteAt writes p at off, and returns how many bytes of it were taken:
	// len(p), or fewer and an error. Few files can be written: a ctl takes
	// whole lines, at whatever offset, and blocks until they are done. Others
	// answer iofs.ErrPermission or ErrReadOnly. The door has checked that the
	// file is open for writing.
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)

	// Close gives up what the file holds. No method is called afterwards; one
	// that still blocks ends by its context.
	Close() error
}

// An Extenter is a File whose bytes lie on disk, in one file of this machine's
// or in several. Its ReadAt never blocks. A door may have the kernel send the
// bytes from there.
type Extenter interface {
	File

	// Extent returns where the n bytes at off lie: in f, from at on. f is valid
	// until the caller calls done, which it does before Close. f is nil where
	// the bytes do not all lie in one file.
	Extent(off int64, n int) (f *os.File, at int64, done func())
}

// A Stat describes a file, as stat(5) does.
type Stat struct {
	Name    string
	Mode    iofs.FileMode // type and permission bits
	Size    int64         // bytes; a growing file's current length; 0 for a directory
	ModTime time.Time
	UID     uint32
	GID     uint32
	Path    uint64 // qid.path: stable, unique in the tree, below 2^56
	Version uint32 // qid.vers: 0 for a live file, nonzero for one that never changes again
	Public  bool   // every User that can walk to it may read it, whatever Mode says
	Target  string // where a symbolic link or an alias points
	Cookie  uint64 // in a listing: resumes ReadDir behind this entry; never 0
}

// IsDir reports whether s is a directory, or an alias of one.
func (s Stat) IsDir() bool { return s.Mode.IsDir() }

// An OpenMode says what a File will be used for: one or several of these.
type OpenMode uint8

const (
	OpenRead OpenMode = 1 << iota
	OpenWrite
	OpenTrunc
)

// A User is the peer on whose behalf a request is made. The door that took the
// connection knows the peer, and sets it; a tree may ask.
type User struct {
	Name      string // the SSH principal, the uname of attach(5), or the local user
	UID       int64  // the peer's user id (SO_PEERCRED), or -1 where there is none
	Anonymous bool   // the listener authenticates no peer: no ctl
}

type userKey struct{}

// WithUser returns a context that carries u.
func WithUser(ctx context.Context, u User) context.Context {
	return context.WithValue(ctx, userKey{}, u)
}

// UserOf returns the User of ctx, or the user of this process where no door set
// one.
func UserOf(ctx context.Context) User {
	if u, ok := ctx.Value(userKey{}).(User); ok {
		return u
	}
	return self
}

// MaxRead is how many bytes ReadAll reads at most. No text of a run is longer.
const MaxRead = 64 << 20

// ErrTooLong is the error of ReadAll for a file of over MaxRead bytes: a peer may
// show one without end.
var ErrTooLong = fmt.Errorf("over %d MiB, which is no text", MaxRead>>20)

// ReadAll reads a file from its start to its end. It blocks as long as the file
// does. Where a Node has a method ReadAll(ctx), which can do that in fewer
// steps, it is called.
func ReadAll(ctx context.Context, n Node) ([]byte, error) {
	if r, ok := n.(interface {
		ReadAll(context.Context) ([]byte, error)
	}); ok {
		return r.ReadAll(ctx)
	}
	f, err := n.Open(ctx, OpenRead)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, 0, 512)
	for {
		n, err := f.ReadAt(ctx, b[len(b):cap(b)], int64(len(b)))
		b = b[:len(b)+n]
		if len(b) > MaxRead {
			return nil, ErrTooLong
		}
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}
