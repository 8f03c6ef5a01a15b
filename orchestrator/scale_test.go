package orchestrator

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// The benchmarks of this file measure an orchestrator that is a process of its own:
// its memory as the kernel counts it, and its CPU time without that of its clients.

// TestMain is also the main of the other processes of benchmarks.
func TestMain(m *testing.M) {
	if role := strings.Fields(os.Getenv("ORCHESTRATOR_ROLE")); len(role) > 0 {
		if err := play(role[0], role[1:]); err != nil {
			fmt.Fprintln(os.Stderr, role[0]+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// play is what another process does until its standard input ends. It prints a line
// when it is ready.
func play(role string, args []string) error {
	ctx := context.Background()
	switch role {
	case "serve": // DIR: an orchestrator
		s, err := New(args[0], Options{})
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		go s.Serve(ctx, l)
		fmt.Println(l.Addr())
	case "splice": // a bare relay
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		go bareSplice(l)
		fmt.Println(l.Addr())
	case "hold": // ADDR HOSTS N KEYFILE...: idle executors
		n, _ := strconv.Atoi(args[2])
		if err := holdExecutors(ctx, args[0], args[1], n, newTestTree().root(), args[3:]); err != nil {
			return err
		}
		fmt.Println("held")
	case "runs": // ADDR HOSTS N RUNS KEYFILE...: executors that have so many runs each
		n, _ := strconv.Atoi(args[2])
		runs, _ := strconv.Atoi(args[3])
		tree := newTestTree()
		for i := range runs {
			tree.add(fmt.Sprintf("3f2a9c1d0b7e.%d", i+1), testCommit, "passed")
		}
		if err := holdExecutors(ctx, args[0], args[1], n, tree.root(), args[4:]); err != nil {
			return err
		}
		fmt.Println("held")
	case "export": // ADDR HOSTS KEYFILE: an executor with a big file
		key, err := readKeyFile(args[2])
		if err != nil {
			return err
		}
		if err := exportOne(ctx, args[0], args[1], "a", key, bigTree()); err != nil {
			return err
		}
		fmt.Println("exported")
	case "bare": // ADDR: the same behind a bare relay
		if err := exportBare(ctx, args[0], bigTree()); err != nil {
			return err
		}
		fmt.Println("exported")
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); fmt.Println("done") {
		switch in.Text() {
		case "gc":
			debug.FreeOSMemory()
		}
	}
	return nil
}

// A process is another process of a benchmark.
type process struct {
	b     testing.TB
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Scanner
	ready string // the line that it printed when it was ready
}

func startProcess(b testing.TB, role ...string) *process {
	b.Helper()
	p := &process{b: b, cmd: exec.Command(os.Args[0], "-test.run=^$")}
	p.cmd.Env = append(os.Environ(), "ORCHESTRATOR_ROLE="+strings.Join(role, " "))
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		b.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.stop)
	p.out = bufio.NewScanner(out)
	if !p.out.Scan() {
		b.Fatalf("%s is not ready", role[0])
	}
	p.ready = p.out.Text()
	return p
}

func (p *process) stop() {
	p.in.Close()
	p.cmd.Wait()
}

// do has the process do something, and waits for it.
func (p *process) do(what string) {
	fmt.Fprintln(p.in, what)
	if !p.out.Scan() {
		p.b.Fatalf("the process has ended")
	}
}

// rss returns the bytes of memory that the process has.
func (p *process) rss() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		p.b.Fatal(err)
	}
	pages, _ := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// cpu returns the CPU time that the process has used.
func (p *process) cpu() time.Duration {
	var all time.Duration
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.cmd.Process.Pid))
	if err != nil {
		p.b.Fatal(err)
	}
	for _, t := range tasks {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", p.cmd.Process.Pid, t.Name())); err == nil {
			ns, _ := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
			all += time.Duration(ns)
		}
	}
	return all
}

// scaleMux is an orchestrator in a process of its own.
func scaleMux(b *testing.B) (*testMux, *process) {
	b.Helper()
	m := startMux(b) // makes the state, the keys and known_hosts
	p := startProcess(b, "serve", m.dir)
	host := m.s.HostKey()
	m.addr = p.ready
	f, err := os.OpenFile(m.hosts, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	addr, port, _ := net.SplitHostPort(m.addr)
	fmt.Fprintf(f, "[%s]:%s %s", addr, port, ssh.MarshalAuthorizedKey(host))
	f.Close()
	return m, p
}

// under reports a figure beside its limit, and says so if it is above that.
func under(b *testing.B, figure, limit float64, unit string) {
	b.Helper()
	b.ReportMetric(figure, unit)
	b.ReportMetric(limit, "max-"+unit)
	if figure > limit {
		b.Logf("%.4g %s is over the limit of %.4g", figure, unit, limit)
	}
}

func readKeyFile(name string) (ssh.Signer, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(b)
}

// holdExecutors connects n executors, and returns when all have joined.
func holdExecutors(ctx context.Context, addr, hosts string, n int, tree fs.Dir, keyFiles []string) error {
	var wg sync.WaitGroup
	errs := make(chan error, n)
	turn := wire.NewSlots(16)
	for i := range n {
		turn.Wait()
		wg.Go(func() {
			defer turn.Give()
			key, err := readKeyFile(keyFiles[i%len(keyFiles)])
			if err == nil {
				err = exportOne(ctx, addr, hosts, fmt.Sprint("box.", i), key, tree)
			}
			errs <- err
		})
	}
	wg.Wait()
	for range n {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// exportOne exports tree until the process ends.
func exportOne(ctx context.Context, addr, hosts, name string, key ssh.Signer, tree fs.Dir) error {
	c, err := dial.Dial(ctx, "ssh://"+addr, dial.Options{Signers: []ssh.Signer{key}, KnownHosts: hosts})
	if err != nil {
		return err
	}
	joined := make(chan error, 1)
	go func() {
		joined <- c.Export(ctx, dial.Announce{
			Name: name, Namespaces: []string{hello},
			Joined: sync.OnceFunc(func() { joined <- nil }),
		}, func(ctx context.Context, rwc io.ReadWriteCloser, _ string, user fs.User) {
			srv := ninep.Server{User: user, Attach: func(context.Context, string, string) (fs.Dir, error) { return tree, nil }}
			srv.Serve(ctx, rwc)
		})
	}()
	return <-joined
}

// What an idle executor costs in the orchestrator, of 10000 that are connected.
// ORCHESTRATOR_HELD is another number of them.
func BenchmarkIdleExecutor(b *testing.B) {
	n := 10000
	if s := os.Getenv("ORCHESTRATOR_HELD"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	var limit syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	limit.Cur = limit.Max
	syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	m, p := scaleMux(b)
	const keys = 4 // each may have maxConnsOfKey
	role := []string{"hold", m.addr, m.hosts, strconv.Itoa(n)}
	for i := range keys {
		_, file := m.key("", fmt.Sprint("fleet", i))
		role = append(role, file)
	}
	for b.Loop() {
		p.do("gc")
		before := p.rss()
		hold := startProcess(b, role...)
		asIs := p.rss()
		p.do("gc")
		collected := p.rss()
		under(b, float64(collected-before)/float64(n)/1e3, 60, "kB/executor")
		under(b, float64(asIs-before)/float64(n)/1e3, 60, "kB/executor-as-is")
		hold.stop()
	}
}

// Connections that 16 clients make and end. The machine has other work too, so the
// limit is one of the orchestrator's CPU time: a core accepts 500 a second.
func BenchmarkAccept(b *testing.B) {
	m, p := scaleMux(b)
	k, _ := m.key("", "alice")
	cpu := p.cpu()
	var wg sync.WaitGroup
	turn := make(chan struct{})
	for range 16 {
		wg.Go(func() {
			for range turn {
				c, err := dial.Dial(b.Context(), "ssh://"+m.addr, dial.Options{Signers: []ssh.Signer{k}, KnownHosts: m.hosts})
				if err != nil {
					b.Error(err)
					continue
				}
				c.Close()
			}
		})
	}
	for b.Loop() {
		turn <- struct{}{}
	}
	close(turn)
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "conns/s")
	under(b, (p.cpu()-cpu).Seconds()*1e3/float64(b.N), 2, "cpu-ms/conn")
}

const bigFile, bigSize = "ci/3f2a9c1d0b7e.1.tar", 64 << 20

func bigTree() fs.Dir {
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	tree.files[bigFile] = strings.Repeat("0123456789abcdef", bigSize/16)
	return tree.root()
}

// The orchestrator's CPU time for a byte that it carries, beside that of a process
// that only splices two channels of x/crypto/ssh.
func BenchmarkRelayCPU(b *testing.B) {
	m, p := scaleMux(b)
	k, file := m.key("", "alice")
	startProcess(b, "export", m.addr, m.hosts, file)
	muxed := m.tree(m.dial(k), hello)

	bare := startProcess(b, "splice")
	startProcess(b, "bare", bare.ready)
	sc, err := ssh.Dial("tcp", bare.ready, bareConfig("client"))
	if err != nil {
		b.Fatal(err)
	}
	defer sc.Close()
	ch, reqs, err := sc.OpenChannel("9p", nil)
	if err != nil {
		b.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	cl, err := ninep.Import(b.Context(), ch, ninep.ImportOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()

	fetch := func(p *process, root fs.Dir, path string) time.Duration {
		before := p.cpu()
		n, err := fs.Walk(b.Context(), root, path)
		if err != nil {
			b.Fatal(err)
		}
		s, err := ninep.Stream(b.Context(), n)
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		if got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, s, make([]byte, 1<<20)); got != bigSize || err != nil {
			b.Fatal(got, err)
		}
		return p.cpu() - before
	}
	b.SetBytes(2 * bigSize)
	var ours, theirs time.Duration
	for b.Loop() {
		ours += fetch(p, muxed, "n/a/"+bigFile)
		theirs += fetch(bare, cl.Root(), bigFile)
	}
	b.ReportMetric(ours.Seconds()/float64(b.N)/(bigSize/1e9), "cpu-s/GB")
	under(b, ours.Seconds()/theirs.Seconds(), 1.1, "x-of-a-splice")
}

func bareConfig(user string) *ssh.ClientConfig {
	return &ssh.ClientConfig{User: user, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Config: ssh.Config{Ciphers: wire.Ciphers()}}
}

// bareSplice relays the channels of clients to the executor that came first.
func bareSplice(l net.Listener) {
	_, priv, _ := ed25519.GenerateKey(rand.Reader)
	host, _ := ssh.NewSignerFromSigner(priv)
	config := &ssh.ServerConfig{NoClientAuth: true, Config: ssh.Config{Ciphers: wire.Ciphers()}}
	config.AddHostKey(host)
	var executor ssh.Conn
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		sc, chans, reqs, err := ssh.NewServerConn(nc, config)
		if err != nil {
			continue
		}
		go ssh.DiscardRequests(reqs)
		if executor == nil {
			executor = sc
			continue
		}
		go func() {
			for nc := range chans {
				out, r, err := executor.OpenChannel("9p", nil)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(r)
				in, r, err := nc.Accept()
				if err != nil {
					return
				}
				go ssh.DiscardRequests(r)
				go io.Copy(in, out)
				go io.Copy(out, in)
			}
		}()
	}
}

// exportBare serves tree on the channels that a bare relay opens.
func exportBare(ctx context.Context, addr string, tree fs.Dir) error {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	_, chans, reqs, err := ssh.NewClientConn(nc, addr, bareConfig("executor"))
	if err != nil {
		return err
	}
	go ssh.DiscardRequests(reqs)
	go func() {
		for nc := range chans {
			ch, r, err := nc.Accept()
			if err != nil {
				return
			}
			go ssh.DiscardRequests(r)
			go (&ninep.Server{Root: tree}).Serve(ctx, ch)
		}
	}()
	return nil
}

// A walk to one of 8000 namespaces, beside a walk to the only one.
func BenchmarkWalk8000(b *testing.B) {
	directory := func(n int) *localDirectory {
		d := newLocalDirectory(func(*share, string, uint64) {})
		for i := range n {
			ns := fmt.Sprintf("github.com/owner%d/repo", i)
			d.root.add(ns)
			d.space(ns).shares["box"] = &share{}
		}
		return d
	}
	one, many := directory(1), directory(8000)
	walk := func(d *localDirectory) time.Duration {
		g := access.Grant{Read: true, Namespaces: []access.Pattern{"github.com/owner0/*", "gitlab.com/..."}}
		began := time.Now()
		for range 1000 {
			for _, path := range []string{"github.com", "github.com/owner0", "github.com/owner0/repo"} {
				if len(d.namespaces(g, path, 1)) != 1 {
					b.Fatal(path)
				}
			}
			if d.exported("github.com/owner1/none") || len(d.namespaces(g, "github.com/owner1", 1)) > 0 || len(d.next(g, "")) != 1 {
				b.Fatal("a key sees what it may not")
			}
		}
		return time.Since(began)
	}
	var all, alone time.Duration
	for b.Loop() {
		all += walk(many)
		alone += walk(one)
	}
	under(b, all.Seconds()/alone.Seconds(), 2, "x-of-one")
}
