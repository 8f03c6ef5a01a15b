package ninep

import (
	"context"
	"errors"
	"net"
	"testing"

	"9ci/fs"
)

// An endless file is of zeros.
type endless struct{}

func (endless) Stat(context.Context) (fs.Stat, error) {
	return fs.FileStat("endless", fs.RootQid.Child("endless"), 5, fs.Stat{}.ModTime), nil
}
func (endless) Open(context.Context, fs.OpenMode) (fs.File, error)       { return endless{}, nil }
func (endless) ReadAt(_ context.Context, p []byte, _ int64) (int, error) { return len(p), nil }
func (endless) WriteAt(context.Context, []byte, int64) (int, error)      { return 0, fs.ErrReadOnly }
func (endless) Close() error                                             { return nil }

// ReadAll gives up a text of a peer's that has no end.
func TestReadAllEndless(t *testing.T) {
	near, far := net.Pipe()
	srv := Server{Root: fs.NewDir("/", endless{})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(t.Context(), far) }()
	c, err := Import(t.Context(), near, ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, root := range map[string]fs.Dir{"imported": c.Root(), "own": srv.Root} {
		n, err := root.Walk(t.Context(), "endless")
		if err != nil {
			t.Fatal(err)
		}
		if b, err := fs.ReadAll(t.Context(), n); !errors.Is(err, fs.ErrTooLong) {
			t.Errorf("%s: ReadAll = %d bytes, %v, want %v", name, len(b), err, fs.ErrTooLong)
		}
	}
	c.Close()
	<-served
}
