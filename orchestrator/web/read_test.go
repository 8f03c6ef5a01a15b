package web

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
	"golang.org/x/net/html"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access/account"
)

const (
	testSpace = "github.com/alice/hello"
	testRun   = "3f2a9c1d0b7e.1"
	evilText  = `<script>alert(1)</script><img src=x onerror=alert(2)>"'&`
)

// testTrees are trees on disk: one for each account, and one for everybody.
type testTrees struct {
	t testing.TB

	mu   sync.Mutex
	dirs map[string]fs.Dir // by principal; "" for everybody
	held int               // trees that were not given back
}

func (x *testTrees) Tree(_ context.Context, a *account.Account, _ netip.Addr) (fs.Dir, func(), error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	principal := ""
	if a != nil {
		principal = a.Principal
	}
	d, ok := x.dirs[principal]
	if !ok {
		d = fs.NewDir("", fs.TextFile("status", func(context.Context) ([]byte, error) { return []byte("mode=orchestrator\n"), nil }))
	}
	x.held++
	return d, func() { x.mu.Lock(); x.held--; x.mu.Unlock() }, nil
}

// A testTree is a tree as an orchestrator serves it, on disk.
type testTree struct {
	t   testing.TB
	dir string
}

func newTestTree(t testing.TB) *testTree { return &testTree{t, t.TempDir()} }

func (x *testTree) root() fs.Dir {
	x.t.Helper()
	root, err := os.OpenRoot(x.dir)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { root.Close() })
	return fs.DiskDir(root, "")
}

func (x *testTree) write(path, text string) {
	x.t.Helper()
	path = filepath.Join(x.dir, path)
	err := os.MkdirAll(filepath.Dir(path), 0o777)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o666)
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

const testTime = "2026-11-24T21:04:05Z"

// index writes the index of the namespace.
func (x *testTree) index(lines ...string) {
	x.write("status", "mode=orchestrator\nnamespace="+testSpace+"\n")
	x.write(testSpace+"/index", strings.Join(lines, "\n")+"\n")
}

// indexLine returns a line of it.
func indexLine(n int, state, signer string) string {
	return fmt.Sprintf("/n/box%d/ci/%012x.1 %s 0 41.200 %s - %040x %s -", n%10, n, state, testTime, n, ci.Quote(signer))
}

// testSignature is a signature of any manifest, by testSigner.
var testSignature, testSigner = func() (sig, signer string) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		panic(err)
	}
	made, err := sshsig.Sign(strings.NewReader("any"), s, sshsig.HashSHA512, "run@9ci")
	if err != nil {
		panic(err)
	}
	return string(sshsig.Armor(made)), ssh.FingerprintSHA256(s.PublicKey())
}()

// run writes a finished run of box, and returns its path in the tree.
func (x *testTree) run(id, state string, more map[string]string) string {
	dir := testSpace + "/n/box/ci/" + id
	files := map[string]string{
		"status":       state + " 0 41.200 " + testTime + "\n",
		"info":         "id=" + id + "\ncommit=3f2a9c1d0b7e0000000000000000000000000000\n",
		"key":          "arch=amd64\ncommit=3f2a9c1d0b7e0000000000000000000000000000\nenv=''\ntarget=test\n",
		"manifest":     strings.Repeat("0", 64) + "  status\n",
		"manifest.sig": testSignature,
		"log":          "",
	}
	for _, step := range ci.Steps {
		files["step/"+step+"/status"] = "passed 0 1.000 " + testTime + "\n"
		files["step/"+step+"/log"] = ""
	}
	for name, text := range more {
		files[name] = text
	}
	for name, text := range files {
		x.write(dir+"/"+name, text)
	}
	return dir
}

// logLines returns n lines of a log.
func logLines(n int, text func(i int) string) string {
	var b []byte
	for i := range n {
		b = ci.LogLine{Time: time.Unix(1, 0), Stream: "stdout", Full: true, Text: []byte(text(i + 1))}.Append(b)
	}
	return string(b)
}

// newReadSite returns a site whose tree alice sees, and a browser of hers.
func newReadSite(t testing.TB) (*site, *testTree, *browser) {
	t.Helper()
	s, x := newSite(t, testURL), newTestTree(t)
	x.index(indexLine(1, "passed", "SHA256:alice"))
	trees := &testTrees{t: t, dirs: map[string]fs.Dir{alice.Principal: x.root()}}
	s.trees = trees
	t.Cleanup(func() {
		if trees.held != 0 {
			t.Errorf("%d trees were not given back", trees.held)
		}
	})
	b := s.browser()
	b.login(alice, "")
	return s, x, b
}

// page gets a page and parses it as a browser does. It fails where something untrusted has
// become more than text.
func (b *browser) page(target string) (*html.Node, answer) {
	b.s.t.Helper()
	a := b.get(target)
	return b.check(target, a), a
}

// check is page of an answer.
func (b *browser) check(target string, a answer) *html.Node {
	b.s.t.Helper()
	if a.Code != http.StatusOK {
		b.s.t.Fatalf("GET %s = %d: %s", target, a.Code, a.text)
	}
	if n := len(a.text); n > 50_000 {
		b.s.t.Errorf("GET %s has %d bytes, want 50000 at most", target, n)
	}
	if a.Header().Get("Cache-Control") != "no-store" {
		b.s.t.Errorf("GET %s: Cache-Control %s", target, a.Header().Get("Cache-Control"))
	}
	doc, err := html.Parse(strings.NewReader(a.text))
	if err != nil {
		b.s.t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		src := attr(n, "src")
		switch {
		case n.Data == "script" && !strings.HasPrefix(src, "/log-") && !strings.HasPrefix(src, "/passkey-"),
			n.Data == "img" && !strings.HasPrefix(src, "/raw/"),
			n.Data == "iframe", n.Data == "style", n.Data == "base":
			b.s.t.Errorf("GET %s has a <%s> %v", target, n.Data, n.Attr)
		}
		for _, a := range n.Attr {
			if strings.HasPrefix(a.Key, "on") || a.Key == "style" || a.Key == "href" && !strings.HasPrefix(a.Val, "/") && !strings.HasPrefix(a.Val, "#") && !strings.HasPrefix(a.Val, "?") {
				b.s.t.Errorf("GET %s has <%s %s=%q>", target, n.Data, a.Key, a.Val)
			}
		}
	}
	return doc
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// all returns the elements of a page that f wants.
func all(doc *html.Node, f func(n *html.Node) bool) (found []*html.Node) {
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode && f(n) {
			found = append(found, n)
		}
	}
	return found
}

func words(n *html.Node) string {
	var b strings.Builder
	for n := range n.Descendants() {
		if n.Type == html.TextNode {
			b.WriteString(n.Data)
		}
	}
	return b.String()
}

// tags returns the elements of a name.
func tags(doc *html.Node, name string) []*html.Node {
	return all(doc, func(n *html.Node) bool { return n.Data == name })
}

func links(doc *html.Node) (hrefs []string) {
	for _, n := range tags(doc, "a") {
		hrefs = append(hrefs, attr(n, "href"))
	}
	return hrefs
}

func hasLink(t testing.TB, doc *html.Node, href string) {
	t.Helper()
	for _, l := range links(doc) {
		if l == href {
			return
		}
	}
	t.Errorf("no link %s: %q", href, links(doc))
}

func TestNamespaces(t *testing.T) {
	s, x, b := newReadSite(t)
	x.write("status", "mode=orchestrator\nnamespace=github.com/alice/hello\nnamespace='git.example.org/a/b+c%20d'\nnamespace="+ci.Quote(evilText)+"\n")
	doc, _ := b.page("/")
	hasLink(t, doc, "/runs/github.com/alice/hello")
	hasLink(t, doc, "/runs/git.example.org/a/b+c%2520d")
	if strings.Contains(words(doc), "alert") {
		t.Error("what is no namespace is listed")
	}
	if doc, _ := b.page("/?q=HELL"); len(all(doc, func(n *html.Node) bool { return n.Data == "li" && strings.HasPrefix(words(n), "git") })) != 1 {
		t.Error("a search by name")
	}
	if a := s.browser().get("/"); a.Code != http.StatusSeeOther || a.Header().Get("Location") != "/login?next=%2F" {
		t.Errorf("GET / without a login = %d %s", a.Code, a.Header().Get("Location"))
	}
	// Where there is something public, a visitor searches it as all do.
	s.trees.(*testTrees).dirs[""] = x.root()
	if doc, _ := s.browser().page("/?q=absent"); !strings.Contains(words(doc), "No namespace that you see has that") {
		t.Errorf("a search that finds nothing, without a login: %s", words(doc))
	}
}

// What is absent and what is forbidden look alike, with a login and without.
func TestReadForbidden(t *testing.T) {
	s, x, _ := newReadSite(t)
	x.run(testRun, "passed", nil)
	other, none := s.browser(), s.browser()
	other.login(bob, "")
	for _, path := range []string{"/runs/%s", "/run/box/" + testRun + "/%s", "/log/box/" + testRun + "/test/%s", "/artifacts/box/" + testRun + "/%s", "/raw/box/" + testRun + "/%s?name=x", "/rev/last/%s"} {
		var texts []string
		for _, ns := range []string{testSpace, "github.com/alice/absent"} {
			p := fmt.Sprintf(path, ns)
			a := other.get(p)
			if a.Code != http.StatusNotFound {
				t.Errorf("GET %s by another = %d", p, a.Code)
			}
			texts = append(texts, a.text)
			n := none.get(p)
			if n.Code != http.StatusSeeOther || n.Header().Get("Location") != "/login?next="+url.QueryEscape(p) || safeNext(p) != p {
				t.Errorf("GET %s without a login = %d %s", p, n.Code, n.Header().Get("Location"))
			}
		}
		if texts[0] != texts[1] {
			t.Errorf("%s: absent and forbidden differ:\n%s\n%s", path, texts[0], texts[1])
		}
	}
}

func TestRuns(t *testing.T) {
	_, x, b := newReadSite(t)
	var lines []string
	for i := range 250 {
		state := "passed"
		if i%50 == 7 {
			state = "failed"
		}
		lines = append(lines, indexLine(1000-i, state, "SHA256:abcdefghijklmnopqrstuvwxyzabcdefghijklmnopq"))
	}
	lines[3] = "/n/box/ci/no-id passed 0 1.000 - - - - -"
	lines[4] = "/n/box/ci/" + testRun + " test - 3.000 " + testTime + " - - " + ci.Quote(evilText) + " -"
	x.index(lines...)
	rows := func(doc *html.Node) []*html.Node { return tags(doc, "tr") }
	doc, _ := b.page("/runs/" + testSpace)
	if n := len(rows(doc)); n != 101 {
		t.Errorf("%d rows", n)
	}
	hasLink(t, doc, "/run/box/"+testRun+"/"+testSpace)
	hasLink(t, doc, "?from=100")
	if doc, _ := b.page("/runs/" + testSpace + "?from=200"); len(rows(doc)) != 50 {
		t.Errorf("%d rows on the third page", len(rows(doc)))
	}
	if doc, _ := b.page("/runs/" + testSpace + "?from=9999"); !strings.Contains(words(doc), "no older runs") {
		t.Error("behind the last run, the page says that there is none")
	}
	for query, want := range map[string]int{
		"state=failed": 5, "state=running": 1, "state=nonsense": 100, "rev=" + fmt.Sprintf("%040x", 999): 1, "signer=SHA256:abc": 100,
		"signer=" + url.QueryEscape("<script>"): 1, "rev=ffff": 0, "from=9999": 0, "from=-1": 100,
	} {
		doc, _ := b.page("/runs/" + testSpace + "?" + query)
		if n := max(0, len(rows(doc))-1); n != want {
			t.Errorf("%s: %d runs, want %d", query, n, want)
		}
	}
}

// A run whose every word is of somebody else.
func TestRun(t *testing.T) {
	_, x, b := newReadSite(t)
	x.run(testRun, "failed", map[string]string{
		"key":              "commit=" + ci.Quote(evilText) + "\ntarget=" + ci.Quote("javascript:alert(1)") + "\n",
		"info":             "commit=" + ci.Quote(evilText) + "\nhost=" + ci.Quote(evilText) + "\nimage=" + ci.Quote("\u202e"+evilText+"/image") + "\n",
		"step/test/log":    logLines(500, func(i int) string { return fmt.Sprint(i, " \x1b[31m", evilText, "\x1b]0;x\x07") }),
		"step/test/status": "failed 1 3.000 " + testTime + "\n",
	})
	doc, a := b.page("/run/box/" + testRun + "/" + testSpace)
	var open []string
	for _, n := range tags(doc, "details") {
		for _, at := range n.Attr {
			if at.Key == "open" {
				open = append(open, attr(n, "data-step"))
			}
		}
	}
	if fmt.Sprint(open) != "[test]" {
		t.Errorf("open steps: %v", open)
	}
	hasLink(t, doc, "/log/box/"+testRun+"/test/"+testSpace+"?from=500#L500")
	text := words(doc)
	for _, want := range []string{"500 ", evilText, "javascript:alert(1)", "\ufffd" + evilText + "/image", "ssh-keygen -Y verify -n run@9ci", "ssh ci.example.org cat " + testSpace + "/n/box/ci/" + testRun + ".tar", "names 1 file.", testSigner, "sshfs ci.example.org:/" + testSpace + "/n/box/ci/" + testRun + " DIR"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	if strings.ContainsAny(a.text, "\x1b\x07") {
		t.Error("the page has control characters")
	}
	if n := len(all(doc, func(n *html.Node) bool { return n.Data == "span" && attr(n, "class") == "f1" })); n == 0 {
		t.Error("the log has no colour")
	}
}

// A run that goes on has a status and some logs.
func TestUnfinishedRun(t *testing.T) {
	_, x, b := newReadSite(t)
	dir := testSpace + "/n/box/ci/" + testRun
	x.write(dir+"/status", "clone - 3.000 "+testTime+"\n")
	x.write(dir+"/step/boot/status", "passed 0 2.000 "+testTime+"\n")
	x.write(dir+"/step/clone/status", "running - 1.000 "+testTime+"\n")
	x.write(dir+"/step/clone/log", logLines(2, func(i int) string { return fmt.Sprint("line ", i) }))
	doc, a := b.page("/run/box/" + testRun + "/" + testSpace)
	size := len(logLines(2, func(i int) string { return fmt.Sprint("line ", i) }))
	live := all(doc, func(n *html.Node) bool { return attr(n, "data-live") != "" })
	if len(live) != 1 || attr(live[0], "data-live") != fmt.Sprintf("/live/box/%s/%s?at=1.3.%d", testRun, testSpace, size) {
		t.Errorf("live: %s", a.text)
	}
	if !strings.Contains(words(doc), "not sealed yet") {
		t.Error("a run that goes on can be verified")
	}
}

// A log of 100,000 lines: its pages, a search, and what the script reads.
func TestLog(t *testing.T) {
	_, x, b := newReadSite(t)
	x.run(testRun, "passed", map[string]string{"step/test/log": logLines(100_000, func(i int) string {
		if i == 77_777 {
			return "A Needle <b>here</b>"
		}
		return fmt.Sprintf("%d %s", i, strings.Repeat("x", 80))
	})})
	at := "/log/box/" + testRun + "/test/" + testSpace
	doc, _ := b.page(at)
	hasLink(t, doc, "#L1")
	hasLink(t, doc, at+"?from=99751")
	lines := func(doc *html.Node) []*html.Node {
		return all(doc, func(n *html.Node) bool { return strings.HasPrefix(attr(n, "id"), "L") })
	}
	n := len(lines(doc))
	hasLink(t, doc, fmt.Sprintf("%s?from=%d", at, n+1))
	doc, _ = b.page(at + "?from=50000")
	if got := lines(doc); len(got) < 100 || attr(got[0], "id") != "L50000" || !strings.HasPrefix(words(got[0]), "5000050000 xxx") {
		t.Errorf("from line 50000: %d lines, %s", len(got), words(got[0]))
	}
	doc, _ = b.page(at + "?from=99990")
	if got := lines(doc); len(got) != 11 {
		t.Errorf("the last lines: %d", len(got))
	}
	doc, _ = b.page(at + "?q=needle")
	hasLink(t, doc, at+"?from=77777#L77777")
	if doc, _ = b.page(at + "?q=" + url.QueryEscape(evilText)); !strings.Contains(words(doc), evilText) {
		t.Error("a search for what is not there")
	}
	if doc, _ = b.page(at + "?q=xxx&from=500"); len(all(doc, func(n *html.Node) bool {
		return n.Data == "a" && strings.HasPrefix(words(n), "Search on from line 600")
	})) != 1 {
		t.Error("a search that finds too much does not go on")
	}
	b.page(at + "?from=999999999999999")
	a := b.do("GET", at+"?from=100000", "application/json", "")
	if a.text != `{"rows":[{"n":100000,"s":[{"t":"100000 `+strings.Repeat("x", 80)+`"}]}],"next":0}` {
		t.Errorf("by JSON: %s", a.text)
	}
	// Lines that are all markup stay below the size of a page.
	x.write(testSpace+"/n/box/ci/"+testRun+"/step/boot/log", logLines(3000, func(i int) string { return strings.Repeat("\x1b[31m<\x1b[32m>", 1000) })+"no log line "+evilText+"\nno newline")
	b.page(strings.Replace(at, "/test/", "/boot/", 1))
	b.page("/run/box/" + testRun + "/" + testSpace)
}

// Artifacts with names and contents of somebody who wants our origin.
func TestArtifacts(t *testing.T) {
	s, x, b := newReadSite(t)
	dir := x.run(testRun, "passed", nil) + "/artifacts/"
	png := "\x89PNG\r\n\x1a\n" + strings.Repeat("\x00", 20)
	evil := `"><script>alert(1)<` + "\u202e" + `.html`
	for name, text := range map[string]string{
		evil: "<script>alert(1)</script>", "a/b/deep.txt": "one\n\x1b[31m" + evilText + "\n", "x.png": png, "fake.png": "<html><script>alert(1)</script>",
		"x.svg": `<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>`, "index.html": evilText, "javascript:alert(1)": "x", "data.bin": "\x00\x01", "?name=x&y#z%2f": "odd",
	} {
		x.write(dir+name, text)
	}
	for name, to := range map[string]string{"link": "/etc/passwd", "up": "..", "dir": "a"} {
		if err := os.Symlink(to, filepath.Join(x.dir, dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	at, raw := "/artifacts/box/"+testRun+"/"+testSpace, "/raw/box/"+testRun+"/"+testSpace
	doc, _ := b.page(at)
	q := func(name string) string { return "?name=" + url.QueryEscape(name) }
	for _, name := range []string{evil, "a", "x.png", "javascript:alert(1)", "?name=x&y#z%2f"} {
		hasLink(t, doc, at+q(name))
		b.page(at + q(name))
	}
	if text := words(doc); !strings.Contains(text, "link → /etc/passwd") {
		t.Errorf("the link: %s", text)
	}
	doc, _ = b.page(at + q("a/b/deep.txt"))
	hasLink(t, doc, at+q("a/b"))
	if !strings.Contains(words(doc), evilText) {
		t.Error("a text is not shown")
	}
	if doc, _ := b.page(at + q("x.png")); len(tags(doc, "img")) != 1 {
		t.Error("a picture is not shown")
	}
	for _, name := range []string{"fake.png", "x.svg", "index.html"} {
		if doc, _ := b.page(at + q(name)); len(tags(doc, "img")) != 0 {
			t.Errorf("%s is shown as a picture", name)
		}
	}
	for name, want := range map[string]string{
		"x.png": "image/png inline; filename=x.png", "fake.png": "application/octet-stream attachment; filename=fake.png",
		"x.svg": "application/octet-stream attachment; filename=x.svg", "index.html": "application/octet-stream attachment; filename=index.html",
		"x.png&download=1": "image/png",
	} {
		target := raw + "?name=" + name
		a := b.get(target)
		got := a.Header().Get("Content-Type") + " " + a.Header().Get("Content-Disposition")
		if name == "x.png&download=1" {
			want = "application/octet-stream attachment; filename=x.png"
		}
		if a.Code != http.StatusOK || got != want {
			t.Errorf("GET %s = %d %s, want %s", target, a.Code, got, want)
		}
		for key, want := range map[string]string{"Content-Security-Policy": rawPolicy, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin"} {
			if got := a.Header().Get(key); got != want {
				t.Errorf("GET %s: %s: %s", target, key, got)
			}
		}
	}
	if a := b.get(raw + q(evil)); a.Code != http.StatusOK || a.text != "<script>alert(1)</script>" || strings.ContainsAny(a.Header().Get("Content-Disposition"), "<>\u202e") {
		t.Errorf("the evil name: %d %v", a.Code, a.Header())
	}
	b.header.Set("Range", "bytes=1-2")
	if a := b.get(raw + q("index.html")); a.Code != http.StatusPartialContent || a.text != evilText[1:3] {
		t.Errorf("a range: %d %q", a.Code, a.text)
	}
	b.header.Del("Range")
	for _, name := range []string{"..", "../status", "a/../../status", "/etc/passwd", "a//b", "a/", ".", "link", "up/status", "dir/b/deep.txt", "link/x", "a\x00b", "x\ny", strings.Repeat("x/", 40000), "x.png/y", "no such"} {
		if a := b.get(raw + q(name)); a.Code != http.StatusNotFound {
			t.Errorf("GET raw %q = %d %s", name, a.Code, a.text)
		}
	}
	for _, path := range []string{"/raw/../" + testRun + "/" + testSpace, "/run/box/..%2f..%2fstatus/" + testSpace, "/run/%2e%2e/" + testRun + "/" + testSpace, "/run/a%2fb/" + testRun + "/" + testSpace, "/runs/github.com/../../etc", "/runs/github.com/alice/hello/n/box", "/runs/GitHub.com/alice/hello", "/log/box/" + testRun + "/..%2f..%2fmanifest/" + testSpace, "/log/box/" + testRun + "/nostep/" + testSpace, "/rev/..%2fx/" + testSpace} {
		if a := b.get(path); a.Code != http.StatusNotFound && a.Code != http.StatusMovedPermanently && a.Code != http.StatusTemporaryRedirect {
			t.Errorf("GET %s = %d", path, a.Code)
		}
	}
	if n := strings.Count(s.log.String(), "level=ERROR"); n != 0 {
		t.Errorf("the log has errors:\n%s", s.log)
	}
}

// brokenDir is a tree whose executor does not answer.
type brokenDir struct{ fs.Dir }

func (brokenDir) Walk(ctx context.Context, _ string) (fs.Node, error) {
	return nil, context.DeadlineExceeded
}

func TestExecutorSilent(t *testing.T) {
	s, x, b := newReadSite(t)
	s.trees.(*testTrees).dirs[alice.Principal] = brokenDir{x.root()}
	if a := b.get("/runs/" + testSpace); a.Code != http.StatusGatewayTimeout || !strings.Contains(a.text, "did not answer") {
		t.Errorf("%d %s", a.Code, a.text)
	}
}

// A visitor that asks again and again for what goes wrong does not fill the log.
func TestNotesAreBounded(t *testing.T) {
	s, x, b := newReadSite(t)
	x.run(testRun, "passed", map[string]string{"status": "no status\n"})
	lines := func() int { return strings.Count(s.log.String(), "msg=page path=") }
	for range 3 * notesOf {
		for _, path := range []string{"/run/box/" + testRun + "/" + testSpace, "/live/box/" + testRun + "/" + testSpace} {
			if a := b.get(path); a.Code != http.StatusBadGateway {
				t.Fatalf("%s: %d", path, a.Code)
			}
		}
	}
	if n := lines(); n != notesOf {
		t.Errorf("%d lines of one address, want %d", n, notesOf)
	}
	other := s.browser()
	other.addr = "198.51.100.7:1"
	s.trees.(*testTrees).dirs[""] = brokenIndex{x.root()}
	if a := other.get("/badge/" + testSpace + ".svg"); a.Code != http.StatusServiceUnavailable {
		t.Errorf("the badge: %d", a.Code)
	}
	if n := lines(); n != notesOf+1 {
		t.Errorf("%d lines with another address, want %d", n, notesOf+1)
	}
}

// brokenIndex is a tree of which nothing can be read.
type brokenIndex struct{ fs.Dir }

func (brokenIndex) Walk(context.Context, string) (fs.Node, error) { return nil, fs.ErrBusy }

func TestLineReader(t *testing.T) {
	text := "one\n" + strings.Repeat("x", 3*ci.MaxLogLine) + "\n" + strings.Repeat("short\n", 40000) + "part"
	r := &lineReader{ctx: t.Context(), f: fs.ByteFile(text)}
	var b bytes.Buffer
	for {
		off := r.off
		line, err := r.next()
		if err != nil {
			break
		}
		if len(line) > ci.MaxLogLine || off != int64(b.Len()) {
			t.Fatalf("a line of %d bytes at %d, want it at %d", len(line), off, b.Len())
		}
		b.Write(line)
		if r.off > int64(b.Len()) {
			b.WriteByte('\n')
		}
	}
	if b.String() != strings.TrimSuffix(text, "part") {
		t.Errorf("%d bytes, want %d", b.Len(), len(text)-4)
	}
	m := &marks{stride: 2, at: []int64{0}}
	for i := 2; i < 100_000; i++ {
		m.note(i, int64(10*(i-1)))
	}
	if n, off := m.before(77_777); off != int64(10*(n-1)) || n > 77_777 || n < 77_777-m.stride || len(m.at) > maxMarks+1 {
		t.Errorf("before(77777) = %d, %d; stride %d, %d marks", n, off, m.stride, len(m.at))
	}
}

// A page of 100 runs of a namespace with 1,000 of them.
func BenchmarkRuns(b *testing.B) {
	_, x, br := newReadSite(b)
	var lines []string
	for i := range 1000 {
		lines = append(lines, indexLine(i, "passed", "SHA256:abcdefghijklmnopqrstuvwxyzabcdefghijklmnopq"))
	}
	x.index(lines...)
	for b.Loop() {
		if a := br.get("/runs/" + testSpace); a.Code != http.StatusOK {
			b.Fatal(a.Code)
		}
	}
}

// Commands have the port of the ssh server where it is another than 22, and quote what a shell
// would read.
func TestSSHCommands(t *testing.T) {
	at := place{"github.com/alice/hello", "a box", testRun}
	for _, tt := range []struct {
		ssh        sshServer
		cat, mount string
	}{
		{sshServer{"ci.example.org", 22}, "ssh ci.example.org cat 'github.com/alice/hello/n/a box/ci/" + testRun + ".tar' | tar -xp\n", "sshfs 'ci.example.org:/github.com/alice/hello/n/a box/ci/" + testRun + "' DIR"},
		{sshServer{"2001:db8::1", 2222}, "ssh -p 2222 2001:db8::1 cat '", "sshfs -p 2222 '[2001:db8::1]:/"},
	} {
		x := runView{Place: at, SSH: tt.ssh}
		if got := x.Commands(); !strings.HasPrefix(got, tt.cat) {
			t.Errorf("Commands at %v = %q, want %q first", tt.ssh, got, tt.cat)
		}
		if got := x.Mount(); !strings.HasPrefix(got, tt.mount) {
			t.Errorf("Mount at %v = %q, want %q first", tt.ssh, got, tt.mount)
		}
	}
}
