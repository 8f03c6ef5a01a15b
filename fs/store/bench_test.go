package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"9ci/fs"
	"9ci/fs/ci"
)

// benchRun seals a run with so many artifacts of so many bytes.
func benchRun(b *testing.B, s *Store, files, size int) string {
	b.Helper()
	src := filepath.Join(b.TempDir(), "src")
	os.Mkdir(src, 0o755)
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for i := range files {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprintf("file%05d", i)), data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	artifacts := tarOf(b, src)
	r, err := s.Create(commitA)
	if err != nil {
		b.Fatal(err)
	}
	r.Enter("artifacts")
	if err := r.AddArtifacts(b.Context(), artifacts); err != nil {
		b.Fatal(err)
	}
	r.Leave("artifacts", "passed", 0)
	if err := r.Seal(b.Context(), "passed", 0, nil); err != nil {
		b.Fatal(err)
	}
	return r.ID()
}

func BenchmarkSealEmpty(b *testing.B) {
	s := newStore(b)
	for b.Loop() {
		quick(b, s, commitA)
	}
}

func BenchmarkSeal1000Files(b *testing.B) {
	s := newStore(b)
	for b.Loop() {
		benchRun(b, s, 1000, 4096)
	}
}

func BenchmarkSeal256MB(b *testing.B) {
	s := newStore(b)
	b.SetBytes(256 << 20)
	for b.Loop() {
		s.Forget(benchRun(b, s, 1, 256<<20))
	}
}

// BenchmarkTar reads the tar of a run in pieces of 64 KiB.
func BenchmarkTar(b *testing.B) {
	for _, bb := range []struct{ files, size int }{{1, 256 << 20}, {10000, 4096}} {
		b.Run(fmt.Sprintf("%dx%d", bb.files, bb.size), func(b *testing.B) {
			s := newStore(b)
			id := benchRun(b, s, bb.files, bb.size)
			f, err := s.openTar(id)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			b.SetBytes(f.t.Size())
			b.ReportAllocs()
			p := make([]byte, 64<<10)
			for b.Loop() {
				for off := int64(0); off < f.t.Size(); {
					n, err := f.ReadAt(b.Context(), p, off)
					if off += int64(n); err != nil && err != io.EOF {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkTarLayout10000(b *testing.B) {
	s := newStore(b)
	id := benchRun(b, s, 10000, 16)
	root, err := os.OpenRoot(s.runPath(id))
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ci.NewLayout(root); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAdopt(b *testing.B) {
	for _, bb := range []struct{ files, size int }{{0, 0}, {1000, 4096}, {1, 256 << 20}} {
		b.Run(fmt.Sprintf("%dx%d", bb.files, bb.size), func(b *testing.B) {
			s := newStore(b)
			var tar bytes.Buffer
			if err := s.WriteTar(context.Background(), &tar, benchRun(b, s, bb.files, bb.size)); err != nil {
				b.Fatal(err)
			}
			to := newStore(b)
			b.SetBytes(int64(tar.Len()))
			for b.Loop() {
				e, err := to.Adopt(b.Context(), bytes.NewReader(tar.Bytes()), nil)
				if err != nil {
					b.Fatal(err)
				}
				to.Forget(e.ID)
			}
		})
	}
}

func BenchmarkListFiles10000(b *testing.B) {
	s := newStore(b)
	id := benchRun(b, s, 10000, 16)
	n, err := fs.Walk(b.Context(), NewTree(s, nil), "ci/"+id+"/artifacts")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c := 0
		for _, err := range fs.Entries(b.Context(), n.(fs.Dir)) {
			if err != nil {
				b.Fatal(err)
			}
			c++
		}
		if c != 10000 {
			b.Fatalf("%d files", c)
		}
	}
}

func BenchmarkStat(b *testing.B) {
	s := newStore(b)
	id := benchRun(b, s, 10, 16)
	for _, name := range []string{"ci/" + id, "ci/" + id + "/stdout", "ci/" + id + "/step/test/log", "ci/" + id + "/artifacts/file00003", "ci/" + commitA} {
		b.Run(filepath.Base(name), func(b *testing.B) {
			root := NewTree(s, nil)
			b.ReportAllocs()
			for b.Loop() {
				n, err := fs.Walk(b.Context(), root, name)
				if err == nil {
					_, err = n.Stat(b.Context())
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpenRead(b *testing.B) {
	s := newStore(b)
	id := benchRun(b, s, 10, 4096)
	n, err := fs.Walk(b.Context(), NewTree(s, nil), "ci/"+id+"/artifacts/file00003")
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 8192)
	b.ReportAllocs()
	for b.Loop() {
		f, err := n.Open(b.Context(), fs.OpenRead)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := f.ReadAt(b.Context(), p, 0); n != 4096 || err != nil {
			b.Fatal(n, err)
		}
		f.Close()
	}
}

func BenchmarkWrite(b *testing.B) {
	s := newStore(b)
	s.MaxOutput = 1 << 60
	r, err := s.Create(commitA)
	if err != nil {
		b.Fatal(err)
	}
	r.Enter("test")
	p := bytes.Repeat([]byte("a line of output as tests print it\n"), 100)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Stdout().Write(p); err != nil {
			b.Fatal(err)
		}
	}
}

// The artifacts of a machine: 20,000 small files.
func BenchmarkAddArtifacts20000(b *testing.B) {
	src := b.TempDir()
	for i := range 20000 {
		if i%100 == 0 {
			os.Mkdir(filepath.Join(src, fmt.Sprint(i/100)), 0o755)
		}
		if err := os.WriteFile(filepath.Join(src, fmt.Sprint(i/100), fmt.Sprint(i)), []byte("small\n"), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	in := tarOf(b, src).(*bytes.Reader)
	s := newStore(b)
	for b.Loop() {
		r, err := s.Create(commitA)
		if err != nil {
			b.Fatal(err)
		}
		in.Seek(0, io.SeekStart)
		if err := r.AddArtifacts(b.Context(), in); err != nil {
			b.Fatal(err)
		}
		if err := r.Discard(); err != nil {
			b.Fatal(err)
		}
	}
}

// A test floods its output in short lines, and a reader follows live. bytes/B is the
// room on disk that each byte takes once the run is sealed.
func BenchmarkLive(b *testing.B) {
	for _, length := range []int{16, 40, 80} {
		b.Run(fmt.Sprintf("lines=%d", length), func(b *testing.B) {
			s := newStore(b)
			s.MaxOutput = 1 << 60
			r, err := s.Create(commitA)
			if err != nil {
				b.Fatal(err)
			}
			live, err := fs.Walk(b.Context(), NewTree(s, nil), "ci/"+r.ID()+"/live")
			if err != nil {
				b.Fatal(err)
			}
			f, err := live.Open(b.Context(), fs.OpenRead)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			line := append(bytes.Repeat([]byte("x"), length-1), '\n')
			p := bytes.Repeat(line, 32<<10/length) // as the guest's messages bring it
			r.Enter("test")
			b.SetBytes(int64(len(p)))
			b.ResetTimer()
			ended := make(chan error, 1)
			go func() {
				n, err := io.Copy(io.Discard, fs.NewReader(b.Context(), f))
				if want := int64(b.N) * int64(len(p)); err == nil && n != want {
					err = fmt.Errorf("live has %d bytes, want %d", n, want)
				}
				ended <- err
			}()
			for range b.N {
				if _, err := r.Stdout().Write(p); err != nil {
					b.Fatal(err)
				}
			}
			r.Leave("test", "passed", 0)
			b.StopTimer()
			if err := r.Seal(b.Context(), "passed", 0, nil); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := <-ended; err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			n, err := blocks(s.runPath(r.ID()))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(n)/float64(b.N*len(p)), "bytes/B")
		})
	}
}

// blocks returns how many bytes of the disk the files below dir take.
func blocks(dir string) (n int64, err error) {
	seen := make(map[uint64]bool)
	err = filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if st := fi.Sys().(*syscall.Stat_t); !seen[st.Ino] {
			seen[st.Ino] = true
			n += st.Blocks * 512
		}
		return nil
	})
	return n, err
}
