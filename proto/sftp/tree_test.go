package sftp

import (
	"context"
	"io"
	iofs "io/fs"
	"net"
	"os"
	"path"
	"testing"

	"9ci/fs"
	"9ci/fs/treetest"

	"github.com/pkg/sftp"
)

// The tree of runs keeps its rules through an SFTP client.
func TestTree(t *testing.T) {
	_, root := treetest.New(t)
	dial := func() *sftp.Client {
		near, far := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- Serve(context.Background(), far, root, "wait") }()
		c, err := sftp.NewClientPipe(near, near)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			near.Close()
			<-done
		})
		return c
	}
	treetest.TestDoor(t, treetest.Tree(view{dial(), dial}), treetest.Lacks{
		Paths:    true, // version 3 has no number for a file
		Versions: true, // nor one for its content
		Writes:   true, // the door is read-only: SFTP has no reply to a write to ctl
		Waits:    true, // answers come in order: one read that blocks would hold up all others
	})
}

// A view is what an SFTP client sees.
type view struct {
	c    *sftp.Client
	dial func() *sftp.Client
}

func abs(name string) string { return path.Join("/", name) }

func (v view) Lstat(name string) (fs.Stat, error) {
	fi, err := v.c.Lstat(abs(name))
	if err != nil {
		return fs.Stat{}, err
	}
	return v.stat(name, fi)
}

func (v view) Stat(name string) (fs.Stat, error) {
	fi, err := v.c.Stat(abs(name))
	if err != nil {
		return fs.Stat{}, err
	}
	return v.stat(name, fi)
}

func (v view) stat(name string, fi os.FileInfo) (fs.Stat, error) {
	sys := fi.Sys().(*sftp.FileStat)
	st := fs.Stat{Name: path.Base(name), Mode: fi.Mode(), Size: fi.Size(), ModTime: fi.ModTime(), UID: sys.UID, GID: sys.GID}
	var err error
	if st.Mode&iofs.ModeSymlink != 0 {
		st.Target, err = v.c.ReadLink(abs(name))
	}
	return st, err
}

func (v view) ReadDir(name string) ([]fs.Stat, error) {
	fis, err := v.c.ReadDir(abs(name))
	if err != nil {
		return nil, known(err)
	}
	list := make([]fs.Stat, len(fis))
	for i, fi := range fis {
		if list[i], err = v.stat(path.Join(name, fi.Name()), fi); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Open opens the file by a connection of its own, which can be closed while a
// read goes on.
func (v view) Open(name string, mode fs.OpenMode) (fs.File, error) {
	c := v.dial()
	f, err := c.OpenFile(abs(name), treetest.Flags(mode))
	if err != nil {
		c.Close()
		return nil, known(err)
	}
	return openFile{c, f}, nil
}

// known gives the errors that version 3 has no number for, by their texts.
func known(err error) error {
	if se, ok := err.(*sftp.StatusError); ok {
		for _, known := range []error{fs.ErrIsDir, fs.ErrNotDir} {
			if se.Error() == `sftp: "`+known.Error()+`" (SSH_FX_FAILURE)` {
				return known
			}
		}
	}
	return err
}

type openFile struct {
	c *sftp.Client
	f *sftp.File
}

func (f openFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	stop := context.AfterFunc(ctx, func() { f.c.Close() })
	defer stop()
	n, err := f.f.ReadAt(p, off)
	if n > 0 && err == io.EOF {
		err = nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return n, err
}

func (f openFile) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	return f.f.WriteAt(p, off)
}

func (f openFile) Close() error { return f.c.Close() }
