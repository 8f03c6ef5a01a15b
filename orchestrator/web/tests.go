package web

import (
	"errors"
	"io"
	iofs "io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
)

// What pages have of the tests of a run, and of its services.
const (
	maxTests    = 16 << 20 // bytes of the file tests that are read
	fewTests    = 2 << 20  // the same, for the page of a run
	perTests    = 250      // tests of a page
	maxFailed   = 30       // tests that failed, on the page of a run
	failedRoom  = 3 << 10  // bytes of HTML of these
	maxServices = 20       // on the page of a run
)

// A testLine is a line of the file tests of a run.
type testLine struct {
	Name, State string
	Took        time.Duration // negative if it is not known
}

// testStates are those that a test can have.
var testStates = []string{"passed", "failed", "skipped"}

// parseTestLine reads a line of tests: name, state, seconds.
func parseTestLine(line string) (t testLine, ok bool) {
	w, err := ci.SplitWords(line)
	if err != nil || len(w) != 3 || w[0] == "" || !slices.Contains(testStates, w[1]) {
		return t, false
	}
	t = testLine{Name: clip(visible(w[0])), State: w[1]}
	t.Took, err = ci.ParseSeconds(w[2])
	return t, err == nil
}

// size returns about how many bytes of HTML the row of a test has.
func (t testLine) size() int { return 130 + htmlSize(t.Name) }

// A testCount is how many tests there are of each state.
type testCount struct{ Passed, Failed, Skipped int }

// Any reports whether there are any tests.
func (c testCount) Any() bool { return c.Passed+c.Failed+c.Skipped > 0 }

func (c *testCount) add(t testLine) {
	switch t.State {
	case "passed":
		c.Passed++
	case "failed":
		c.Failed++
	case "skipped":
		c.Skipped++
	}
}

// eachTest calls f for the tests of a run. If a run has no file tests, or a line of it is
// none, there are none. Cut reports that the file has more than most bytes.
func (r *reading) eachTest(at place, most int64, f func(testLine)) (cut bool, err error) {
	n, err := r.node(at.Path() + "/tests")
	if err != nil {
		return false, err
	}
	file, err := n.Open(r.ctx, fs.OpenRead)
	if err != nil {
		return false, err
	}
	defer file.Close()
	for lines := (&lineReader{ctx: r.ctx, f: file}); ; {
		line, err := lines.next()
		switch {
		case err == io.EOF:
			return false, nil
		case err != nil:
			return false, err
		case lines.work > most:
			return true, nil
		}
		if t, ok := parseTestLine(string(line)); ok {
			f(t)
		}
	}
}

// A testsView is the page of the tests of a run, or what the page of a run has of them.
type testsView struct {
	Place  place
	Count  testCount
	Cut    bool // there are more, which were not read
	Tests  []testLine
	More   bool
	Query  string
	State  string
	From   int // how many tests like these come before those of the page
	States []string
}

// On returns the query of the tests from one on.
func (x testsView) On(from int) string {
	v := url.Values{}
	for name, s := range map[string]string{"q": x.Query, "state": x.State} {
		if s != "" {
			v.Set(name, s)
		}
	}
	if from > 0 {
		v.Set("from", strconv.Itoa(from))
	}
	return "?" + v.Encode()
}

func (x testsView) Next() string { return x.On(x.From + len(x.Tests)) }
func (x testsView) Back() string { return x.On(x.From - perTests) }

// tests shows the tests of a run.
func (p *Page) tests(r *reading) error {
	at, err := r.place()
	if err != nil {
		return err
	}
	q := r.r.URL.Query()
	x := testsView{Place: at, Query: clip(strings.TrimSpace(q.Get("q"))), State: q.Get("state"), States: testStates}
	if !slices.Contains(testStates, x.State) {
		x.State = ""
	}
	if n, err := strconv.Atoi(q.Get("from")); err == nil && n > 0 && n < 1<<30 {
		x.From = n
	}
	skip, room, want := x.From, pageRoom, strings.ToLower(x.Query)
	x.Cut, err = r.eachTest(at, maxTests, func(t testLine) {
		x.Count.add(t)
		switch {
		case x.State != "" && t.State != x.State, !strings.Contains(strings.ToLower(t.Name), want):
		case skip > 0:
			skip--
		case len(x.Tests) == perTests || room < 0:
			x.More = true
		default:
			x.Tests = append(x.Tests, t)
			room -= t.size()
		}
	})
	if err != nil {
		return err
	}
	return r.render(http.StatusOK, "tests", "Tests", x)
}

// failed returns what the page of a run has of its tests: those that failed.
func (r *reading) failed(at place) (*testsView, error) {
	x, room := &testsView{Place: at}, failedRoom
	var err error
	x.Cut, err = r.eachTest(at, fewTests, func(t testLine) {
		x.Count.add(t)
		switch {
		case t.State != "failed":
		case len(x.Tests) == maxFailed || room < 0:
			x.More = true
		default:
			x.Tests = append(x.Tests, t)
			room -= t.size()
		}
	})
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	return x, err
}

// A serviceView is a service of a run: its name, and the URL of its log.
type serviceView struct{ Name, URL string }

// servicePrefix is what the name of a service has before it where the name of a step may
// stand in a URL.
const servicePrefix = "service."

// services returns the first services of a run that has any.
func (r *reading) services(at place) (some []serviceView, more bool, err error) {
	n, err := r.node(at.Path() + "/service")
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	d, ok := n.(fs.Dir)
	if !ok {
		return nil, false, nil
	}
	all, err := d.ReadDir(r.ctx, 0, maxServices+1)
	if err != nil {
		return nil, false, err
	}
	room := failedRoom
	for _, st := range all {
		if len(some) == maxServices || room < 0 {
			return some, true, nil
		}
		if st.IsDir() && isService(st.Name) {
			s := serviceView{visible(st.Name), at.URL("log", servicePrefix+st.Name)}
			some = append(some, s)
			room -= htmlSize(s.Name) + len(s.URL) + 30
		}
	}
	return some, false, nil
}

// isService reports whether a service may have that name.
func isService(name string) bool {
	return fs.CheckPlain(name) == nil && !strings.Contains(name, "/") && name != "." && name != ".."
}
