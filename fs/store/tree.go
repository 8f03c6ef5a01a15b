package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	iofs "io/fs"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/internal/disk"
)

// A Control is the executor behind a tree.
type Control interface {
	// Command does run, or cancel of a run that has not ended, whose id is
	// c.Run. It returns the reply: for run, the id of a run that can be
	// walked to. The tree has checked that the User of ctx may write.
	Command(ctx context.Context, c ci.Command) (reply string, err error)

	// Status returns the attributes of /status. The tree counts running, queued
	// and kept where they are not among them.
	Status() ci.Attrs

	// Head returns the head of the repository last named, its tree, and
	// its ancestors, nearest first.
	Head(ctx context.Context) (commit, tree string, ancestors []string, err error)
}

// A Holder is a Control that can hold the machine of a run. The ctl of a run
// offers hold only where its Control is one.
type Holder interface {
	// Hold keeps the machine of the run for d after the run has failed, or
	// for d from now on where it has.
	Hold(ctx context.Context, id string, d time.Duration) error

	// Held returns the attributes of the file hold of a run, or nil if its
	// machine neither is held nor would be if the run failed.
	Held(id string) ci.Attrs

	// LastHeld returns the id of the run that has failed last of those whose
	// machines are held, or "".
	LastHeld() string
}

// NewTree returns the tree ci(4) of a store, as package ci describes it. With a
// nil Control it is read-only: no ctl can be written, and there is neither head
// nor green.
func NewTree(s *Store, c Control) fs.Dir {
	t := &tree{s: s, c: c, opened: time.Now()}
	return t.root()
}

type tree struct {
	s      *Store
	c      Control
	opened time.Time
}

// statusOrder is the order of the attributes in /status, all of which are
// there.
var statusOrder = []string{"mode", "version", "arch", "accel", "coreos", "memory", "cpus",
	"running", "queued", "kept", "orchestrator"}

// plainRuns is how many runs /ci lists to a client without links: 9pfuse loses
// entries of long listings.
const plainRuns = 40

func (t *tree) root() fs.Dir {
	q := fs.RootQid
	hidden := map[string]fs.Node{"event": eventFile{t, q.Child("event")}}
	listed := []fs.Node{
		artifactsDir{t, q.Child("artifacts")},
		ciDir{t, q.Child("ci")},
		fs.Ctl{Name: "ctl", Qid: q.Child("ctl"), Manual: ci.CtlManual, Do: t.command, ReadOnly: t.c == nil, ModTime: t.opened},
		indexFile{t, q.Child("index")},
		fs.Text{Name: "status", Qid: q.Child("status"), Make: t.status, ModTime: t.changed},
	}
	return t.fixed("/", q, listed, hidden, t.changed)
}

// fixed returns a directory with the entries listed, and hidden ones that can
// be walked to. An Anonymous User finds no ctl.
func (t *tree) fixed(name string, q fs.Qid, listed []fs.Node, hidden map[string]fs.Node, mtime func() time.Time) fs.Dir {
	return fs.SynthDir{
		Describe: func() (fs.Stat, error) { return fs.DirStat(name, q, mtime()), nil },
		List: func(ctx context.Context) ([]fs.Node, error) {
			if !fs.UserOf(ctx).Anonymous {
				return listed, nil
			}
			return slices.DeleteFunc(slices.Clone(listed), isCtl), nil
		},
		Find: func(ctx context.Context, name string) (fs.Node, error) {
			if n, ok := hidden[name]; ok {
				return n, nil
			}
			for _, n := range listed {
				if isCtl(n) && fs.UserOf(ctx).Anonymous {
					continue
				}
				if nodeName(n) == name {
					return n, nil
				}
			}
			return nil, iofs.ErrNotExist
		},
	}
}

func isCtl(n fs.Node) bool {
	_, ok := n.(fs.Ctl)
	return ok
}

// nodeName returns the name of a node of the tree, without asking its Stat.
func nodeName(n fs.Node) string {
	switch n := n.(type) {
	case fs.Ctl:
		return n.Name
	case fs.Text:
		return n.Name
	case indexFile:
		return "index"
	case ciDir:
		return "ci"
	case artifactsDir:
		return "artifacts"
	}
	panic(fmt.Sprintf("store: %T is no node of ci(4)", n))
}

// changed returns when a run was last made, changed or removed.
func (t *tree) changed() time.Time {
	if c := t.s.lastChange(); c.After(t.opened) {
		return c
	}
	return t.opened
}

// status returns the text of /status.
func (t *tree) status(context.Context) ([]byte, error) {
	var have ci.Attrs
	if t.c != nil {
		have = t.c.Status()
	}
	sealed, runs := t.s.listed()
	running, queued := 0, 0
	for _, r := range runs {
		if r.Status().State == "queued" {
			queued++
		} else {
			running++
		}
	}
	all := ci.Attrs{}
	for _, name := range statusOrder {
		all = append(all, ci.Attr{Name: name, Value: "-"})
	}
	all = all.With(
		ci.Attr{Name: "running", Value: strconv.Itoa(running)},
		ci.Attr{Name: "queued", Value: strconv.Itoa(queued)},
		ci.Attr{Name: "kept", Value: strconv.Itoa(len(sealed))},
	).With(have...)
	return all.Text(), nil
}

// A ciDir is /ci.
type ciDir struct {
	t *tree
	q fs.Qid
}

func (d ciDir) Stat(context.Context) (fs.Stat, error) {
	return fs.DirStat("ci", d.q, d.t.changed()), nil
}

func (d ciDir) Open(context.Context, fs.OpenMode) (fs.File, error) { return nil, fs.ErrIsDir }

func (d ciDir) Walk(ctx context.Context, name string) (fs.Node, error) {
	if id, ok := strings.CutSuffix(name, ".tar"); ok {
		e, err := d.t.lookup(ctx, id)
		if err != nil {
			return nil, disk.Bare(err)
		}
		if e.Run != nil {
			return nil, iofs.ErrNotExist // there is no tar of it yet
		}
		return tarNode{d.t, e.ID, name, d.q.Child(name)}, nil
	}
	e, err := d.t.lookup(ctx, name)
	if err != nil {
		return nil, disk.Bare(err)
	}
	if e.ID == name {
		return runDir{d.t, e.ID, d.q.Child(name)}, nil
	}
	run := runDir{d.t, e.ID, d.q.Child(name)}
	return alias{name, e.ID, run, run}, nil
}

func (d ciDir) ReadDir(ctx context.Context, after uint64, n int) ([]fs.Stat, error) {
	return d.t.runs(ctx, after, n, func(id string, vers uint32, mtime time.Time) fs.Stat {
		st := fs.DirStat(id, d.q.Child(id), mtime)
		st.Version = vers
		return st
	})
}

// runs lists the runs behind the cookie after, in the order in which they were
// made or adopted: a run's place stays the same when it is sealed.
func (t *tree) runs(ctx context.Context, after uint64, n int, stat func(id string, vers uint32, mtime time.Time) fs.Stat) ([]fs.Stat, error) {
	sealed, runs := t.s.listed()
	first := uint64(0)
	if fs.Linkless(ctx) {
		first = t.s.newest(plainRuns)
	}
	after = max(after, first)
	i := sort.Search(len(sealed), func(i int) bool { return sealed[i].seq > after })
	j := sort.Search(len(runs), func(j int) bool { return runs[j].seq > after })
	var list []fs.Stat
	for len(list) < n && (i < len(sealed) || j < len(runs)) {
		var st fs.Stat
		if j == len(runs) || i < len(sealed) && sealed[i].seq < runs[j].seq {
			r := sealed[i]
			st = stat(r.id(), r.vers(), time.Unix(r.end, 0))
			st.Cookie = r.seq
			i++
		} else {
			r := runs[j]
			st = stat(r.id, 0, r.Status().Time)
			st.Cookie = r.seq
			j++
		}
		list = append(list, st)
	}
	return list, nil
}

// An artifactsDir is /artifacts, which lists an alias for each run.
type artifactsDir struct {
	t *tree
	q fs.Qid
}

func (d artifactsDir) Stat(context.Context) (fs.Stat, error) {
	return fs.DirStat("artifacts", d.q, d.t.changed()), nil
}

func (d artifactsDir) Open(context.Context, fs.OpenMode) (fs.File, error) { return nil, fs.ErrIsDir }

func (d artifactsDir) Walk(ctx context.Context, name string) (fs.Node, error) {
	e, err := d.t.lookup(ctx, name)
	if err != nil {
		return nil, disk.Bare(err)
	}
	run := runDir{d.t, e.ID, d.q.Child(name)}
	return alias{name, "../ci/" + name + "/artifacts", d.t.artifacts(e.ID, run.q), run}, nil
}

func (d artifactsDir) ReadDir(ctx context.Context, after uint64, n int) ([]fs.Stat, error) {
	return d.t.runs(ctx, after, n, func(id string, _ uint32, mtime time.Time) fs.Stat {
		return aliasStat(id, "../ci/"+id+"/artifacts", d.q.Child(id), mtime)
	})
}

// An alias is a symbolic link to a directory of the tree, and that directory
// with qid.paths of its own.
type alias struct {
	name   string
	target string
	dir    fs.Dir
	run    runDir // whose time it has, and the alias's own Qid
}

func aliasStat(name, target string, q fs.Qid, mtime time.Time) fs.Stat {
	st := fs.DirStat(name, q, mtime)
	st.Mode |= iofs.ModeSymlink
	st.Target = target
	return st
}

func (a alias) Stat(ctx context.Context) (fs.Stat, error) {
	st, err := a.run.Stat(ctx)
	if err != nil {
		return fs.Stat{}, err
	}
	return aliasStat(a.name, a.target, a.run.q, st.ModTime), nil
}

func (a alias) Open(context.Context, fs.OpenMode) (fs.File, error) { return nil, fs.ErrIsDir }

func (a alias) Walk(ctx context.Context, name string) (fs.Node, error) { return a.dir.Walk(ctx, name) }

func (a alias) ReadDir(ctx context.Context, after uint64, n int) ([]fs.Stat, error) {
	return a.dir.ReadDir(ctx, after, n)
}

// An eventFile is /event.
type eventFile struct {
	t *tree
	q fs.Qid
}

func (f eventFile) Stat(context.Context) (fs.Stat, error) {
	return fs.FileStat("event", f.q, 0, f.t.changed()), nil
}

func (f eventFile) Open(_ context.Context, mode fs.OpenMode) (fs.File, error) {
	if mode != fs.OpenRead {
		return nil, iofs.ErrPermission
	}
	f.t.s.watchIndex()
	f.t.s.listed() // what the index got before is no change
	// A change between the two stands there twice, rather than never.
	from := f.t.s.events.End()
	_, runs := f.t.s.listed()
	var b []byte
	for _, r := range runs {
		b = append(b, ci.FormatEvent(r.id, r.Status())+"\n"...)
	}
	return openEvent{fs.ByteFile(b), f.t.s.events, from}, nil
}

// An openEvent is a text, and behind it what a feed has from an offset on.
type openEvent struct {
	fs.ByteFile
	feed *fs.Feed
	from int64
}

func (f openEvent) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if n := int64(len(f.ByteFile)); off >= n {
		return f.feed.ReadAt(ctx, p, f.from+off-n)
	}
	return f.ByteFile.ReadAt(ctx, p, off)
}

// An indexFile is /index: a line for each run, newest first. The lines are made
// as they are read, of the runs that there were at the open.
type indexFile struct {
	t *tree
	q fs.Qid
}

func (f indexFile) Stat(context.Context) (fs.Stat, error) {
	return fs.FileStat("index", f.q, f.t.s.indexLen(), f.t.changed()), nil
}

func (f indexFile) Open(_ context.Context, mode fs.OpenMode) (fs.File, error) {
	if mode != fs.OpenRead {
		return nil, iofs.ErrPermission
	}
	sealed, runs := f.t.s.listed()
	x := &openIndex{sealed: sealed}
	for _, r := range runs {
		x.runs = append(x.runs, indexLine{r.seq, r.entry().line().Append(nil)})
	}
	return x, nil
}

type openIndex struct {
	fs.ByteFile
	sealed []*record
	runs   []indexLine // of those that have not ended

	mu sync.Mutex // guards what follows
	at indexMark  // where the last read ended
}

type indexLine struct {
	seq  uint64
	text []byte
}

// An indexMark is an offset where a line begins, and how many sealed and other
// runs have lines before it.
type indexMark struct {
	off  int64
	i, j int
}

func (f *openIndex) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	f.mu.Lock()
	at := f.at
	f.mu.Unlock()
	if off < at.off {
		at = indexMark{}
	}
	var line []byte
	for n < len(p) {
		next, size, text := at, 0, []byte(nil)
		i, j := len(f.sealed)-1-at.i, len(f.runs)-1-at.j
		switch {
		case i < 0 && j < 0:
			if n == 0 {
				return 0, io.EOF
			}
			return n, nil
		case i < 0 || j >= 0 && f.runs[j].seq > f.sealed[i].seq:
			text = f.runs[j].text
			size = len(text)
			next.j++
		default:
			size = f.sealed[i].lineLen()
			if off+int64(n) < at.off+int64(size) {
				line = f.sealed[i].line().Append(line[:0])
				text = line
			}
			next.i++
		}
		next.off += int64(size)
		if pos := off + int64(n); pos < next.off {
			if n += copy(p[n:], text[pos-at.off:]); off+int64(n) < next.off {
				break // p is full in the middle of a line
			}
		}
		at = next
	}
	f.mu.Lock()
	f.at = at
	f.mu.Unlock()
	return n, nil
}

// line returns the run's line of /index.
func (e Entry) line() ci.IndexLine {
	return ci.IndexLine{ID: e.ID, Status: e.Status, Tree: e.Tree, Commit: e.Commit, Signer: e.Signer, Score: e.Score}
}

// line returns the run's line of /index.
func (r *record) line() ci.IndexLine {
	return ci.IndexLine{
		ID:     r.id(),
		Status: r.status(),
		Tree:   r.tree.String(),
		Commit: r.commit.String(),
		Signer: r.signer,
		Score:  hex.EncodeToString(r.score[:]),
	}
}

// lineLen returns the length of the run's line of /index. It is asked of every
// run when that file is first looked at.
func (r *record) lineLen() int {
	const digits = "0000000000000000000000000000000000000000000000000000000000000000"
	var id [32]byte
	l := ci.IndexLine{
		ID:     string(ci.AppendID(id[:0], r.commit.b[:], r.num)),
		Status: r.status(),
		Tree:   digits[:2*r.tree.n],
		Commit: digits[:2*r.commit.n],
		Signer: r.signer,
		Score:  digits[:2*len(r.score)],
	}
	var buf [512]byte
	return len(l.Append(buf[:0]))
}

// vers returns the qid.vers of a sealed run.
func (r *record) vers() uint32 {
	return uint32(r.score[0])<<24 | uint32(r.score[1])<<16 | uint32(r.score[2])<<8 | uint32(r.score[3]) | 1
}

// indexLen returns the length of /index.
func (s *Store) indexLen() int64 {
	s.mu.Lock()
	s.refresh()
	n, runs := s.index.text(), s.runs
	s.mu.Unlock()
	for _, r := range runs {
		n += int64(len(r.entry().line().Append(nil)))
	}
	return n
}

// newest returns the seq of the run behind which there are n, or 0.
func (s *Store) newest(n int) uint64 {
	for r, run := range newestFirst(s.listed()) {
		if n--; n >= 0 {
			continue
		}
		if r != nil {
			return r.seq
		}
		return run.seq
	}
	return 0
}

// lastChange returns when a run of the store was last changed, as far as this
// process has seen.
func (s *Store) lastChange() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	if e := s.events.LastWrite(); e.After(s.index.changed) {
		return e
	}
	return s.index.changed
}
