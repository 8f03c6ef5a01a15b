package web

import (
	"context"
	"fmt"
	"io"
	iofs "io/fs"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"9ci/fs"
	"9ci/fs/ci"
)

// An evilTree is the tree of an orchestrator one of whose executors serves what it likes.
type evilTree struct {
	namespace string
	honest    func(path string) (text string, ok bool) // files of path, below n/EXECUTOR/ci/ID
	dirs      func(path string) bool                   // directories, besides those on the way to files
	read      func(ctx context.Context, path string, p []byte, off int64) (int, error)
	list      func(path string, after uint64, n int) ([]fs.Stat, error)
	size      int64
	target    string
}

type evilNode struct {
	t    *evilTree
	path string
}

// below returns what stands in path behind the run.
func (n evilNode) below() string {
	rest, ok := strings.CutPrefix(n.path, n.t.namespace+"/n/")
	f := strings.SplitN(rest, "/", 4) // EXECUTOR/ci/ID/...
	if !ok || len(f) < 4 {
		return ""
	}
	return f[3]
}

// isFile reports whether the node is a file: the executor says so.
func (n evilNode) isFile() bool {
	return n.path == "status" || strings.HasSuffix(n.path, "/index") || n.below() != "" && !n.t.dirs(n.below())
}

func (n evilNode) Stat(context.Context) (fs.Stat, error) {
	st := fs.Stat{Name: path.Base(n.path), Mode: 0o444, Size: n.t.size, Target: n.t.target, Path: 1}
	if !n.isFile() {
		st.Mode = iofs.ModeDir | 0o555
	}
	return st, nil
}

func (n evilNode) Open(context.Context, fs.OpenMode) (fs.File, error) { return evilFile{n: n}, nil }

func (n evilNode) Walk(_ context.Context, name string) (fs.Node, error) {
	sub := evilNode{n.t, path.Join(n.path, name)}
	if sub.isFile() {
		return struct{ fs.Node }{sub}, nil
	}
	return sub, nil
}

func (n evilNode) ReadDir(_ context.Context, after uint64, count int) ([]fs.Stat, error) {
	return n.t.list(n.path, after, count)
}

type evilFile struct {
	fs.File
	n evilNode
}

func (f evilFile) Close() error { return nil }

func (f evilFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if text, ok := f.n.t.honest(f.n.below()); ok && f.n.below() != "" || f.n.path == "status" || strings.HasSuffix(f.n.path, "/index") {
		switch {
		case f.n.path == "status":
			text = "mode=orchestrator\nnamespace=" + ci.Quote(f.n.t.namespace) + "\n"
		case strings.HasSuffix(f.n.path, "/index"):
			text = strings.Repeat("/n/"+evilExecutor+"/ci/"+testRun+" passed 0 41.200 "+testTime+" - - "+ci.Quote(evilText+strings.Repeat("'+<", 300))+" -\n", 200)
		}
		if off >= int64(len(text)) {
			return 0, io.EOF
		}
		return copy(p, text[off:]), nil
	}
	return f.n.t.read(ctx, f.n.below(), p, off)
}

var evilExecutor = strings.Repeat("x", 255)

// evilPages are the pages that read a run.
func evilPages(ns string) []string {
	at := evilExecutor + "/" + testRun
	return []string{
		"/", "/runs/" + ns, "/runs/" + ns + "?signer=%3Cscript", "/run/" + at + "/" + ns, "/log/" + at + "/test/" + ns, "/log/" + at + "/all/" + ns + "?q=x&from=7",
		"/log/" + at + "/service.db/" + ns, "/tests/" + at + "/" + ns, "/tests/" + at + "/" + ns + "?state=failed&q=x", "/artifacts/" + at + "/" + ns, "/artifacts/" + at + "/" + ns + "?name=a",
		"/artifacts/" + at + "/" + ns + "?name=x.png", "/compare/" + ns, "/compare/" + ns + "?run=" + url.QueryEscape(at), "/compare/" + ns + "?run=" + url.QueryEscape(at) + "&run=" + url.QueryEscape(at),
	}
}

// Whatever an executor serves in the place of a run, each page ends in the time that it has,
// is short, and has no markup but its own.
func TestHostileExecutor(t *testing.T) {
	fill := func(unit string) func(context.Context, string, []byte, int64) (int, error) {
		return func(_ context.Context, _ string, p []byte, off int64) (int, error) {
			for i := range p {
				p[i] = unit[(off+int64(i))%int64(len(unit))]
			}
			return len(p), nil
		}
	}
	short := func(unit string) func(context.Context, string, []byte, int64) (int, error) {
		return func(ctx context.Context, name string, p []byte, off int64) (int, error) {
			if off > 1<<20 {
				return 0, io.EOF
			}
			return fill(unit)(ctx, name, p, off)
		}
	}
	none := func(string) (string, bool) { return "", false }
	// A run as it should be, so that attacks get further than its status.
	honest := func(p string) (string, bool) {
		switch {
		case p == "status", strings.HasPrefix(p, "step/") && strings.HasSuffix(p, "/status"):
			return "passed 0 1.000 " + testTime + "\n", true
		case p == "info", p == "key":
			return "commit=" + ci.Quote(evilText) + "\n", true
		case p == "manifest":
			return strings.Repeat("0", 64) + "  status\n", true
		case p == "manifest.sig":
			return testSignature, true
		case p == "artifacts.mtree":
			return string(ci.FormatMtree(nil)), true
		}
		return "", false
	}
	dirs := func(p string) bool {
		dir, name := path.Split(p)
		return p == "artifacts" || dir == "" && (name == "service" || name == "step") || dir == "service/" || dir == "step/"
	}
	long := strings.Repeat("\u202e"+evilText, 6)[:250]
	endless := func(_ string, after uint64, n int) ([]fs.Stat, error) {
		var all []fs.Stat
		for i := range 5000 { // however many were asked for
			for _, name := range []string{"..", "", "a/b", "a\nb", "\xff", long, evilText} {
				all = append(all, fs.Stat{Name: name, Mode: iofs.FileMode(i%2) << 31, Size: -1, Target: strings.Repeat(evilText, 100*(i%3)), Cookie: 1})
			}
		}
		return all, nil
	}
	bigKey := func(p string) (string, bool) {
		switch p {
		case "info", "key":
			var b strings.Builder
			for i := range 150 {
				fmt.Fprintf(&b, "a%d=%s\n", i, ci.Quote(strings.Repeat(`<>"'&+`, 50)))
			}
			return b.String(), true
		case "tests":
			return strings.Repeat(ci.Quote(strings.Repeat(`<>"'&+`, 80))+" failed 1.000\n", 5000), true
		case "artifacts.mtree":
			var all []ci.Artifact
			for i := range 3000 {
				all = append(all, ci.Artifact{Name: fmt.Sprintf("%s%d", strings.Repeat("<&", 100), i), Mode: iofs.ModeSymlink | 0o777, Link: strings.Repeat("+", 900)})
			}
			return string(ci.FormatMtree(all)), true
		}
		return honest(p)
	}
	state := func(p string) (string, bool) {
		if p == "status" || strings.HasSuffix(p, "/status") {
			return strings.Repeat(`<script>"'&+`, 1000) + " 0 1.000 " + testTime + "\n", true
		}
		return bigKey(p)
	}
	for _, c := range []struct {
		name   string
		honest func(string) (string, bool)
		dirs   func(string) bool
		read   func(context.Context, string, []byte, int64) (int, error)
		size   int64
		ns     string
		shown  int // how many pages can be shown
	}{
		{"endless line", none, dirs, fill("x"), 1 << 62, testSpace, 13},
		{"endless lines", honest, dirs, fill("<b>\x1b[31mline\n"), -1, testSpace, 15},
		{"endless newlines", honest, dirs, fill("\n"), 0, testSpace, 15},
		{"zeros", honest, dirs, fill(strings.Repeat("\x00", 99) + "\n"), 5, testSpace, 15},
		{"tests without an end", honest, dirs, fill("'<b>' failed 1.000\n"), 5, testSpace, 15},
		{"nothing comes", honest, dirs, func(ctx context.Context, _ string, _ []byte, _ int64) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}, 5, testSpace, 7},
		{"a byte a second", honest, dirs, func(ctx context.Context, _ string, p []byte, _ int64) (int, error) {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return 0, ctx.Err()
			}
			p[0] = 'x'
			return 1, nil
		}, 5, testSpace, 7},
		{"no bytes and no end", honest, dirs, func(ctx context.Context, _ string, _ []byte, _ int64) (int, error) {
			select {
			case <-time.After(time.Second): // a peer answers as fast as it likes, but not in no time
			case <-ctx.Done():
			}
			return 0, ctx.Err()
		}, 5, testSpace, 13},
		{"all are directories", honest, func(string) bool { return true }, fill("x"), 5, testSpace, 15},
		{"all are files", honest, func(string) bool { return false }, fill("x"), 5, testSpace, 11},
		{"an error", honest, dirs, func(context.Context, string, []byte, int64) (int, error) {
			return 0, fmt.Errorf("%s", strings.Repeat(evilText, 1000))
		}, 5, testSpace, 6},
		{"big key", bigKey, dirs, short(strings.Repeat("x", 100) + "\n"), 5, testSpace, 15},
		{"big states", state, dirs, short(strings.Repeat("<", 100) + "\n"), 5, testSpace, 15},
		{"long namespace", bigKey, dirs, short(strings.Repeat("<&", 100) + "\n"), 5, "github.com/" + strings.Repeat("a", 200) + "/" + strings.Repeat("b", 200), 15},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _, b := newReadSite(t)
				tree := &evilTree{namespace: c.ns, honest: c.honest, dirs: c.dirs, read: c.read, list: endless, size: c.size, target: ""}
				s.trees.(*testTrees).dirs[alice.Principal] = evilNode{t: tree}
				shown := 0
				for _, target := range evilPages(c.ns) {
					began := time.Now()
					a := b.get(target)
					if took := time.Since(began); took > 2*readTime {
						t.Errorf("GET %.90s took %v", target, took)
					}
					switch a.Code {
					case http.StatusOK:
						shown++
						b.check(target, a)
					case http.StatusNotFound, http.StatusBadGateway, http.StatusGatewayTimeout:
					default:
						t.Errorf("GET %.90s = %d", target, a.Code)
					}
					if len(a.text) > 50_000 {
						t.Errorf("GET %.90s has %d bytes", target, len(a.text))
					}
					if !utf8.ValidString(a.text) || strings.ContainsAny(a.text, "\u202e\x1b\x00") {
						t.Errorf("GET %.90s has control characters", target)
					}
				}
				if shown != c.shown {
					t.Errorf("%d pages could be shown, want %d", shown, c.shown)
				}
			})
		})
	}
}
