package orchestrator

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	iofs "io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
)

// A testTree is an executor's tree in memory: files by their path, and an event
// file. Its directories are what the paths make.
type testTree struct {
	mu     sync.Mutex
	files  map[string]string
	links  map[string]string
	grows  map[string]bool // files whose open files see what is added
	events []string
	more   chan struct{}
	writes []string // "path: text"
	user   fs.User  // of the last write
	delay  func(ctx context.Context, path string) error
	feeds  map[string]*fs.Feed // files that block, by path
	reads  map[string]int      // of those
}

// feed gives the tree a file that blocks.
func (t *testTree) feed(path string) *fs.Feed {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.feeds == nil {
		t.feeds, t.reads = map[string]*fs.Feed{}, map[string]int{}
	}
	t.feeds[path] = &fs.Feed{}
	t.files[path] = ""
	return t.feeds[path]
}

// read returns how often a file that blocks has been read.
func (t *testTree) read(path string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reads[path]
}

const (
	testCommit = "3f2a9c1d0b7e5566778899aabbccddeeff001122"
	testHash   = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	testScore  = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

func newTestTree() *testTree {
	return &testTree{files: map[string]string{"index": "", "ctl": "the manual\n", "status": "mode=run\n"}, links: map[string]string{}, grows: map[string]bool{}, more: make(chan struct{})}
}

// testKey returns the key of a run of a commit.
func testKey(commit string) ci.Attrs {
	return ci.Attrs{{Name: "arch", Value: "amd64"}, {Name: "commit", Value: commit}, {Name: "coreos", Value: "debian-12/1"},
		{Name: "env", Value: ""}, {Name: "target", Value: "test"}, {Name: "version", Value: "1"}}
}

// add gives the tree a run and tells of it.
func (t *testTree) add(id, commit, state string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	code := "-"
	if state == "passed" {
		code = "0"
	} else if state == "failed" {
		code = "1"
	}
	status := fmt.Sprintf("%s %s 41.250 2026-11-24T21:00:00Z", state, code)
	t.files["ci/"+id+"/key"] = string(testKey(commit).Text())
	t.files["ci/"+id+"/status"] = status + "\n"
	t.files["ci/"+id+"/stdout"] = "ok " + id + "\n"
	t.files["ci/"+id+"/wait"] = status + "\n"
	t.files["ci/"+id+"/artifacts/size"] = "42\n"
	score, signer := testScore, "'alice 1'"
	if code == "-" {
		score, signer = "-", "-"
	}
	rest := strings.Split(t.files["index"], "\n")
	rest = slices.DeleteFunc(rest, func(l string) bool { return strings.HasPrefix(l, id+" ") })
	t.files["index"] = fmt.Sprintf("%s %s %s %s %s %s\n", id, status, testHash, commit, signer, score) + strings.Join(rest, "\n")
	t.events = append(t.events, id+" "+status+"\n")
	close(t.more)
	t.more = make(chan struct{})
}

// grow adds text to a file that may change or, if it does not go on, may not after.
func (t *testTree) grow(path, text string, goesOn bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.files[path] += text
	t.grows[path] = goesOn
}

func (t *testTree) root() fs.Dir { return &testDir{t: t} }

type testDir struct {
	t    *testTree
	path string
}

func (d *testDir) kind(p string) string {
	d.t.mu.Lock()
	defer d.t.mu.Unlock()
	if _, ok := d.t.files[p]; ok || p == "event" {
		return "file"
	}
	if _, ok := d.t.links[p]; ok {
		return "link"
	}
	for f := range d.t.files {
		if strings.HasPrefix(f, p+"/") {
			return "dir"
		}
	}
	return ""
}

func (d *testDir) Stat(context.Context) (fs.Stat, error) {
	return fs.Stat{Name: path.Base("/" + d.path), Mode: iofs.ModeDir | 0o555, Path: testQid(d.path)}, nil
}

func testQid(p string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, p)
	return h.Sum64() >> 8
}

func (d *testDir) Open(context.Context, fs.OpenMode) (fs.File, error) { return nil, fs.ErrIsDir }

func (d *testDir) Walk(ctx context.Context, name string) (fs.Node, error) {
	p := path.Join(d.path, name)
	if d.t.delay != nil {
		if err := d.t.delay(ctx, p); err != nil {
			return nil, err
		}
	}
	switch d.kind(p) {
	case "file", "link":
		return &testFile{t: d.t, path: p}, nil
	case "dir":
		return &testDir{t: d.t, path: p}, nil
	}
	return nil, iofs.ErrNotExist
}

func (d *testDir) ReadDir(ctx context.Context, after uint64, n int) ([]fs.Stat, error) {
	d.t.mu.Lock()
	names := map[string]bool{}
	for _, m := range []map[string]string{d.t.files, d.t.links} {
		for f := range m {
			if rest, ok := strings.CutPrefix("/"+f, path.Join("/", d.path, "x")[:len(path.Join("/", d.path, "x"))-1]); ok {
				name, _, _ := strings.Cut(rest, "/")
				names[name] = true
			}
		}
	}
	d.t.mu.Unlock()
	var sts []fs.Stat
	for name := range names {
		n, err := d.Walk(ctx, name)
		if err != nil {
			return nil, err
		}
		st, _ := n.Stat(ctx)
		sts = append(sts, st)
	}
	slices.SortFunc(sts, func(a, b fs.Stat) int { return strings.Compare(a.Name, b.Name) })
	for i := range sts {
		sts[i].Cookie = uint64(i + 1)
	}
	sts = sts[min(int(after), len(sts)):]
	return sts[:min(n, len(sts))], nil
}

type testFile struct {
	t    *testTree
	path string
	told int
	rest string
	text string
}

func (f *testFile) Stat(context.Context) (fs.Stat, error) {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	st := fs.Stat{Name: path.Base(f.path), Mode: 0o444, Size: int64(len(f.t.files[f.path])), Path: testQid(f.path), ModTime: time.Unix(1, 0), Version: 1}
	if f.path == "event" || f.path == "ctl" || f.path == "index" || f.t.grows[f.path] || f.t.feeds[f.path] != nil {
		st.Version = 0
	}
	if f.path == "ctl" {
		st.Mode = 0o666
	}
	if to, ok := f.t.links[f.path]; ok {
		st.Mode, st.Target = iofs.ModeSymlink|0o777, to
	}
	return st, nil
}

func (f *testFile) Open(context.Context, fs.OpenMode) (fs.File, error) {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	return &testFile{t: f.t, path: f.path, text: f.t.files[f.path]}, nil
}

func (f *testFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	for f.path == "event" {
		f.t.mu.Lock()
		for ; f.told < len(f.t.events); f.told++ {
			f.rest += f.t.events[f.told]
		}
		more := f.t.more
		f.t.mu.Unlock()
		if f.rest != "" {
			n := copy(p, f.rest)
			f.rest = f.rest[n:]
			return n, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	f.t.mu.Lock()
	if f.t.grows[f.path] {
		f.text = f.t.files[f.path]
	}
	feed := f.t.feeds[f.path]
	if feed != nil {
		f.t.reads[f.path]++
	}
	f.t.mu.Unlock()
	if feed != nil {
		return feed.ReadAt(ctx, p, off)
	}
	if off >= int64(len(f.text)) {
		return 0, io.EOF
	}
	return copy(p, f.text[off:]), nil
}

func (f *testFile) WriteAt(ctx context.Context, p []byte, _ int64) (int, error) {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	f.t.writes = append(f.t.writes, f.path+": "+string(p))
	f.t.user = fs.UserOf(ctx)
	return len(p), nil
}

func (f *testFile) Close() error { return nil }
