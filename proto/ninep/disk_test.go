package ninep

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"9ci/fs"
)

// Files on disk over a socket: the bytes are the same, also of a file that
// became shorter since it was walked to, and the files are closed.
func TestDisk(t *testing.T) {
	data := make([]byte, 3<<20+777)
	for i := range data {
		data[i] = byte(rand.Int())
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "big")
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	sock := listen(t, &Server{Root: fs.DiskDir(root, "/")})
	dialects(t, func(t *testing.T, d Dialect) {
		conn, err := Dial(t.Context(), sock)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Import(t.Context(), conn, ImportOptions{Dialect: d})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		n := walk(t, c.Root(), "big")
		for range 3 {
			r, err := Stream(t.Context(), n)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, data) {
				t.Errorf("ReadAll = %d bytes, %v, want %d", len(b), err, len(data))
			}
			r.Close()
		}
		f, err := n.Open(t.Context(), fs.OpenRead)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, 100000); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 64<<10)
		m, err := f.ReadAt(t.Context(), p, 50000)
		if err != nil || !bytes.Equal(p[:m], data[50000:100000]) {
			t.Errorf("ReadAt of a shortened file = %d bytes, %v", m, err)
		}
		if m, err := f.ReadAt(t.Context(), p, 100000); m != 0 || err != io.EOF {
			t.Errorf("ReadAt at its end = %d, %v", m, err)
		}
		f.Close()
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
		// A client that goes in the middle leaves nothing open.
		if f, err = n.Open(t.Context(), fs.OpenRead); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			go f.ReadAt(t.Context(), make([]byte, 64<<10), int64(i)<<16)
		}
		f.ReadAt(t.Context(), p, 0)
		conn.Close()
	})
	for deadline := time.Now().Add(20 * time.Second); slices.Contains(openFiles(t), name); {
		if time.Now().After(deadline) {
			t.Fatalf("still open: %q", openFiles(t))
		}
	}
}

func openFiles(t *testing.T) (names []string) {
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			names = append(names, name)
		}
	}
	return names
}
