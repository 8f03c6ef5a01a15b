package orchestrator

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access/account"
	"9ci/orchestrator/web"
)

// pageTrees are a mux's trees, as its page has them.
type pageTrees struct{ s *Server }

func (x pageTrees) Tree(_ context.Context, a *account.Account, from netip.Addr) (fs.Dir, func(), error) {
	if a == nil {
		return x.s.Tree("", from)
	}
	return x.s.Tree(a.Principal, from)
}

// newMuxPage returns the page of a mux, and the cookie of a person there.
func newMuxPage(t testing.TB, m *testMux, principal string) (*web.Page, *http.Cookie) {
	t.Helper()
	accounts, err := account.Open(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := accounts.Enter(account.Person{Principal: principal, Name: "Alice"}, "github.com", nil); err != nil {
		t.Fatal(err)
	}
	secret, err := accounts.NewSession(principal, "github.com", "192.0.2.7", "test")
	if err != nil {
		t.Fatal(err)
	}
	p, err := web.New(web.Options{URL: "https://ci.example.org", Accounts: accounts, Authority: m.s.Authority(), Trees: pageTrees{m.s}})
	if err != nil {
		t.Fatal(err)
	}
	return p, &http.Cookie{Name: "__Host-9ci", Value: secret}
}

func getPage(p http.Handler, path string, cookie *http.Cookie) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "https://ci.example.org"+path, nil)
	r.RemoteAddr = "192.0.2.7:1"
	if cookie != nil {
		r.AddCookie(cookie)
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

// awaitRuns waits until the directory knows of n runs in a namespace.
func awaitRuns(d *localDirectory, ns string, n int) {
	for {
		d.mu.Lock()
		sp := d.space(ns)
		if sp.changed == nil {
			sp.changed = make(chan struct{})
		}
		changed, known := sp.changed, 0
		for _, sh := range sp.shares {
			known += len(sh.runs)
		}
		d.mu.Unlock()
		if known >= n {
			return
		}
		<-changed
	}
}

// What the server needs for a page of a hundred runs with 1000 executors connected, each of
// a hundred runs; ORCHESTRATOR_RUNS is another number of these. While the pages are made,
// runs go on: an event of one comes for each page.
func BenchmarkPage(b *testing.B) {
	runs := 100
	if s := os.Getenv("ORCHESTRATOR_RUNS"); s != "" {
		runs, _ = strconv.Atoi(s)
	}
	const n, principal = 1000, "github:1"
	m := &testMux{t: b, dir: filepath.Join(b.TempDir(), "state"), home: b.TempDir()}
	m.start(listen(b), Options{People: newTestForge()})
	if err := os.WriteFile(filepath.Join(m.dir, "public"), []byte(hello+"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	_, file := m.key("", "fleet")
	startProcess(b, "runs", m.addr, m.hosts, strconv.Itoa(n), strconv.Itoa(runs), file)
	awaitRuns(m.s.dir.(*localDirectory), hello, n*runs)
	p, cookie := newMuxPage(b, m, principal)
	shares := m.s.dir.shares(hello)
	next := 0
	change := func() {
		next++
		shares[next%n].update(fmt.Sprintf("%012x.1", next), ci.Status{State: "test", Code: -1, Took: time.Second, Time: time.Now()})
	}
	for _, c := range []struct {
		name, path string
		cookie     *http.Cookie
		words      string
	}{
		{"Runs", "/runs/" + hello, cookie, "<tr"},
		{"RunsPublic", "/runs/" + hello, nil, "<tr"},
		{"Run", "/run/box.1/3f2a9c1d0b7e.1/" + hello, cookie, "How to verify"},
		{"Namespaces", "/", cookie, hello},
		{"Search", "/runs/" + hello + "?rev=fffffff", cookie, "No run is like that"},
		{"Badge", "/badge/" + hello + ".svg", nil, "passed"},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				change()
				w := getPage(p, c.path, c.cookie)
				if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), c.words) || c.words == "<tr" && strings.Count(w.Body.String(), "<tr") != 101 {
					b.Fatalf("GET %s = %d: %s", c.path, w.Code, w.Body)
				}
			}
			under(b, b.Elapsed().Seconds()*1e3/float64(b.N), 10, "ms/page")
		})
	}
}
