package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"9ci/fs"
)

// largeStore makes a store in which n runs are indexed. With dirs their
// directories are there too, with nothing in them; without, it stays so only
// while nobody else opens it.
func largeStore(t testing.TB, n int, dirs bool) *Store {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if dirs {
		s.Close()
	} else {
		t.Cleanup(func() { s.Close() })
	}
	var b []byte
	for i := range n {
		r := record{seq: uint64(i + 1), num: uint64(i + 1), state: "passed", took: time.Duration(i) * time.Millisecond,
			start: int64(1700000000 + i), end: int64(1700000010 + i), size: 12345, deflt: true,
			signer: "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", owner: "1.X"}
		r.commit.n, r.tree.n = 20, 20
		binary.BigEndian.PutUint32(r.commit.b[:], uint32(i/3)*2654435761)
		binary.BigEndian.PutUint32(r.tree.b[:], uint32(i/2)*2246822519)
		binary.BigEndian.PutUint32(r.score[:], uint32(i)*3266489917)
		b = r.append(b)
		if !dirs {
			continue
		}
		if err := os.Mkdir(s.runPath(r.id()), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.path("index"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("next"), fmt.Appendln(nil, n+1), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func heapInuse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A store of 100,000 runs costs some 40 MB once, its index included; what its
// clients do with it costs nothing that grows with the runs.
func TestManyRuns(t *testing.T) {
	const n = 100000
	s := largeStore(t, n, false)
	before := heapInuse()
	start := time.Now()
	if _, runs := s.listed(); len(runs) > 0 { // reads the index
		t.Fatal("there are unfinished runs")
	}
	took := time.Since(start)
	open := heapInuse() - before
	t.Logf("read the index: %v, %d bytes a run", took, open/n)
	if open/n > 512 {
		t.Errorf("an open store costs %d bytes a run, want at most 512", open/n)
	}
	root := NewTree(s, nil)
	ci, err := root.Walk(t.Context(), "ci")
	if err != nil {
		t.Fatal(err)
	}
	base := heapInuse()
	flat := func(what string) {
		t.Helper()
		if grown := heapInuse() - base; grown > 1<<20 {
			t.Errorf("%s: the heap grew by %d bytes", what, grown)
		}
	}
	// A hundred clients are each in the midst of a listing and an index.
	var files []fs.File
	cookies := make([]uint64, 100)
	count := 0
	for i := range cookies {
		list, err := ci.(fs.Dir).ReadDir(t.Context(), uint64(i*n/100), 100)
		if err != nil || len(list) != 100 {
			t.Fatalf("ReadDir = %d entries, %v", len(list), err)
		}
		cookies[i] = list[99].Cookie
		f := mustOpen(t, root, "index", fs.OpenRead)
		p := make([]byte, 8192)
		if _, err := f.ReadAt(t.Context(), p, int64(i)*100000); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	flat("a hundred clients")
	start = time.Now()
	for st, err := range fs.Entries(t.Context(), ci.(fs.Dir)) {
		if err != nil {
			t.Fatal(err)
		}
		if count++; count%1000 == 0 {
			if _, err := stat(t, root, "ci/"+st.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("list: %v", time.Since(start))
	if count != n {
		t.Errorf("/ci lists %d runs, want %d", count, n)
	}
	flat("listing all")
	start = time.Now()
	st, err := stat(t, root, "index")
	if err != nil {
		t.Fatal(err)
	}
	c, err := io.Copy(io.Discard, fs.NewReader(t.Context(), files[0]))
	if err != nil || c != st.Size {
		t.Errorf("/index has %d bytes, %v, its Stat says %d", c, err, st.Size)
	}
	t.Logf("index: %d bytes in %v", c, time.Since(start))
	p := make([]byte, 1000)
	if _, err := files[0].ReadAt(t.Context(), p, st.Size/2); err != nil {
		t.Error(err)
	}
	q := make([]byte, 10)
	if _, err := files[0].ReadAt(t.Context(), q, st.Size/2+500); err != nil || !bytes.Equal(q, p[500:510]) {
		t.Errorf("/index reads %q at one offset and %q at the same", q, p[500:510])
	}
	flat("the index")
	start = time.Now()
	for i := range 1000 {
		id := s.index.bySeq[i*97].id()
		if _, err := s.Lookup(id[:12]); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("lookup: %v each", time.Since(start)/1000)
	start = time.Now()
	s.mu.Lock()
	for _, r := range slices.Clone(s.index.bySeq[:1000]) {
		s.index.remove(r)
	}
	s.mu.Unlock()
	t.Logf("remove: %v each", time.Since(start)/1000)
	line, _, _ := strings.Cut(mustRead(t, root, "status"), "\n")
	if line != "mode=-" {
		t.Errorf("status begins with %q", line)
	}
}

// A replay without a daemon opens the store.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{10000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir := largeStore(b, n, true).dir
			b.ReportAllocs()
			for b.Loop() {
				s, err := Open(dir)
				if err != nil {
					b.Fatal(err)
				}
				s.Close()
			}
		})
	}
}

func BenchmarkList100kRuns(b *testing.B) {
	s := largeStore(b, 100000, false)
	ci, _ := NewTree(s, nil).Walk(b.Context(), "ci")
	b.ReportAllocs()
	for b.Loop() {
		for range fs.Entries(b.Context(), ci.(fs.Dir)) {
		}
	}
}
