package sftp

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"9ci/fs"
)

// A time before 1970 cannot be said, and must not become one of this century.
func TestOldTime(t *testing.T) {
	near, far := net.Pipe()
	done := make(chan error, 1)
	old := fs.Text{Name: "old", Qid: fs.RootQid.Child("old"), Make: func(context.Context) ([]byte, error) { return nil, nil },
		ModTime: func() time.Time { return time.Unix(-500000000, 0) }}
	root := fs.SynthDir{
		Describe: func() (fs.Stat, error) { return fs.DirStat("/", fs.RootQid, time.Unix(1, 0)), nil },
		List:     func(context.Context) ([]fs.Node, error) { return []fs.Node{old}, nil },
		Find:     func(context.Context, string) (fs.Node, error) { return old, nil },
	}
	go func() { done <- Serve(t.Context(), far, root) }()
	c, err := sftp.NewClientPipe(near, near)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := c.Lstat("/old")
	if err != nil || !fi.ModTime().Equal(time.Unix(0, 0)) {
		t.Errorf("Lstat = %v, %v, want a time of 1970", fi, err)
	}
	near.Close()
	if err := <-done; err != nil {
		t.Errorf("Serve = %v", err)
	}
}
