package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/wire"
)

// A directory knows which executors export which namespace, and which runs they
// have. The mux learns of executors from it alone. LocalDirectory is the one of a
// single process; several nodes can share another. The executor of a share or a
// run that a directory has returned may have left since.
type directory interface {
	// join makes the namespaces of a what m exports, and counts it as a new
	// generation. Signer is the fingerprint that a proves, or "". It returns the
	// shares that are new; they end when ctx is done. It names m as announced or,
	// where an executor of that name and key is connected that is another one,
	// by wire.Shown; it may have to ask whether that one still is, which takes
	// openTimeout at most. A name that belongs to another key in one of the
	// namespaces refuses the whole.
	join(ctx context.Context, m *member, a wire.Announce, signer string) ([]*share, error)

	// leave ends all that m shares. If the connection was lost, which nobody
	// asked for, the runs of m that have not ended stay for lostFor: m may come
	// back.
	leave(m *member, lost bool)

	// namespaces returns up to n of the exported namespaces at and below a path
	// that g may read, sorted.
	namespaces(g access.Grant, path string, n int) []string

	// next returns the names in the directory path that lead to exported
	// namespaces which g may read, sorted.
	next(g access.Grant, path string) []string

	// exported reports whether an executor exports ns.
	exported(ns string) bool

	// size returns how many executors there are, and how many namespaces they export.
	size() (executors, namespaces int)

	// share returns the executor of that name in ns, or nil.
	share(ns, name string) *share

	// shares returns the executors in ns, in no order.
	shares(ns string) []*share

	// runs returns the known runs in ns for which match reports true. Match must
	// be quick, and must neither keep nor change the run.
	runs(ns string, match func(r *run) bool) []run

	// index returns how many bytes the index of ns has, and what reads it from where
	// the last call ended. It has the runs that executors have told of by now, the
	// newest first.
	index(ns string) (size int64, next nextLines)

	// version returns a number that is another after each change of what a
	// revision may name in ns. ok reports whether ns is exported.
	version(ns string) (n uint64, ok bool)

	// lost is runs of the executors that may come back.
	lost(ns string, match func(r *run) bool) []run

	// ended blocks until the run of that id has ended at the executor of that
	// name in ns, or the executor does not have it, has left, or was lost for
	// lostFor. Meanwhile that run is before those for which own reports true. Its
	// error is that of ctx.
	ended(ctx context.Context, ns, name, id string, own func(r *run) bool) error

	// watch returns the events of ns, or for "" the joins and leaves of all
	// namespaces. Its close must be called.
	watch(ns string) watch
}

// A watch is the event lines of a namespace, or those of all.
type watch struct {
	lines *fs.Feed
	// state returns what the lines so far come to, and the offset in lines at
	// which a reader goes on from there.
	state func() (text string, off int64)
	close func()
}

// A member is one export of one connection.
type member struct {
	name        string // below n; join of the directory gives it
	announcedAs string
	key         string // the identity that announced it
	commit      string // whose runs alone others see; "": of any
	conn        *conn
	exporter    exporter
	several     atomic.Bool        // it has announced more than one namespace: its root has them
	readers     map[string]*reader // that sessions hold, by backendKey, "" the orchestrator's own; guarded by conn.readersMu
	silent      atomic.Int64       // when the executor last did not answer, in Unix ns; 0 once it has

	namespaces []string // that it exports, as its newest announcement has them; guarded by conn.mu
	uses       []func() // end the conn's uses of these; guarded by conn.mu

	announced atomic.Pointer[announced]
	shares    map[string]*share // by namespace; the directory's
}

// announced is what the newest announcement of a member said.
type announced struct {
	generation uint64
	address    string
	instance   string
	boot       string
	signer     string // the fingerprint of the key that signs its runs, which it has proved; or ""
	adopts     bool
}

// ownedBy reports whether a login is of the executor's owner, whose commands it
// takes: it holds the key that signs the executor's runs or, if that is not known,
// the key that announced it.
func (m *member) ownedBy(l *access.Login) bool {
	if l.URI != "" && l.URI == m.conn.login.URI {
		return true
	}
	return l.Owner() == cmp.Or(m.announced.Load().signer, m.conn.login.Owner())
}

// A share is what one member shows in one namespace.
type share struct {
	m      *member
	ns     string
	since  time.Time
	ctx    context.Context // done when the share ends: readers through it are told so
	cancel context.CancelFunc

	livesMu sync.Mutex       // guards lives
	lives   map[string]*live // of runs' live files that are open, by path

	d *localDirectory // whose mutex guards what follows
	shareState
}

// path returns where the executor stands in its namespace.
func (sh *share) path() string { return "/n/" + sh.m.name }

// qid returns the place of the executor in the mux's tree.
func (sh *share) qid() fs.Qid { return qidOf(sh.ns + sh.path()) }

func (sh *share) stat() fs.Stat { return fs.DirStat(sh.m.name, sh.qid(), sh.since) }

// muteFor is for how long an executor that did not answer is asked last. By
// then it has been probed, and is gone or well.
const muteFor = 30 * time.Second

// judge notes what the error of an operation of the executor's says of it: whether
// it answered in time. That a reader has gone says nothing.
func (m *member) judge(err error) {
	switch {
	case errors.Is(err, errSilent):
		m.silent.Store(time.Now().UnixNano())
	case !errors.Is(err, context.Canceled):
		m.silent.Store(0)
	}
}

// mute reports whether the executor did not answer of late.
func (m *member) mute(now time.Time) bool {
	silent := m.silent.Load()
	return silent != 0 && now.Sub(time.Unix(0, silent)) < muteFor
}

// byName orders shares as listings do.
func byName(shares []*share) []*share {
	slices.SortFunc(shares, func(a, b *share) int { return strings.Compare(a.m.name, b.m.name) })
	return shares
}
