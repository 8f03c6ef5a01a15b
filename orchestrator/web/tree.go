package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access/account"
)

// Trees give the tree that the page reads: the root of all namespaces, as 9P shows it to
// an account.
type Trees interface {
	// Tree returns the tree as a session of a person of that account would see it, or, if
	// a is nil, as everybody may. From is the visitor's address, for the log. The caller
	// calls release when it has read all.
	Tree(ctx context.Context, a *account.Account, from netip.Addr) (root fs.Dir, release func(), err error)
}

// readTime is how long a page waits for executors.
const readTime = 10 * time.Second

// What is read of one file of an executor at most, in bytes: an executor may serve what it
// likes.
const (
	maxText     = 64 << 10 // of status, key and info
	maxIndex    = 64 << 20 // of the index of a namespace
	maxMtree    = 8 << 20  // of artifacts.mtree, which is parsed
	maxManifest = 16 << 20
)

// A place is where a page is in the tree: a namespace, or a run in it.
type place struct {
	Namespace string
	Executor  string // "" for a namespace
	ID        string // the same
}

// parsePlace returns the place that a URL names. The error is errNoPage.
func parsePlace(ns, executor, id string) (place, error) {
	if clean, err := ci.CleanNamespace(ns); err != nil || clean != ns {
		return place{}, errNoPage
	}
	if executor != "" || id != "" {
		if _, err := ci.ParseMuxEvent("/n/" + executor + " leave -"); err != nil || !ci.IsID(id) || executor == "." || executor == ".." {
			return place{}, errNoPage
		}
	}
	return place{ns, executor, id}, nil
}

// place returns the place of a visit.
func (v *visit) place() (place, error) {
	r := v.r
	return parsePlace(r.PathValue("ns"), r.PathValue("executor"), r.PathValue("id"))
}

// Path returns the place's path in the tree, without a slash before it.
func (p place) Path() string {
	if p.ID == "" {
		return p.Namespace
	}
	return p.Namespace + "/n/" + p.Executor + "/ci/" + p.ID
}

// Run returns the name of the run in its namespace: EXECUTOR/ID.
func (p place) Run() string { return p.Executor + "/" + p.ID }

// URL returns the path of a kind of page about the place: /KIND/NAMESPACE, or
// /KIND/EXECUTOR/ID[/MORE...]/NAMESPACE.
func (p place) URL(kind string, more ...string) string {
	b := "/" + kind
	if p.ID != "" {
		b += "/" + url.PathEscape(p.Executor) + "/" + url.PathEscape(p.ID)
	}
	for _, m := range more {
		b += "/" + url.PathEscape(m)
	}
	return b + "/" + (&url.URL{Path: p.Namespace}).EscapedPath()
}

// Runs returns the path of the page of all runs of the place's namespace.
func (p place) Runs() string { return place{Namespace: p.Namespace}.URL("runs") }

// A reading is a visit that reads the tree, with the time that it has.
type reading struct {
	*visit
	ctx  context.Context
	root fs.Dir
}

// read returns a function of a visit that reads the tree. Without a tree there is no page.
// What a visitor without a login does not find may be there for one with a login: they are
// sent to it, for the same page whether there is anything or not.
func (p *Page) read(f func(r *reading) error) func(*visit) error {
	return func(v *visit) error {
		if p.trees == nil {
			return errNoPage
		}
		ctx, cancel := context.WithTimeout(v.r.Context(), readTime)
		defer cancel()
		root, release, err := p.trees.Tree(ctx, v.account, v.from)
		if err != nil {
			return v.unread(err)
		}
		defer release()
		return v.unread(f(&reading{v, ctx, root}))
	}
}

// unread returns what a visitor sees of an error of the tree.
func (v *visit) unread(err error) error {
	absent := errors.Is(err, iofs.ErrNotExist) || err == errNoPage
	switch {
	case err == nil:
		return nil
	case absent && v.account == nil && (v.r.Method == http.MethodGet || v.r.Method == http.MethodHead) && !v.wantsJSON():
		return v.redirect(loginPath(v.r.URL.RequestURI()))
	case absent:
		return errNoPage
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, fs.ErrIO): // the mux has noticed it first, or that it is gone
		return &problem{http.StatusGatewayTimeout, "The executor that has this did not answer in time. Try again in a minute."}
	case v.r.Context().Err() != nil:
		return nil // the visitor has gone
	case errors.As(err, new(*problem)), errors.Is(err, fs.ErrBusy):
		return err
	}
	v.page.note(v.from, slog.LevelWarn, "path", ci.Dash(v.r.Pattern), "err", clip(err.Error()))
	return &problem{http.StatusBadGateway, "The executor that has this serves it in a way that this page cannot show. Another executor may have the same run."}
}

// node returns what stands at a path below the root.
func (r *reading) node(path string) (fs.Node, error) { return fs.Walk(r.ctx, r.root, path) }

// text reads a file of at most max bytes.
func (r *reading) text(path string, max int64) ([]byte, error) {
	n, err := r.node(path)
	if err != nil {
		return nil, err
	}
	return readText(r.ctx, n, max)
}

var errTooLong = errors.New("the file is too long")

func readText(ctx context.Context, n fs.Node, max int64) ([]byte, error) {
	f, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(fs.NewReader(ctx, f), max+1))
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%w: over %d bytes", errTooLong, max)
	}
	return b, err
}

// A runLine is a run of a namespace, as its index has it.
type runLine struct {
	Place place
	ci.IndexLine
}

// parseRunLine reads a line of the index of a namespace: /n/EXECUTOR/ci/ID, and then as in
// an executor's.
func parseRunLine(ns, line string) (runLine, error) {
	path, rest, _ := strings.Cut(line, " ")
	f := strings.Split(path, "/")
	if len(f) != 5 || f[0] != "" || f[1] != "n" || f[3] != "ci" {
		return runLine{}, fmt.Errorf("%.80q is no path of a run", path)
	}
	p, err := parsePlace(ns, f[2], f[4])
	if err != nil {
		return runLine{}, err
	}
	l, err := ci.ParseIndexLine(f[4] + " " + rest)
	return runLine{p, l}, err
}

// eachRun calls f for the runs of a namespace, the newest first, until it returns false. It
// leaves out those whose line has not all the words, for to parse a line takes most of the
// time.
func (r *reading) eachRun(ns string, words []string, f func(runLine) bool) error {
	n, err := r.node(ns + "/index")
	if err != nil {
		return err
	}
	file, err := n.Open(r.ctx, fs.OpenRead)
	if err != nil {
		return err
	}
	defer file.Close()
	for lines := (&lineReader{ctx: r.ctx, f: file}); lines.work < maxIndex; {
		line, err := lines.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if slices.ContainsFunc(words, func(w string) bool { return !bytes.Contains(line, []byte(w)) }) {
			continue
		}
		if l, err := parseRunLine(ns, string(line)); err == nil && !f(l) {
			return nil
		}
	}
	return nil
}
