package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkDisk does what a client does to a small file on disk, once a round.
func BenchmarkDisk(b *testing.B) {
	dir := b.TempDir()
	os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755)
	for _, name := range []string{"f", "a/b/c/f"} {
		os.WriteFile(filepath.Join(dir, name), make([]byte, 4096), 0o644)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	p := make([]byte, 8192)
	for depth, name := range []string{"f", "a/b/c/f"} {
		d, err := Walk(b.Context(), DiskDir(root, "d"), filepath.Dir(name))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("walk-stat-%d", 3*depth), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n, err := d.(Dir).Walk(b.Context(), "f")
				if err == nil {
					_, err = n.Stat(b.Context())
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		n, _ := d.(Dir).Walk(b.Context(), "f")
		b.Run(fmt.Sprintf("open-read-%d", 3*depth), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f, err := n.Open(b.Context(), OpenRead)
				if err != nil {
					b.Fatal(err)
				}
				if n, err := f.ReadAt(b.Context(), p, 0); n != 4096 || err != nil {
					b.Fatal(n, err)
				}
				f.Close()
			}
		})
	}
}
