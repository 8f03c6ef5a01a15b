package orchestrator

import (
	"context"
	"errors"
	iofs "io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
)

// pageFrom is the address of visitors of the page.
var pageFrom = netip.MustParseAddr("192.0.2.7")

// The page reads the tree as a session of the person would, and without a login what is
// public alone.
func TestPageTree(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		const secret = "github.com/private/secret"
		m.exports("box", hello, open, secret)
		tree := func(principal string) fs.Dir {
			t.Helper()
			root, release, err := m.s.Tree(principal, pageFrom)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(release)
			return root
		}
		alice, none := tree("github:1"), tree("")
		if got := read(t, alice, hello+"/n/box/ci/3f2a9c1d0b7e.1/stdout"); got != "ok 3f2a9c1d0b7e.1\n" {
			t.Errorf("alice reads %q", got)
		}
		if got := read(t, alice, hello+"/index"); !strings.HasPrefix(got, "/n/box/ci/3f2a9c1d0b7e.1 passed ") {
			t.Errorf("the index: %q", got)
		}
		absent := func(who string, root fs.Dir, path string) {
			t.Helper()
			if _, err := fs.Walk(t.Context(), root, path); !errors.Is(err, iofs.ErrNotExist) {
				t.Errorf("%s walks to %s: %v", who, path, err)
			}
		}
		absent("alice", alice, secret+"/status")
		m.book.await("level=WARN msg=refuse ", "key=page:github:1 principal=github:1 addr=192.0.2.7 what=namespace namespace="+secret)
		for _, ns := range []string{hello, open, secret} {
			for _, file := range []string{"/status", "/index", "/event", "/n/box/status", "/ci/" + testCommit} {
				absent("nobody", none, ns+file)
			}
		}
		if got := read(t, none, "status"); strings.Contains(got, "namespace=") {
			t.Errorf("nobody sees %q", got)
		}
		// The executor's commands are its owner's.
		if n, err := fs.Walk(t.Context(), alice, hello+"/n/box/ctl"); err == nil {
			if _, err := n.Open(t.Context(), fs.OpenWrite); !errors.Is(err, iofs.ErrPermission) {
				t.Errorf("the page opens a ctl: %v", err)
			}
		}
		for _, principal := range []string{"token:x", "github:repo:5", "nonsense"} {
			if _, _, err := m.s.Tree(principal, pageFrom); err == nil {
				t.Errorf("%s has a tree", principal)
			}
		}
		if err := os.WriteFile(filepath.Join(m.dir, "public"), []byte(open+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		root, release, err := m.s.Tree("", pageFrom)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		if got := read(t, root, open+"/n/box/ci/3f2a9c1d0b7e.1/stdout"); got != "ok 3f2a9c1d0b7e.1\n" {
			t.Errorf("nobody reads %q of what is public", got)
		}
		absent("nobody", root, hello+"/status")
	})
}

// A visitor without a login that asks for what it may not read has no more lines than other
// strangers, and drowns none of another visitor's.
func TestAuditOfVisitors(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		m.exports("box", hello)
		asks := func(from string) {
			t.Helper()
			root, release, err := m.s.Tree("", netip.MustParseAddr(from))
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			if _, err := fs.Walk(t.Context(), root, hello+"/status"); !errors.Is(err, iofs.ErrNotExist) {
				t.Fatal(err)
			}
		}
		for range 2 * auditBurst {
			asks("192.0.2.66")
		}
		asks("192.0.2.8")
		m.book.await("level=WARN msg=refuse key=public ", "addr=192.0.2.8 what=namespace namespace=github.com/")
		if found, _ := m.book.lines("addr=192.0.2.66 "); len(found) != strangerBurst {
			t.Errorf("%d lines of one visitor, want %d", len(found), strangerBurst)
		}
	})
}

// An executor that does not answer holds a page of its runs for as long as the page waits,
// and no page of the others.
func TestPageOfSilentExecutor(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		const id = "3f2a9c1d0b7e.1"
		good, bad := newTestTree(), newTestTree()
		silent := make(chan struct{})
		bad.delay = func(ctx context.Context, path string) error {
			select {
			case <-silent:
				if strings.HasPrefix(path, "ci/") {
					<-ctx.Done()
				}
			default:
			}
			return ctx.Err()
		}
		for name, tree := range map[string]*testTree{"good": good, "bad": bad} {
			tree.add(id, testCommit, "passed")
			k, _ := m.key("", name)
			l, _ := m.login(k)
			if err := m.exportOn(l, wire.Announce{Name: name, Namespaces: []string{hello}}, tree.root()); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		close(silent)
		p, cookie := newMuxPage(t, m.testMux, "github:1")
		for path, want := range map[string]struct {
			status int
			words  string
			within time.Duration
		}{
			"/runs/" + hello:                            {http.StatusOK, "/run/bad/" + id, time.Second},
			"/run/good/" + id + "/" + hello:             {http.StatusOK, "passed", time.Second},
			"/run/bad/" + id + "/" + hello:              {http.StatusGatewayTimeout, "did not answer in time", 11 * time.Second},
			"/artifacts/bad/" + id + "/" + hello:        {http.StatusGatewayTimeout, "did not answer in time", 11 * time.Second},
			"/tests/bad/" + id + "/" + hello:            {http.StatusGatewayTimeout, "did not answer in time", 11 * time.Second},
			"/badge/" + hello + ".svg":                  {http.StatusNotFound, "unknown", time.Second},
			"/run/absent/" + id + "/" + hello:           {http.StatusNotFound, "no such page", time.Second},
			"/run/good/3f2a9c1d0b7e.77/" + hello:        {http.StatusNotFound, "no such page", time.Second},
			"/run/good/" + id + "/" + secret:            {http.StatusNotFound, "no such page", time.Second},
			"/run/..%2f..%2fstatus/" + id + "/" + hello: {http.StatusNotFound, "no such page", time.Second},
		} {
			began := time.Now()
			w := getPage(p, path, cookie)
			if took := time.Since(began); w.Code != want.status || !strings.Contains(w.Body.String(), want.words) || took > want.within {
				t.Errorf("GET %s = %d in %v, want %d and %q: %s", path, w.Code, took, want.status, want.words, w.Body)
			}
		}
	})
}
