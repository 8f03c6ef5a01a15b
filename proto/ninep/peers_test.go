package ninep

import (
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"9ci/proto/internal/testtree"

	"9fans.net/go/plan9"
	"9fans.net/go/plan9/client"
	p9test "github.com/hugelgupf/p9/fsimpl/test"
	"github.com/hugelgupf/p9/p9"
)

// listen serves s on a Unix socket for the time of the test.
func listen(t testing.TB, s *Server) (sock string) {
	t.Helper()
	sock = filepath.Join(t.TempDir(), "sock")
	l, err := Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.ServeListener(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeListener = %v", err)
		}
	})
	return sock
}

// The Go client of 9fans.net, which speaks 9P2000.
func TestPlan9Client(t *testing.T) {
	root, log := testtree.New()
	conn, err := net.Dial("unix", listen(t, &Server{Root: root}))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.NewConn(conn)
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := c.Attach(nil, "glenda", "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fid, err := fsys.Open("ci/last/status", plan9.OREAD)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(fid); err != nil || string(b) != "passed 0 1.500 -\n" {
		t.Errorf("status = %q, %v", b, err)
	}
	fid.Close()
	if d, err := fsys.Stat("ci/last/status"); err != nil || d.Length != 17 || d.Mode != 0o444 {
		t.Errorf("Stat = %v, %v", d, err)
	}
	if fid, err = fsys.Open("ci", plan9.OREAD); err != nil {
		t.Fatal(err)
	}
	ds, err := fid.Dirreadall()
	if err != nil || len(ds) != 2 || ds[1].Name != "last" || ds[1].Mode&plan9.DMDIR == 0 {
		t.Errorf("Dirreadall = %v, %v", ds, err)
	}
	fid.Close()
	if fid, err = fsys.Open("ctl", plan9.ORDWR); err != nil {
		t.Fatal(err)
	}
	if _, err := fid.Write([]byte("bad\n")); err == nil || err.Error() != "bad command: Invalid argument" {
		t.Errorf("Write(bad) = %v", err)
	}
	if _, err := fid.Write([]byte("run\n")); err != nil {
		t.Error(err)
	}
	b := make([]byte, 100)
	if n, err := fid.Read(b); string(b[:n]) != "did run\n" {
		t.Errorf("Read = %q, %v", b[:n], err)
	}
	fid.Close()
	log.Append("hello\n", true)
	if fid, err = fsys.Open("ci/last/live", plan9.OREAD); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(fid); err != nil || string(b) != "hello\n" {
		t.Errorf("live = %q, %v", b, err)
	}
	fid.Close()
}

// An attacher attaches hugelgupf's client, which speaks 9P2000.L.
type attacher struct{ c *p9.Client }

func (a attacher) Attach() (p9.File, error) { return a.c.Attach("") }

// hugelgupf's conformance test of read-only file systems.
func TestP9Conformance(t *testing.T) {
	root, _ := testtree.New()
	conn, err := net.Dial("unix", listen(t, &Server{Root: root}))
	if err != nil {
		t.Fatal(err)
	}
	c, err := p9.NewClient(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p9test.TestReadOnlyFS(t, attacher{c},
		p9test.WithDir("", ".", "..", "ci", "link", "ctl", "empty"),
		p9test.WithDir("ci/3f2a9c1d0b7e.1", ".", "..", "status", "secret"),
		p9test.WithFile("ci/3f2a9c1d0b7e.1/status", "passed 0 1.500 -\n",
			p9.Attr{Mode: p9.ModeRegular | 0o444, Size: 17}, p9.AttrMask{Mode: true, Size: true}),
		p9test.WithSymlink("link", "ci/last/status",
			p9.Attr{Mode: p9.ModeSymlink | 0o777}, p9.AttrMask{Mode: true}),
	)
}

// diod's own clients.
func TestDiod(t *testing.T) {
	root, _ := testtree.New()
	sock := listen(t, &Server{Root: root})
	for _, test := range []struct {
		args string
		want string
	}{
		{"diodcat -s SOCK -a / ci/last/status", "passed 0 1.500 -\n"},
		{"diodls -s SOCK -a / ci", "3f2a9c1d0b7e.1\nlast\n"},
		{"diodcat -s SOCK -a / ctl", "manual\n"},
	} {
		args := strings.Fields(strings.ReplaceAll(test.args, "SOCK", sock))
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			t.Fatal(err)
		}
		if err != nil || string(out) != test.want {
			t.Errorf("%s: %v\n%s", test.args, err, out)
		}
	}
}
