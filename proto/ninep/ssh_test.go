package ninep

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"9ci/fs"
)

// One socket answers clients of 9P and of SSH, each with all that it has said, and the
// kernel's word who it is.
func TestSSH(t *testing.T) {
	l, err := Listen(filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	srv := Server{Root: fs.NewDir("/"), SSH: func(_ context.Context, nc net.Conn, user fs.User) {
		defer nc.Close()
		if user.UID != int64(os.Getuid()) {
			t.Errorf("the client is %+v", user)
		}
		io.Copy(nc, nc)
	}}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.ServeListener(ctx, l); err != nil {
			t.Error(err)
		}
	})
	dial := func() net.Conn {
		c, err := Dial(t.Context(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	silent := dial() // until the end
	defer silent.Close()
	dial().Close()

	const hello = "SSH-2.0-test\r\n"
	c := dial()
	io.WriteString(c, hello)
	b := make([]byte, len(hello))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != hello {
		t.Errorf("the server of SSH got %q, %v", b, err)
	}
	c.Close()

	client, err := Import(t.Context(), dial(), ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Root().Stat(t.Context()); err != nil {
		t.Errorf("9P: %v", err)
	}
	client.Close()
	cancel()
	wg.Wait()
}
