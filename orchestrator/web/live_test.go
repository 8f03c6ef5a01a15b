package web

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"golang.org/x/net/html"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
)

// A livingSite is a site with a run that goes on, in a store.
type livingSite struct {
	*site
	run   *store.Run
	event fs.Feed
	at    place

	mu    sync.Mutex
	opens map[string]int // of files of the run, by name
}

// counted is a tree that counts what is opened.
type counted struct {
	fs.Dir
	s *livingSite
}

type countedFile struct {
	fs.Node
	s    *livingSite
	name string
}

func (c counted) Walk(ctx context.Context, name string) (fs.Node, error) {
	n, err := c.Dir.Walk(ctx, name)
	if d, ok := n.(fs.Dir); ok {
		return counted{d, c.s}, err
	}
	if err != nil {
		return nil, err
	}
	return countedFile{n, c.s, name}, nil
}

func (c countedFile) Open(ctx context.Context, mode fs.OpenMode) (fs.File, error) {
	c.s.mu.Lock()
	c.s.opens[c.name]++
	c.s.mu.Unlock()
	return c.Node.Open(ctx, mode)
}

// eventNode is the event file of a namespace.
type eventNode struct{ s *livingSite }

type eventFile struct{ feed *fs.Feed }

func (n eventNode) Stat(context.Context) (fs.Stat, error) {
	return fs.FileStat("event", 1, 0, time.Time{}), nil
}
func (n eventNode) Open(context.Context, fs.OpenMode) (fs.File, error) {
	return eventFile{&n.s.event}, nil
}
func (f eventFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return f.feed.ReadAt(ctx, p, off)
}
func (f eventFile) WriteAt(context.Context, []byte, int64) (int, error) { return 0, fs.ErrReadOnly }
func (f eventFile) Close() error                                        { return nil }

// living puts a run that goes on into a site, where alice and everybody may read it.
func living(t testing.TB, s *site) *livingSite {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	x := &livingSite{site: s, opens: map[string]int{}}
	if x.run, err = st.Create("3f2a9c1d0b7e0000000000000000000000000000"); err != nil {
		t.Fatal(err)
	}
	x.at = place{testSpace, "box", x.run.ID()}
	box := fs.Named(store.NewTree(st, nil), "box")
	root := fs.NewDir("", fs.NewDir("github.com", fs.NewDir("alice", fs.NewDir("hello", fs.NewDir("n", box), eventNode{x}))))
	trees := &testTrees{t: t, dirs: map[string]fs.Dir{alice.Principal: counted{root, x}, "": counted{root, x}}}
	s.trees = trees
	t.Cleanup(func() {
		if trees.held != 0 {
			t.Errorf("%d trees were not given back", trees.held)
		}
	})
	return x
}

// do does something to the run, and tells of its state as an orchestrator does.
func (x *livingSite) do(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
	x.event.Write(fmt.Sprintf("/n/box/ci/%s %s\n", x.run.ID(), x.run.Status()))
}

func (x *livingSite) pass(step string) {
	x.t.Helper()
	x.do(x.run.Leave(step, "passed", 0))
}

// say writes to the log of the step that goes on.
func (x *livingSite) say(text string) {
	x.t.Helper()
	if _, err := x.run.Stdout().Write([]byte(text)); err != nil {
		x.t.Fatal(err)
	}
}

// seal ends the run, all steps of which are over.
func (x *livingSite) seal() {
	x.t.Helper()
	x.do(x.run.Seal(x.t.Context(), "passed", 0, nil))
}

// An events is an answer of server-sent events.
type events struct {
	t  testing.TB
	r  *bufio.Reader
	id string // of the last
}

// events asks for what comes of the run.
func (x *livingSite) events(srv *httptest.Server, lastID string) *events {
	x.t.Helper()
	req, err := http.NewRequestWithContext(x.t.Context(), "GET", srv.URL+x.at.URL("live"), nil)
	if err != nil {
		x.t.Fatal(err)
	}
	req.Host = x.url.Host
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	a, err := srv.Client().Do(req)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { a.Body.Close() })
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "text/event-stream" || a.Header.Get("Cache-Control") != "no-store" {
		x.t.Fatalf("%d %v", a.StatusCode, a.Header)
	}
	return &events{t: x.t, r: bufio.NewReader(a.Body)}
}

// next returns the next event: its kind, a blank, and its data.
func (e *events) next() string {
	e.t.Helper()
	var kind, data string
	for {
		line, err := e.r.ReadString('\n')
		if err != nil {
			e.t.Fatalf("%v after %s %s", err, kind, data)
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case name == "id":
			e.id = value
		case name == "event":
			kind = value
		case name == "data":
			data = value
		case name == "" && kind != "":
			return kind + " " + data
		}
	}
}

// A run is followed from its first step to its end, resumed, and read by many at the cost
// of one.
func TestLive(t *testing.T) {
	x := living(t, newSite(t, testURL))
	srv := httptest.NewServer(x.Page)
	t.Cleanup(srv.Close)
	x.do(x.run.Enter("boot"))
	first := x.events(srv, "")
	want := func(e *events, what string) {
		t.Helper()
		if got := e.next(); !strings.HasPrefix(got, what) {
			t.Fatalf("an event %s, want %s", got, what)
		}
	}
	x.say("booting\n")
	x.do(nil)
	want(first, `rows {"step":0,"rows":[{"n":1,"s":[{"t":"booting"}]}]}`)
	x.pass("boot")
	want(first, `step {"step":0,"state":"passed"`)
	x.do(x.run.Leave("clone", "skipped", -1))
	want(first, `step {"step":1,"state":"skipped"`)
	x.do(x.run.Leave("prepare-runtime", "skipped", -1))
	x.do(x.run.Leave("base-image", "skipped", -1))
	want(first, `step {"step":2`)
	want(first, `step {"step":3`)
	x.do(x.run.Enter("test"))
	x.say("one\n\x1b[31m</script><script>\x1b[0m\n")
	want(first, `rows {"step":4,"rows":[{"n":1,"s":[{"t":"one"}]},{"n":2,"s":[{"c":"f1","t":"\u003c/script\u003e\u003cscript\u003e"}]}]}`)
	resume := first.id
	x.say("two\n")
	want(first, `rows {"step":4,"rows":[{"n":3,"s":[{"t":"two"}]}]}`)

	// One that was away gets what it has missed, from the middle of an event too.
	late := x.events(srv, resume)
	want(late, `rows {"step":4,"rows":[{"n":3,"s":[{"t":"two"}]}]}`)
	// One that lies about where it was hurts itself alone.
	for _, id := range []string{"6.999999.5", "9.1.1", "x", "4.1.2", "-1.-1.-1", "4.1.99999999999", strings.Repeat("9", 500)} {
		x.events(srv, id)
	}
	x.say("three\n")
	want(first, `rows {"step":4,"rows":[{"n":4,"s":[{"t":"three"}]}]}`)
	want(late, `rows {"step":4,"rows":[{"n":4,"s":[{"t":"three"}]}]}`)

	// Many at once.
	var many []*events
	for range liveOfOne - 9 {
		many = append(many, x.events(srv, late.id))
	}
	b := x.browser()
	b.addr = "127.0.0.1:1"
	wants(t, "one reader more than an address may have", b.get(x.at.URL("live")), http.StatusTooManyRequests, "too much open")
	x.mu.Lock()
	before := x.opens["log"]
	x.mu.Unlock()
	x.say("four\n")
	for _, e := range append(many, first, late) {
		want(e, `rows {"step":4,"rows":[{"n":5,"s":[{"t":"four"}]}]}`)
	}
	x.mu.Lock()
	if n := x.opens["log"] - before; n > 10 || x.opens["live"] != 1 {
		t.Errorf("a line for %d readers opened log %d times, and live %d times in all", len(many)+2, n, x.opens["live"])
	}
	x.mu.Unlock()

	x.pass("test")
	x.do(x.run.Enter("artifacts"))
	x.pass("artifacts")
	x.do(x.run.Leave("post-test", "skipped", -1))
	x.seal()
	for _, e := range append(many, first) {
		want(e, `step {"step":4,"state":"passed"`)
		want(e, `step {"step":5`)
		want(e, `step {"step":6,"state":"skipped"`)
		want(e, `end {"state":"passed"}`)
		if line, err := e.r.ReadString('\n'); err == nil {
			t.Fatalf("behind the end: %s", line)
		}
	}
	// What is over is told from the beginning to whoever asks.
	again := x.events(srv, "")
	want(again, `rows {"step":0`)
}

// Whoever may not read a run may not follow it.
func TestLiveForbidden(t *testing.T) {
	x := living(t, newSite(t, testURL))
	x.trees.(*testTrees).dirs[""] = fs.NewDir("")
	b := x.browser()
	for _, path := range []string{x.at.URL("live"), place{"github.com/alice/absent", "box", x.run.ID()}.URL("live")} {
		if a := b.get(path); a.Code != http.StatusNotFound {
			t.Errorf("GET %s = %d", path, a.Code)
		}
	}
}

// The browser shows what comes, folds what has passed, and opens what is asked for.
func TestLiveBrowser(t *testing.T) {
	c := startChromium(t, "http", nil)
	x := living(t, c.site)
	x.do(x.run.Enter("boot"))
	x.say("booting\n")
	x.pass("boot")
	x.do(x.run.Leave("clone", "skipped", -1))
	x.do(x.run.Leave("prepare-runtime", "skipped", -1))
	x.do(x.run.Leave("base-image", "skipped", -1))
	x.do(x.run.Enter("test"))
	x.say("before\n")
	c.open(x.at.URL("run"))
	seen := func(xpath string) { t.Helper(); c.run(chromedp.WaitVisible(chromedp.Search(xpath))) }
	seen(`//details[@data-step="test" and @open]//code[text()="before"]`)
	x.say("\x1b[32mafter <b>\x1b[0m\n")
	seen(`//details[@data-step="test"]//span[@class="f2" and text()="after <b>"]`)
	c.run(chromedp.Click(chromedp.CSS(`details[data-step="boot"] summary`)))
	seen(`//details[@data-step="boot"]//code[text()="booting"]`)
	x.pass("test")
	x.do(x.run.Leave("artifacts", "skipped", -1))
	x.do(x.run.Leave("post-test", "skipped", -1))
	x.seal()
	seen(`//p[@id="said"][contains(., "The run has ended: passed.")]`)
	seen(`//details[@data-step="test" and not(@open)]`)
	c.run(chromedp.Click(chromedp.CSS("#said a")))
	seen(`//h2[text()="How to verify"]/following-sibling::pre`)
}

// The end of a live log stays in sight for whoever looks at it, and nothing moves for others.
func TestLiveStaysBrowser(t *testing.T) {
	c := startChromium(t, "http", nil)
	x := living(t, c.site)
	x.do(x.run.Enter("boot"))
	line := 0
	say := func() {
		t.Helper()
		for range 100 {
			line++
			x.say(fmt.Sprintf("line %d\n", line))
		}
		x.do(nil)
		c.run(chromedp.WaitReady(chromedp.Search(fmt.Sprintf(`//details[@data-step="boot"]//code[text()="line %d"]`, line))))
	}
	c.open(x.at.URL("run"))
	say()
	const bottom = `document.querySelector(".log").getBoundingClientRect().bottom`
	c.script(`scrollBy(0, ` + bottom + ` - innerHeight)`)
	for range 3 {
		say()
		c.holds(bottom + ` > 0 && ` + bottom + ` < innerHeight + 50`)
	}
	c.script(`scrollTo(0, 0)`)
	say()
	if y := eval[float64](c, `scrollY`); y != 0 {
		t.Errorf("the page has scrolled to %v", y)
	}
	for _, step := range ci.Steps[1:] {
		x.do(x.run.Leave(step, "skipped", -1))
	}
	x.pass("boot")
	x.seal()
	c.seen(`//p[@id="said"][contains(., "The run has ended: passed.")]`)
}

// No line of a log is more than text.
func FuzzRowHTML(f *testing.F) {
	f.Add("</code></div><script>")
	f.Fuzz(func(t *testing.T, s string) {
		var b bytes.Buffer
		if err := pages["log"].ExecuteTemplate(&b, "row", newRow(1, []byte(s))); err != nil {
			t.Fatal(err)
		}
		doc, err := html.Parse(&b)
		if err != nil {
			t.Fatal(err)
		}
		for n := range doc.Descendants() {
			if n.Type == html.ElementNode && !strings.Contains(" html head body code span i ", " "+n.Data+" ") || n.Type == html.CommentNode {
				t.Fatalf("%q has become <%s>", s, n.Data)
			}
		}
	})
}

// However many readers of one address are behind, another reader does not wait for them.
func TestTurns(t *testing.T) {
	x := &followers{behind: make(chan struct{}, liveBehind)}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var all []func()
	turn := func(ctx context.Context, who string) error {
		done, err := x.turn(ctx, who)
		if err == nil {
			all = append(all, done)
		}
		return err
	}
	for range behindOfOne {
		if err := turn(t.Context(), "many"); err != nil {
			t.Fatal(err)
		}
	}
	if err := turn(ended, "many"); err == nil {
		t.Errorf("one has more than %d turns", behindOfOne)
	}
	for i := range liveBehind - behindOfOne {
		if err := turn(t.Context(), fmt.Sprint("another ", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := turn(ended, "one more"); err == nil {
		t.Errorf("all have more than %d turns", liveBehind)
	}
	for _, done := range all {
		done()
	}
	if len(x.lanes) != 0 || len(x.behind) != 0 {
		t.Errorf("%d lanes and %d turns are left", len(x.lanes), len(x.behind))
	}
}
