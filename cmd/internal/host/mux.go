package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/executor"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/dial"
	"9ci/proto/ninep"
)

// A mux is the connection of one executor to the orchestrator: it exports the
// executor's tree there and imports the namespace's. A nil mux has no orchestrator
// and does nothing.
type mux struct {
	conn      *dial.Conn
	pass      *dial.Pass // nil: the key or a certificate beside it logs in
	name      string     // that we announce: of our tree, below n
	namespace string
	tree      fs.Dir
	adopts    bool // see Options
	asks      bool // this process looks for a replay at once, and tells what is wrong then
	say       func(format string, args ...any)
	joined    chan struct{}  // closed when our tree is at the orchestrator
	refused   chan struct{}  // closed when the orchestrator takes none: it is tried again later
	wg        sync.WaitGroup // of export
	opening   sync.WaitGroup // of trees
	answered  atomic.Bool    // the orchestrator has, once

	mu     sync.Mutex // guards what follows
	client *ninep.Client
	shown  string          // the name below n: ours, or one with a number
	others map[string]bool // of our name, that the user was told of
}

// newMux returns a mux that has not dialled yet. The name of our tree is HOST for a
// daemon, and HOST.PID for others.
func newMux(c *config.Config, e *executor.Executor, key ssh.Signer, o Options) (*mux, error) {
	if c.Orchestrator == "" {
		return nil, nil
	}
	opts, err := DialOptions(key, c, c.Orchestrator)
	if err != nil {
		return nil, err
	}
	if opts.Direct = o.Direct; o.Direct != nil && !o.Direct.Is(key.PublicKey()) {
		o.Say("%s is not served directly: its CI_KEY is another than the daemon's", e.Namespace)
		opts.Direct = nil
	}
	if o.Looks {
		opts.Stay = nil // a certificate that is renewed is a file that changes
	}
	opts.Shell = shellFor(e, key.PublicKey())
	conn, err := dial.Open(c.Orchestrator, opts)
	if err != nil {
		return nil, fmt.Errorf("CI_ORCHESTRATOR: %w", err)
	}
	m := &mux{
		conn: conn, pass: opts.Pass, name: e.Host, namespace: e.Namespace, tree: e.Tree(), adopts: o.Adopts, asks: e.Mode != "daemon", say: o.Say,
		joined: make(chan struct{}), refused: make(chan struct{}),
	}
	if ns := conn.Namespace(); ns != "" {
		m.namespace = ns
	}
	if m.asks {
		m.name = fmt.Sprintf("%s.%d", e.Host, os.Getpid())
	}
	return m, nil
}

// root returns the namespace's tree at the orchestrator.
func (m *mux) root(ctx context.Context) (fs.Dir, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.client != nil {
		select {
		case <-m.client.Done():
		default:
			return m.client.Root(), nil
		}
	}
	c, err := ImportTree(ctx, m.conn, m.namespace)
	if err != nil {
		return nil, m.absent(err)
	}
	m.client = c
	m.answered.Store(true)
	return c.Root(), nil
}

// find asks find of the namespace. The tree is opened meanwhile, because a run that
// is found is fetched next.
func (m *mux) find(ctx context.Context, question []byte, within time.Duration) (answer []byte, release func(), err error) {
	if err := m.conn.Connect(ctx); err != nil {
		return nil, nil, err
	}
	m.opening.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
		defer cancel()
		m.root(ctx) // the next call of root has the error
	})
	answer, release, err = m.conn.Find(ctx, m.namespace, question, within)
	if err == nil {
		m.answered.Store(true)
	}
	return answer, release, m.absent(err)
}

// openTimeout is how long the tree may take to open behind find.
const openTimeout = 5 * time.Second

// absent returns what is to be done about a namespace local/NAME that is not
// there, or err.
func (m *mux) absent(err error) error {
	if ci.LocalNamespace(m.namespace) && errors.Is(err, iofs.ErrNotExist) {
		return m.unnamed()
	}
	return err
}

// An Importer opens 9P connections to one tree: an orchestrator's, or that of an
// executor's own SSH server.
type Importer interface {
	Import(ctx context.Context) (io.ReadWriteCloser, error)
}

// ImportTree opens the tree of a namespace at conn. The caller closes it.
func ImportTree(ctx context.Context, conn Importer, namespace string) (*ninep.Client, error) {
	rwc, err := conn.Import(ctx)
	if err != nil {
		return nil, err
	}
	// All that answer there are of ours: the orchestrator, or an executor's door.
	c, err := ninep.Import(ctx, rwc, ninep.ImportOptions{Aname: namespace, Dialect: ninep.DotL, Ours: true, More: conn.Import})
	if err != nil {
		rwc.Close()
		return nil, fmt.Errorf("%s: %w", namespace, err)
	}
	return c, nil
}

// way returns the namespace's tree at the own SSH server of the executor of that
// name, reached at its address or, by the rung e2e, through the orchestrator.
func (m *mux) way(ctx context.Context, rung, executor string) (tree fs.Dir, end func(), err error) {
	d, err := m.conn.Door(ctx, m.namespace, executor)
	if err != nil {
		return nil, nil, err
	}
	enter := d.Direct
	if rung == "e2e" {
		enter = d.Through
	}
	e, err := enter(ctx)
	if err != nil {
		d.Close()
		return nil, nil, err
	}
	c, err := ImportTree(ctx, e, m.namespace)
	if err != nil {
		e.Close()
		d.Close()
		return nil, nil, err
	}
	return c.Root(), func() { c.Close(); e.Close(); d.Close() }, nil
}

// unnamed is the error of a namespace local/NAME that no grant at the orchestrator
// names.
func (m *mux) unnamed() error {
	return fmt.Errorf("%s %w: add a remote origin, so that clones share a namespace, or have namespace=%q put before this executor's key in authorized_keys", m.namespace, errUnnamed, m.namespace)
}

var errUnnamed = errors.New("is not there")

// export shows our tree at the orchestrator until ctx is done. It tells the user
// once each time the connection is lost or cannot be made.
func (m *mux) export(ctx context.Context) {
	if m == nil {
		return
	}
	m.wg.Go(func() {
		refuse := sync.OnceFunc(func() { close(m.refused) })
		defer refuse()
		down := m.asks // the search for a replay tells what is wrong at first
		first := sync.OnceFunc(func() { close(m.joined) })
		told := !m.asks    // what is wrong is told here, and by nobody else
		var refused string // why, as the user was told
		a := dial.Announce{
			Name:       m.name,
			Namespaces: []string{m.namespace},
			Adopts:     m.adopts,
			Waits:      !m.asks,
			Named:      m.named,
			Joined:     func() { down, told = false, true; first() },
			Second:     m.second,
			Lost: func(err error) {
				err = m.local(err)
				if _, ok := errors.AsType[*dial.RefusedError](err); ok || errors.Is(err, errUnnamed) || told && (errors.Is(err, dial.ErrToken) || errors.Is(err, dial.ErrKey)) {
					refuse()
					down = err.Error() == refused
					refused = err.Error()
				}
				if !down {
					m.say("%v: it is tried again", err)
				}
				down = true
			},
		}
		err := m.conn.Export(ctx, a, m.serve)
		if err := m.local(err); ctx.Err() == nil && !errors.Is(err, errUnnamed) { // that, the search for a replay tells
			m.say("%v", err)
		}
	})
}

// maxOthers is of how many others of its name an executor tells.
const maxOthers = 16

// named takes the name that our tree has at the orchestrator.
func (m *mux) named(shown string) {
	m.mu.Lock()
	was := m.shown
	m.shown = shown
	m.mu.Unlock()
	switch {
	case shown == cmp.Or(was, m.name):
	case shown == m.name:
		m.say("orchestrator: this executor is %s there again", shown)
	default:
		m.say("orchestrator: this executor is %s there: another of the name %s and this key is connected", shown, m.name)
	}
}

// second tells the user of another executor of our name.
func (m *mux) second(shown string) {
	m.mu.Lock()
	fresh := !m.others[shown] && len(m.others) < maxOthers
	if fresh {
		if m.others == nil {
			m.others = map[string]bool{}
		}
		m.others[shown] = true
	}
	m.mu.Unlock()
	if fresh {
		m.say("orchestrator: another executor of the name %s and this key is connected: it is %s there", m.name, shown)
	}
}

// local returns what is to be done about a namespace local/NAME that this key may
// not export, or err.
func (m *mux) local(err error) error {
	if refused, ok := errors.AsType[*dial.RefusedError](err); ok && refused.Forbidden() && ci.LocalNamespace(m.namespace) {
		return fmt.Errorf("orchestrator: %w", m.unnamed())
	}
	return err
}

// myName returns our name below n. It waits until our tree is there, for
// joinTimeout at most.
func (m *mux) myName(ctx context.Context) (string, error) {
	if !m.answered.Load() {
		return "", errors.New("the orchestrator has not answered yet")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, joinTimeout, errJoin)
	defer cancel()
	select {
	case <-m.joined:
		return m.shownName(), nil
	case <-m.refused:
		select {
		case <-m.joined: // since
			return m.shownName(), nil
		default:
		}
		return "", errors.New("the orchestrator does not take our tree")
	case <-ctx.Done():
		if context.Cause(ctx) == errJoin {
			m.say("%v: others do not wait for this run, nor this run for others", errJoin)
		}
		return "", ctx.Err()
	}
}

func (m *mux) shownName() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shown
}

// joinTimeout is how long a run waits for our tree to appear at an orchestrator
// that has answered. It is busy when many executors come at once.
const joinTimeout = 10 * time.Second

var errJoin = fmt.Errorf("the orchestrator did not take our tree within %v", joinTimeout)

// serve answers one connection from the orchestrator.
func (m *mux) serve(ctx context.Context, rwc io.ReadWriteCloser, aname string, user fs.User) {
	s := ninep.Server{Root: m.tree, Attach: AttachTo(m.tree, m.namespace), User: user}
	s.Serve(ctx, rwc)
}

// AttachTo is the Attach of a ninep.Server for the tree of one namespace: the
// aname may name the namespace or leave it out.
func AttachTo(root fs.Dir, namespace string) func(ctx context.Context, uname, aname string) (fs.Dir, error) {
	return func(ctx context.Context, uname, aname string) (fs.Dir, error) {
		if aname = strings.Trim(aname, "/"); aname == "" || aname == namespace {
			return root, nil
		}
		return fs.WalkDir(ctx, root, aname)
	}
}

// close ends the connection. The context of export is to end first.
func (m *mux) close() {
	if m == nil {
		return
	}
	// An executor that says it leaves is not waited for by others.
	withdrawn := make(chan struct{})
	go func() {
		defer close(withdrawn)
		m.wg.Wait()
	}()
	select {
	case <-withdrawn:
	case <-time.After(withdrawTimeout):
	}
	m.conn.Close() // ends find and the opening of trees, which a silent orchestrator does not
	<-withdrawn
	m.opening.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.client != nil {
		m.client.Close()
	}
}

// withdrawTimeout is how long an executor that leaves waits for its word to be
// sent.
const withdrawTimeout = time.Second
