package cmd_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/executor"
	"9ci/cmd/internal/host"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/orchestrator/dial"
	"9ci/vm"
)

// member is a program: an executor of a fleet, member NAME LIFE TENANT BIN. Each line
// of its input, REV TARGET, asks for a run. It prints the events of its history, and
// ends with its input.
func member() {
	m := memberProgram{name: os.Args[1], tenant: os.Args[3], bin: os.Args[4]}
	var err error
	if m.life, err = strconv.Atoi(os.Args[2]); err == nil {
		err = m.run(context.Background())
	}
	if err != nil {
		m.tell(event{What: fails, Text: err.Error()})
		os.Exit(1)
	}
}

type memberProgram struct {
	name, tenant, bin string
	life              int
	mu                sync.Mutex // of the output
}

// tell prints an event of this executor.
func (m *memberProgram) tell(e event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.At, e.Tenant, e.Name, e.Life = time.Now(), m.tenant, m.name, m.life
	b, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	os.Stdout.Write(append(b, '\n'))
}

func (m *memberProgram) run(ctx context.Context) error {
	// A daemon has the name of its host.
	if err := syscall.Sethostname([]byte(m.name)); err != nil {
		return err
	}
	rp, err := repo.Open(ctx, ".")
	if err != nil {
		return err
	}
	c, err := config.Load(ctx, rp, nil)
	if err != nil {
		return err
	}
	runs, end := context.WithCancel(ctx)
	defer end()
	h, err := host.New(runs, rp, c, host.Options{
		Mode:    "daemon",
		Version: strconv.Itoa(m.life),
		Tool:    func(name string) (string, error) { return filepath.Join(m.bin, name), nil },
		Queue:   new(executor.Queue),
		Log:     slog.New(slog.DiscardHandler),
		Say: func(format string, args ...any) {
			what := "says"
			text := fmt.Sprintf(format, args...)
			if strings.HasPrefix(text, "orchestrator: ") || strings.HasPrefix(text, "the orchestrator did not take our tree") {
				what = complains
			}
			m.tell(event{What: what, Text: text})
		},
	})
	if err != nil {
		return err
	}
	defer h.Close()
	defer end()
	e := h.Executor
	e.Start = func(_ context.Context, c vm.Config) (executor.Machine, error) {
		return startHostMachine(c, func(commit, targets string) { m.tell(event{What: tests, Key: commit + "/" + targets}) })
	}
	seek := e.Seek
	e.Seek = func(r *repo.Repo, key ci.Attrs, c *config.Config) executor.Seeker {
		return telling{seek(r, key, c), m, key}
	}
	h.Export(runs)
	h.Start(runs)
	var wg sync.WaitGroup
	defer wg.Wait()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		rev, target, _ := strings.Cut(in.Text(), " ")
		e := event{Key: rev + "/" + target}
		e.What = asks
		m.tell(e)
		wg.Go(func() { m.tell(m.ask(ctx, h.Executor, rp, c, e, rev, target)) })
	}
	return nil
}

// telling is a Seeker that tells when it is its executor's turn.
type telling struct {
	executor.Seeker
	m   *memberProgram
	key ci.Attrs
}

func (t telling) Await(ctx context.Context, own string) (string, func(), error) {
	id, release, err := t.Seeker.Await(ctx, own)
	if id == "" && err == nil {
		t.m.tell(event{What: turn, Key: keyOf(t.key), ID: own})
	}
	return id, release, err
}

// keyOf names a key.
func keyOf(key ci.Attrs) string { return key.Get("commit") + "/" + key.Get("target") }

// ask asks for a run, waits until it has ended, and says what there is then.
func (m *memberProgram) ask(ctx context.Context, e *executor.Executor, rp *repo.Repo, c *config.Config, answer event, rev, target string) event {
	failed := func(err error) event {
		answer.What, answer.Text = fails, err.Error()
		return answer
	}
	commit, tree, err := rp.Resolve(ctx, rev)
	if err != nil {
		return failed(err)
	}
	id, err := e.Submit(ctx, executor.Request{Repo: rp, Commit: commit, Tree: tree, Targets: []string{target}, Config: c})
	if err != nil {
		return failed(err)
	}
	if err := e.Wait(id); err != nil {
		return failed(err)
	}
	made, err := sealedIn(e.Store, id)
	if err != nil {
		return failed(err)
	}
	made.What = ends
	return made
}

// sealedIn returns what there is of a run in a store.
func sealedIn(s *store.Store, id string) (event, error) {
	run, err := s.Get(id)
	if err != nil {
		return event{}, err
	}
	key, err := run.Key()
	if err != nil {
		return event{}, err
	}
	stdout, err := os.ReadFile(filepath.Join(run.Dir, "stdout"))
	if err != nil {
		return event{}, err
	}
	return event{Key: keyOf(key), ID: id, State: run.State, Score: run.Score, Digest: digestOf(stdout), Signer: run.Signer}, nil
}

func digestOf(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// A gate is a way to an orchestrator that a test can cut. Its address stays the same
// when the orchestrator's does not.
type gate struct {
	l net.Listener

	mu      sync.Mutex // guards what follows
	changed *sync.Cond
	to      string // the orchestrator's address
	mode    string // open; hole: all that is sent stays under way; cut: connections end
	conns   map[net.Conn]bool
	wg      sync.WaitGroup
}

func newGate(t *testing.T) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{l: l, mode: "open", conns: map[net.Conn]bool{}}
	g.changed = sync.NewCond(&g.mu)
	g.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.wg.Go(func() { g.carry(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		g.set("cut", "")
		g.wg.Wait()
	})
	return g
}

// set changes the mode, and where the gate leads to unless that is "".
func (g *gate) set(mode, to string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if to != "" {
		g.to = to
	}
	g.mode = mode
	if mode == "cut" {
		for c := range g.conns {
			c.Close()
		}
	}
	g.changed.Broadcast()
}

// passes waits while the gate is a hole, and reports whether it is open.
func (g *gate) passes() (to string, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.mode == "hole" {
		g.changed.Wait()
	}
	return g.to, g.mode == "open"
}

// add notes a connection, which cut is to close.
func (g *gate) add(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns[c] = true
	return g.mode != "cut"
}

func (g *gate) drop(c net.Conn) {
	c.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}

func (g *gate) carry(c net.Conn) {
	defer g.drop(c)
	if !g.add(c) {
		return
	}
	to, ok := g.passes()
	if !ok {
		return
	}
	o, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer g.drop(o)
	if !g.add(o) {
		return
	}
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{o, c}, {c, o}} {
		wg.Go(func() {
			defer way[0].Close()
			defer way[1].Close()
			buf := make([]byte, 32<<10)
			for {
				n, err := way[1].Read(buf)
				if _, ok := g.passes(); !ok || err != nil {
					return
				}
				if _, err := way[0].Write(buf[:n]); err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}

// A tenant has a namespace, whose executors trust each other.
type tenant struct {
	name    string
	key     ssh.Signer // of its readers
	keyFile string
	commits []string
}

func (t *tenant) namespace() string { return "example.org/" + t.name + "/hello" }

// An executorLife is a process of a fleet.
type executorLife struct {
	life
	tenant   *tenant
	gate     *gate
	cmd      *exec.Cmd
	stdin    io.WriteCloser
	gone     chan struct{} // closed when its output has ended
	asked    int
	answered int // guarded by the fleet's mutex
	stopped  bool
	mode     string // of the gate
	dead     bool
}

// A fleet is an orchestrator and the executors of several tenants.
type fleet struct {
	t       *testing.T
	rng     *rand.Rand
	dir     string
	tenants []*tenant
	known   string
	addr    string
	orch    *exec.Cmd
	orchEnd chan struct{}
	lives   map[string]*executorLife // the newest of each name
	old     []*executorLife          // that have been replaced and live
	gates   []*gate

	mu      sync.Mutex // guards what follows
	events  []event
	changed *sync.Cond
	beat    chan struct{} // gets one when something was answered
}

const (
	fleetTenants   = 3
	fleetExecutors = 10 // of each
	fleetCommits   = 40 // of each; the last is for the end
)

var fleetTargets = []string{"test", "lint"}

func newFleet(t *testing.T, seed uint64) *fleet {
	t.Helper()
	f := &fleet{t: t, rng: rand.New(rand.NewPCG(seed, 0)), dir: t.TempDir(), lives: map[string]*executorLife{}, beat: make(chan struct{}, 1)}
	f.changed = sync.NewCond(&f.mu)
	f.known = filepath.Join(f.dir, "home/.ssh/known_hosts")
	var authorized []byte
	for _, name := range []string{"heron", "walrus", "ostrich"}[:fleetTenants] {
		f.tenants = append(f.tenants, &tenant{name: name})
	}
	for _, tn := range f.tenants {
		tn.keyFile = filepath.Join(f.dir, tn.name, "reader")
		tn.key = f.newKey(tn.keyFile)
		line := func(options string, key ssh.PublicKey) {
			authorized = fmt.Appendf(authorized, "%snamespace=%q %s", options, tn.namespace(), ssh.MarshalAuthorizedKey(key))
		}
		line("read,", tn.key.PublicKey())
		f.repository(tn)
		var signers []byte
		for i := range fleetExecutors {
			name := fmt.Sprintf("%s-%d", tn.name, i)
			key := f.newKey(filepath.Join(f.dir, name, "config/9ci/id_ed25519"))
			line("", key.PublicKey())
			signers = fmt.Appendf(signers, "%s %s", name, ssh.MarshalAuthorizedKey(key.PublicKey()))
			f.lives[name] = &executorLife{life: life{name, 0}, tenant: tn, dead: true}
		}
		for i := range fleetExecutors {
			dir := filepath.Join(f.dir, fmt.Sprintf("%s-%d", tn.name, i))
			f.write(filepath.Join(dir, "config/9ci/allowed_signers"), signers)
			if out, err := exec.CommandContext(t.Context(), "cp", "-R", filepath.Join(f.dir, tn.name, "repo"), dir).CombinedOutput(); err != nil {
				t.Fatalf("cp: %v\n%s", err, out)
			}
		}
	}
	f.write(filepath.Join(f.dir, "orchestrator/authorized_keys"), authorized)
	return f
}

func (f *fleet) write(name string, b []byte) {
	f.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// newKey makes a key in a file.
func (f *fleet) newKey(name string) ssh.Signer {
	f.t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		f.t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(name, pem.EncodeToMemory(block))
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(name+".pub", ssh.MarshalAuthorizedKey(key.PublicKey()))
	return key
}

// repository makes the repository of a tenant. Each of its commits writes another
// output, some of it long, that names the tenant.
func (f *fleet) repository(tn *tenant) {
	f.t.Helper()
	dir := filepath.Join(f.dir, tn.name, "repo")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.CommandContext(f.t.Context(), "sh", "-ec", `
git init -q
git remote add origin https://$1.git
git config user.name gopher
git config user.email gopher@example.org
for i in $(seq $3); do
	n=300
	if [ $((i % 4)) = 0 ]; then n=20000; fi
	printf 'test lint:V:\n\tseq -f "$target of commit %s of %s, line %%.0f" %s\n' $i $2 $n >mkfile
	git add -A
	git commit -qm $i
done
git log --format=%H
`, "sh", tn.namespace(), tn.name, strconv.Itoa(fleetCommits))
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		f.t.Fatal(err)
	}
	tn.commits = strings.Fields(string(out))
}

// note adds an event of the test's own.
func (f *fleet) note(e event) {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e)
	f.changed.Broadcast()
}

func (f *fleet) about(what string, l *executorLife) {
	f.note(event{What: what, Tenant: l.tenant.name, Name: l.name, Life: l.n})
}

// up starts the orchestrator.
func (f *fleet) up() {
	f.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "orchestrator"), "-a", "tcp!127.0.0.1!0", "-state", filepath.Join(f.dir, "orchestrator"))
	stderr, w, err := os.Pipe()
	if err != nil {
		f.t.Fatal(err)
	}
	cmd.Stderr = w
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	w.Close()
	addr := make(chan string, 1)
	f.orch, f.orchEnd = cmd, make(chan struct{})
	go func(end chan struct{}) {
		defer close(end)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			attrs, err := ci.SplitWords(strings.ReplaceAll(s.Text(), `"`, `'`))
			if err != nil {
				continue
			}
			a := map[string]string{}
			for _, w := range attrs {
				name, value, _ := strings.Cut(w, "=")
				a[name] = value
			}
			if a["addr"] != "" && len(addr) == 0 {
				select {
				case addr <- a["addr"]:
				default:
				}
			}
			what := map[string]string{"join": joins, "leave": leaves}[a["msg"]]
			if what == "" {
				continue
			}
			at, err := time.Parse(time.RFC3339Nano, a["time"])
			if err != nil {
				f.t.Error(err)
			}
			n, err := strconv.Atoi(a["generation"])
			if err != nil {
				f.t.Error(err)
			}
			f.note(event{What: what, At: at, Name: a["executor"], Life: n})
		}
	}(f.orchEnd)
	select {
	case f.addr = <-addr:
	case <-time.After(patience):
		f.t.Fatal("the orchestrator does not serve")
	}
	for _, g := range f.gates {
		g.mu.Lock()
		g.to = f.addr
		g.mu.Unlock()
	}
	f.note(event{What: cameUp})
}

// down kills the orchestrator.
func (f *fleet) down() {
	f.note(event{What: wentDown})
	f.orch.Process.Kill()
	f.orch.Wait()
	<-f.orchEnd
	f.note(event{What: wentDown}) // it may have written to its log until then
}

// newGate returns a gate to the orchestrator whose host key every user knows.
func (f *fleet) newGate() *gate {
	f.t.Helper()
	g := newGate(f.t)
	g.set("open", f.addr)
	f.gates = append(f.gates, g)
	key, err := os.ReadFile(filepath.Join(f.dir, "orchestrator/ssh_host_ed25519_key.pub"))
	if err != nil {
		f.t.Fatal(err)
	}
	hostname, port, err := net.SplitHostPort(g.l.Addr().String())
	if err != nil {
		f.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(f.known), 0o700); err != nil {
		f.t.Fatal(err)
	}
	known, err := os.OpenFile(f.known, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		f.t.Fatal(err)
	}
	defer known.Close()
	if _, err := fmt.Fprintf(known, "[%s]:%s %s", hostname, port, key); err != nil { // one write
		f.t.Fatal(err)
	}
	return g
}

// start starts the next process of a name.
func (f *fleet) start(name string) *executorLife {
	f.t.Helper()
	before := f.lives[name]
	l := &executorLife{life: life{name, before.n + 1}, tenant: before.tenant, gate: f.newGate(), mode: "open", gone: make(chan struct{})}
	self, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	dir := filepath.Join(f.dir, name)
	cmd := exec.Command(self)
	cmd.Args = []string{"member", name, strconv.Itoa(l.n), l.tenant.name, bin}
	cmd.Dir = filepath.Join(dir, "repo")
	cmd.Env = append(os.Environ(), "HOME="+filepath.Join(f.dir, "home"), "NAMESPACE="+dir+"/ns", "XDG_STATE_HOME="+dir+"/state", "XDG_CACHE_HOME="+dir+"/cache",
		"XDG_CONFIG_HOME="+dir+"/config", "TMPDIR="+dir+"/tmp", "CI_ORCHESTRATOR=ssh://"+l.gate.l.Addr().String(), "CI_KEEP=10000")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWUTS, // for a host name of its own
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := os.MkdirAll(dir+"/tmp", 0o700); err != nil {
		f.t.Fatal(err)
	}
	if l.stdin, err = cmd.StdinPipe(); err != nil {
		f.t.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		f.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	l.cmd = cmd
	f.about(starts, l)
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	w.Close()
	go func() {
		defer close(l.gone)
		defer out.Close()
		for s := bufio.NewScanner(out); s.Scan(); {
			f.heard(l, s.Bytes())
		}
	}()
	f.lives[name] = l
	return l
}

// heard takes a line that an executor has printed.
func (f *fleet) heard(l *executorLife, line []byte) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		if f.alive(l) {
			f.t.Errorf("%s.%d: %s", l.name, l.n, line)
		}
		return // a killed process has not written all of it
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e)
	if e.What == ends || e.What == fails {
		l.answered++
		select {
		case f.beat <- struct{}{}:
		default:
		}
	}
	f.changed.Broadcast()
}

func (f *fleet) alive(l *executorLife) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !slices.ContainsFunc(f.events, func(e event) bool { return e.What == killed && e.Name == l.name && e.Life == l.n })
}

func (f *fleet) kill(l *executorLife) {
	f.about(killed, l)
	l.dead = true
	l.cmd.Process.Kill()
	l.cmd.Wait()
	<-l.gone
	l.gate.set("cut", "")
}

// ask asks an executor for a run.
func (f *fleet) ask(l *executorLife, commit, target string) {
	l.asked++
	if _, err := fmt.Fprintf(l.stdin, "%s %s\n", commit, target); err != nil {
		f.t.Errorf("%s.%d takes no question: %v", l.name, l.n, err)
	}
}

func (f *fleet) stop(l *executorLife) {
	f.about(stops, l)
	l.stopped = true
	l.cmd.Process.Signal(syscall.SIGSTOP)
}

func (f *fleet) goOn(l *executorLife) {
	l.stopped = false
	l.cmd.Process.Signal(syscall.SIGCONT)
	f.about(goesOn, l)
}

func (f *fleet) cut(l *executorLife, mode string) {
	f.about(cutOff, l)
	l.mode = mode
	l.gate.set(mode, "")
}

func (f *fleet) heal(l *executorLife) {
	l.mode = "open"
	l.gate.set("open", "")
	f.about(reaches, l)
}

// mend lets an executor do what it could not: one that was killed is started again.
func (f *fleet) mend(l *executorLife) {
	if l.dead {
		f.start(l.name)
		return
	}
	for i, o := range f.old { // before the newer one is heard of again
		if o.name == l.name {
			f.kill(o)
			f.old = slices.Delete(f.old, i, i+1)
			break
		}
	}
	if l.stopped {
		f.goOn(l)
	}
	if l.mode != "open" {
		f.heal(l)
	}
}

// pick returns one of a list.
func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// names returns the executors' names, in one order for each seed.
func (f *fleet) names() []string {
	var all []string
	for _, tn := range f.tenants {
		for i := range fleetExecutors {
			all = append(all, fmt.Sprintf("%s-%d", tn.name, i))
		}
	}
	return all
}

// round does what one draw says: somebody asks, and perhaps something breaks.
func (f *fleet) round(n int, due map[string]int) {
	r := f.rng
	for _, name := range f.names() { // what has been broken for long enough
		if at, ok := due[name]; ok && at <= n {
			f.mend(f.lives[name])
			delete(due, name)
		}
	}
	tn := pick(r, f.tenants)
	// Later rounds ask for other commits, and sometimes for old ones.
	at := n / 4
	if r.IntN(4) == 0 {
		at = r.IntN(at + 1)
	}
	commit, target := tn.commits[1+at%(fleetCommits-1)], pick(r, fleetTargets)
	for _, i := range r.Perm(fleetExecutors)[:1+r.IntN(5)] {
		if l := f.lives[fmt.Sprintf("%s-%d", tn.name, i)]; !l.dead && !l.stopped {
			f.ask(l, commit, target)
		}
	}
	name := pick(r, f.names())
	if r.IntN(2) == 0 { // somebody of those that were asked
		name = fmt.Sprintf("%s-%d", tn.name, r.IntN(fleetExecutors))
	}
	l := f.lives[name]
	if _, broken := due[name]; broken {
		if !l.dead && r.IntN(3) == 0 && !slices.ContainsFunc(f.old, func(o *executorLife) bool { return o.name == name }) {
			f.old = append(f.old, l)
			f.start(name) // while the other cannot be reached
		}
		return
	}
	switch what := r.IntN(100); {
	case what < 12:
		f.kill(l)
	case what < 24:
		f.stop(l)
	case what < 34:
		f.cut(l, "cut")
	case what < 44:
		f.cut(l, "hole")
	case what < 47:
		f.down()
		f.up()
		return
	default:
		return
	}
	due[name] = n + 1 + r.IntN(12)
}

// until waits until done reports true of the history.
func (f *fleet) until(what string, done func() bool) {
	f.t.Helper()
	timeout := time.AfterFunc(fleetPatience, f.changed.Broadcast)
	defer timeout.Stop()
	end := time.Now().Add(fleetPatience)
	f.mu.Lock()
	defer f.mu.Unlock()
	for !done() {
		if time.Now().After(end) {
			f.t.Fatalf("%s: not within %v", what, fleetPatience)
		}
		f.changed.Wait()
	}
}

// fleetPatience is how long a fleet waits for what must come.
const fleetPatience = 5 * time.Minute

// answered waits until every executor has answered what it was asked.
func (f *fleet) answered() {
	f.t.Helper()
	var silent []*executorLife
	defer func() {
		for _, l := range silent { // it timed out: what do they do?
			f.t.Logf("%s.%d has answered %d of %d questions", l.name, l.n, l.answered, l.asked)
			l.cmd.Process.Signal(syscall.SIGQUIT)
			<-l.gone
		}
	}()
	f.until("the executors answer what they were asked", func() bool {
		silent = nil
		for _, l := range f.lives {
			if l.answered < l.asked {
				silent = append(silent, l)
			}
		}
		return len(silent) == 0
	})
}

// joined waits until every executor is at the orchestrator.
func (f *fleet) joined() {
	f.t.Helper()
	f.until("all executors join", func() bool {
		now := map[string]bool{}
		for _, e := range f.events {
			switch e.What {
			case joins:
				now[e.Name] = true
			case leaves:
				delete(now, e.Name)
			case wentDown:
				clear(now)
			}
		}
		return len(now) == len(f.lives)
	})
}

// TestFleet has the executors of three tenants ask for runs, while executors are killed,
// stopped, cut off and replaced and the orchestrator is killed and started again, all
// by a seed. Then it checks what happened. FLEET_SEED repeats a seed, and FLEET_ROUNDS
// is how many things happen.
func TestFleet(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("FLEET_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	rounds := 100
	if s := os.Getenv("FLEET_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("FLEET_SEED=%d FLEET_ROUNDS=%d", seed, rounds)
	f := newFleet(t, seed)
	f.up()
	t.Cleanup(func() {
		f.orch.Process.Kill()
		f.orch.Wait()
	})
	t.Cleanup(func() {
		for _, l := range slices.Concat(f.old, slices.Collect(maps.Values(f.lives))) {
			if l.cmd != nil && !l.dead {
				f.kill(l)
			}
		}
	})
	t.Cleanup(func() { f.keep(f.history()) })
	began := time.Now()
	for _, name := range f.names() {
		f.start(name)
	}
	look := f.read()
	due := map[string]int{}
	for n := range rounds {
		f.round(n, due)
		look()
		select {
		case <-f.beat:
		case <-time.After(fleetPace):
		}
	}
	for _, name := range f.names() {
		if _, ok := due[name]; ok {
			f.mend(f.lives[name])
		}
	}
	for _, l := range f.old {
		f.kill(l)
	}
	f.old = nil
	t.Logf("%d rounds in %v", rounds, time.Since(began).Round(time.Second))
	f.answered()
	f.joined()
	t.Logf("answered after %v", time.Since(began).Round(time.Second))

	// Now that nothing breaks any more, all of a tenant ask for the same.
	quiet := time.Now()
	for _, tn := range f.tenants {
		for i := range fleetExecutors {
			f.ask(f.lives[fmt.Sprintf("%s-%d", tn.name, i)], tn.commits[0], "test")
		}
	}
	f.answered()
	look()
	f.end()
	h := f.history()
	t.Logf("ended after %v: %s", time.Since(began).Round(time.Second), h.summary())
	for _, tn := range f.tenants {
		runs, moans := 0, 0
		for _, e := range h {
			if e.Tenant == tn.name && e.What == turn && e.Key == tn.commits[0]+"/test" {
				runs++
			}
			if e.Tenant == tn.name && e.What == complains && e.At.After(quiet) {
				moans++
			}
		}
		if runs != 1 && moans == 0 || runs == 0 {
			t.Errorf("%s: %d runs of what all asked for at the end, want 1", tn.name, runs)
		}
	}
	for _, c := range checks {
		for _, wrong := range c.check(h) {
			t.Errorf("%s: %s", c.what, wrong)
		}
	}
}

// fleetPace is how long a round waits for an answer before the next begins.
const fleetPace = 200 * time.Millisecond

// keep writes the history to the file FLEET_HISTORY, or if the test has failed to one of
// its own.
func (f *fleet) keep(h history) {
	name := os.Getenv("FLEET_HISTORY")
	if name == "" && !f.t.Failed() {
		return
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, e := range h {
		if err := enc.Encode(e); err != nil {
			f.t.Error(err)
		}
	}
	if name == "" {
		name = filepath.Join(os.TempDir(), fmt.Sprintf("9ci-fleet-%d.json", os.Getpid()))
	}
	if err := os.WriteFile(name, b.Bytes(), 0o666); err != nil {
		f.t.Error(err)
	}
	f.t.Logf("the history is in %s", name)
}

// end ends the executors, and notes what they have made.
func (f *fleet) end() {
	f.t.Helper()
	for _, name := range f.names() {
		l := f.lives[name]
		f.about(killed, l)
		l.dead = true
		l.stdin.Close()
	}
	for _, name := range f.names() {
		l := f.lives[name]
		<-l.gone
		if err := l.cmd.Wait(); err != nil {
			f.t.Errorf("%s.%d: %v", l.name, l.n, err)
		}
		f.made(l)
	}
}

// made notes the runs that an executor has sealed, which are all there as they were
// signed, and looks for other tenants in all that it has.
func (f *fleet) made(l *executorLife) {
	f.t.Helper()
	dir := filepath.Join(f.dir, l.name, "state/9ci", l.tenant.namespace())
	key, err := sign.LoadKey(filepath.Join(f.dir, l.name, "config/9ci/id_ed25519"))
	if err != nil {
		f.t.Fatal(err)
	}
	var signers sign.Signers
	if err := signers.AddFile(filepath.Join(f.dir, l.name, "config/9ci/allowed_signers"), nil); err != nil {
		f.t.Fatal(err)
	}
	s, err := store.Open(dir)
	if err != nil {
		f.t.Fatal(err)
	}
	defer s.Close()
	for run := range s.Runs() {
		if run.Run != nil {
			f.t.Errorf("%s of %s has not ended", run.ID, l.name)
			continue
		}
		rep, err := ci.VerifyDir(run.Dir)
		if err == nil {
			_, err = signers.Verify(rep.Manifest, rep.Sig, sign.Run{End: run.Time, Commit: run.Commit})
		}
		if err != nil || len(rep.Content)+len(rep.Metadata) > 0 {
			f.t.Errorf("%s of %s: %v %q %q", run.ID, l.name, err, rep.Content, rep.Metadata)
		}
		if run.Signer != sign.Fingerprint(key.PublicKey()) {
			continue
		}
		e, err := sealedIn(s, run.ID)
		if err != nil {
			f.t.Error(err)
			continue
		}
		e.What, e.Tenant, e.Name, e.Life = wasMade, l.tenant.name, l.name, l.n
		f.note(e)
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil {
			f.checkBytes(l.tenant, "store of "+l.name+": "+path, b)
		}
		return err
	})
	if err != nil {
		f.t.Error(err)
	}
}

// checkBytes notes if something that a tenant may read is of another.
func (f *fleet) checkBytes(tn *tenant, what string, b []byte) {
	if text := foreignTo(tn, f.tenants, b); text != "" {
		f.note(event{What: foreign, Tenant: tn.name, Text: what + ": " + text})
	}
}

func (f *fleet) history() history {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sorted(f.events)
}

// fleetLook is how long a reader waits for what it looks at.
const fleetLook = 15 * time.Second

// read starts readers of each tenant. Each call of look has them look at a few things.
// They end with the test.
func (f *fleet) read() (look func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	f.t.Cleanup(func() { cancel(); wg.Wait() })
	var turns []chan struct{}
	for _, tn := range f.tenants {
		for range 2 {
			r := &reader{f: f, tenant: tn, rng: rand.New(rand.NewPCG(f.rng.Uint64(), 1)), url: "ssh://" + f.newGate().l.Addr().String(), held: map[string]fs.Node{}}
			turn := make(chan struct{}, 1)
			turns = append(turns, turn)
			wg.Go(func() {
				defer r.hangUp()
				for {
					select {
					case <-turn:
						r.look(ctx)
					case <-ctx.Done():
						return
					}
				}
			})
		}
	}
	return func() {
		for _, turn := range turns {
			select {
			case turn <- struct{}{}:
			default: // it still looks
			}
		}
	}
}

// A reader reads what its tenant may, through the orchestrator. Its errors mean nothing,
// its bytes do.
type reader struct {
	f      *fleet
	tenant *tenant
	rng    *rand.Rand
	url    string
	conn   *dial.Conn
	root   fs.Dir
	close  func()
	done   <-chan struct{}
	held   map[string]fs.Node // the status of executors, as it was walked to once
}

func (r *reader) hangUp() {
	if r.conn != nil {
		r.close()
		r.conn.Close()
		r.conn = nil
	}
}

func (r *reader) dial(ctx context.Context) error {
	if r.conn != nil {
		select {
		case <-r.done:
			r.hangUp()
		default:
			return nil
		}
	}
	login := func() ([]ssh.Signer, error) { return sign.Logins(r.tenant.key, r.tenant.keyFile) }
	conn, err := dial.Open(r.url, dial.Options{Login: login, KnownHosts: r.f.known})
	if err != nil {
		return err
	}
	c, err := host.ImportTree(ctx, conn, r.tenant.namespace())
	if err != nil {
		conn.Close()
		return err
	}
	r.conn, r.root, r.done, r.held = conn, c.Root(), c.Done(), map[string]fs.Node{}
	r.close = func() { c.Close() }
	return nil
}

func (r *reader) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, fleetLook)
	defer cancel()
	if r.dial(ctx) != nil {
		return
	}
	r.file(ctx, "status")
	commit, target := r.f.someKey(r.tenant, r.rng)
	r.find(ctx, commit, target)
	r.file(ctx, "ci/"+commit[:12]+"/stdout")
	r.file(ctx, "ci/last/log")
	for range 3 {
		r.executor(ctx, fmt.Sprintf("%s-%d", r.tenant.name, r.rng.IntN(fleetExecutors)))
	}
	for _, other := range r.f.tenants {
		if other != r.tenant {
			r.trespass(ctx, other)
		}
	}
}

// someKey returns a key that somebody of a tenant has asked for, of late rather than
// long ago.
func (f *fleet) someKey(tn *tenant, rng *rand.Rand) (commit, target string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range slices.Backward(f.events) {
		if e.What == asks && e.Tenant == tn.name && rng.IntN(4) == 0 {
			commit, target, _ = strings.Cut(e.Key, "/")
			return commit, target
		}
	}
	return tn.commits[0], fleetTargets[0]
}

// file reads a file and looks at whose it is.
func (r *reader) file(ctx context.Context, path string) ([]byte, error) {
	b, err := ask.File(ctx, r.root, path)
	r.f.checkBytes(r.tenant, path, b)
	return b, err
}

// find asks who has a run.
func (r *reader) find(ctx context.Context, commit, target string) {
	n, err := fs.Walk(ctx, r.root, "find")
	if err != nil {
		return
	}
	began := time.Now()
	answer, err := ask.Ctl(ctx, n, fmt.Appendf(nil, "commit=%s target=%s", commit, target))
	if err != nil {
		return
	}
	r.f.checkBytes(r.tenant, "find", answer)
	for line := range strings.Lines(string(answer)) {
		o, err := ci.ParseOffer(line)
		if err != nil {
			r.f.t.Errorf("find answers %q: %v", line, err)
			continue
		}
		if o.State == "passed" {
			r.f.note(event{What: offers, From: began, Tenant: r.tenant.name, Name: o.Executor, Key: commit + "/" + target, ID: o.ID, Score: o.Score})
		}
	}
}

// executor looks at the tree of an executor: whose process it is, and at one of its
// runs.
func (r *reader) executor(ctx context.Context, name string) {
	if n := r.held[name]; n != nil {
		began := time.Now()
		b, err := fs.ReadAll(ctx, n)
		r.serves(name, began, b, err)
	}
	began := time.Now()
	n, err := fs.FileAt(ctx, r.root, "n/"+name+"/status")
	if err != nil {
		return
	}
	b, err := fs.ReadAll(ctx, n)
	r.serves(name, began, b, err)
	r.held[name] = n
	index, err := r.file(ctx, "n/"+name+"/index")
	if err != nil {
		return
	}
	var ids []string
	for line := range strings.Lines(string(index)) {
		if l, err := ci.ParseIndexLine(strings.TrimSuffix(line, "\n")); err == nil && l.Status.Finished() {
			ids = append(ids, l.ID)
		}
	}
	if len(ids) == 0 {
		return
	}
	run := "n/" + name + "/ci/" + pick(r.rng, ids)
	var text [4][]byte
	for i, file := range []string{"manifest", "stdout", "key", "log"} {
		if text[i], err = r.file(ctx, run+"/"+file); err != nil {
			return
		}
	}
	key, err := ci.ParseAttrs(text[2])
	if err != nil {
		r.f.t.Errorf("%s/key: %v", run, err)
		return
	}
	for i, file := range []string{"stdout", "key", "log"} {
		if !ci.Lists(text[0], file, text[i+1]) {
			r.f.t.Errorf("%s/%s: its bytes are others than those in the manifest", run, file)
		}
	}
	r.f.note(event{What: shows, Tenant: r.tenant.name, Name: name, Key: keyOf(key), ID: run, Score: digestOf(text[0]), Digest: digestOf(text[1])})
}

// serves notes whose process has answered.
func (r *reader) serves(name string, began time.Time, status []byte, err error) {
	if err != nil {
		return
	}
	r.f.checkBytes(r.tenant, "status of "+name, status)
	attrs, err := ci.ParseAttrs(status)
	if err != nil {
		r.f.t.Errorf("n/%s/status: %v: %q", name, err, status)
		return
	}
	n, err := strconv.Atoi(attrs.Get("version"))
	if err != nil {
		r.f.t.Errorf("n/%s/status: %q", name, status)
		return
	}
	r.f.note(event{What: serves, From: began, Tenant: r.tenant.name, Name: name, Life: n})
}

// trespass tries to enter the namespace of another tenant, which looks absent.
func (r *reader) trespass(ctx context.Context, other *tenant) {
	c, err := host.ImportTree(ctx, r.conn, other.namespace())
	if err == nil {
		c.Close()
		r.f.note(event{What: foreign, Tenant: r.tenant.name, Text: "it enters " + other.namespace()})
	} else if !errors.Is(err, os.ErrNotExist) && ctx.Err() == nil {
		return // it is cut off
	}
	answer, release, err := r.conn.Find(ctx, other.namespace(), []byte("commit="+pick(r.rng, other.commits)), time.Second)
	if err == nil {
		release()
		r.f.note(event{What: foreign, Tenant: r.tenant.name, Text: fmt.Sprintf("find of %s answers %q", other.namespace(), bytes.TrimSpace(answer))})
	}
}
