package orchestrator

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"9ci/fs"
	"9ci/orchestrator/dial"
	"9ci/proto/ninep"
)

// What an idle connection holds in the server. The clients are another process.
func BenchmarkIdleConnection(b *testing.B) {
	if addr := os.Getenv("ORCHESTRATOR_IDLE"); addr != "" {
		holdIdle(b, addr)
	}
	const n = 500
	m := startMux(b)
	_, file := m.key("", "alice")
	for b.Loop() {
		before := inUse()
		goroutines := runtime.NumGoroutine()
		cmd := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkIdleConnection$", "-test.benchtime=1x")
		cmd.Env = append(os.Environ(), "ORCHESTRATOR_IDLE="+strings.Join([]string{m.addr, file, m.hosts, strconv.Itoa(n)}, " "))
		in, err := cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		for s := bufio.NewScanner(out); s.Scan() && s.Text() != "connected"; {
		}
		b.ReportMetric(float64(inUse()-before)/n, "bytes/conn")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/n, "goroutines/conn")
		in.Close()
		go io.Copy(io.Discard, out)
		cmd.Wait()
	}
}

// holdIdle is the other process: it connects, says so, and waits.
func holdIdle(b *testing.B, what string) {
	f := strings.Fields(what)
	key, err := os.ReadFile(f[1])
	if err != nil {
		b.Fatal(err)
	}
	s, err := ssh.ParsePrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	n, _ := strconv.Atoi(f[3])
	for range n {
		c, err := dial.Dial(context.Background(), "ssh://"+f[0], dial.Options{Signers: []ssh.Signer{s}, KnownHosts: f[2]})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Import(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	fmt.Println("\nconnected")
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func inUse() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapInuse + s.StackInuse)
}

// A sealed file's bytes from an executor through the mux to a client, over two
// SSH connections on loopback, all in one process.
func BenchmarkRelay(b *testing.B) {
	m := startMux(b)
	k, _ := m.key("", "alice")
	tree := newTestTree()
	const size = 64 << 20
	tree.files["ci/3f2a9c1d0b7e.1.tar"] = strings.Repeat("0123456789abcdef", size/16)
	m.export(m.dial(k), dial.Announce{Name: "a", Namespaces: []string{hello}}, tree.root())
	root := m.tree(m.dial(k), hello)
	b.SetBytes(size)
	cpu := cpuTime()
	defer func() { b.ReportMetric((cpuTime()-cpu).Seconds()/float64(b.N)/(size/1e9), "cpu-s/GB") }()
	for b.Loop() {
		n, err := fs.Walk(b.Context(), root, "n/a/ci/3f2a9c1d0b7e.1.tar")
		if err != nil {
			b.Fatal(err)
		}
		f, err := n.Open(b.Context(), fs.OpenRead)
		if err != nil {
			b.Fatal(err)
		}
		if got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, fs.NewReader(b.Context(), f), make([]byte, 1<<20)); got != size || err != nil {
			b.Fatal(got, err)
		}
		f.Close()
	}
}

// What 80 readers of a live file by each of two keys cost a third key: its stat by stock
// ssh beside the same without them, while nothing comes in the file and while ten lines a
// second do. Twice is the most that the orchestrator may make of it.
func BenchmarkStatBesideLive(b *testing.B) {
	for _, bench := range []struct {
		name  string
		flows bool
	}{{"waiting", false}, {"flowing", true}} {
		b.Run(bench.name, func(b *testing.B) {
			m, _, feed := liveMux(b)
			_, third := m.key(`namespace="`+hello+`",read`, "carol")
			stat := func() {
				if out, stderr, status := m.run(third, "stat n/box/ci/3f2a9c1d0b7e.1/stdout"); status != 0 || out == "" {
					b.Fatalf("stat = %d, %q, %q", status, out, stderr)
				}
			}
			stat()
			const idle = 20
			began := time.Now()
			for range idle {
				stat()
			}
			alone := time.Since(began) / idle
			ended := m.liveReaders(80, func(string, string) {})
			stop := make(chan struct{})
			var writer sync.WaitGroup
			if bench.flows {
				writer.Go(func() {
					for tick := time.NewTicker(100 * time.Millisecond); ; {
						select {
						case <-tick.C:
							feed.Write("a line of a test that says what it does\n")
						case <-stop:
							tick.Stop()
							return
						}
					}
				})
			}
			for b.Loop() {
				stat()
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(alone), "ratio")
			close(stop)
			writer.Wait()
			feed.Close()
			ended()
		})
	}
}

// cpuTime is what this process has used: executor, mux and client together.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Ten thousand small files by the name of a revision, beside the same by their
// executor's: both are forwarded as they are. All is one process.
func BenchmarkRevision(b *testing.B) {
	m := startMux(b)
	k, _ := m.key("", "alice")
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	dir := b.TempDir()
	for i := range 10000 {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), make([]byte, 2000), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	disk, err := os.OpenRoot(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer disk.Close()
	ev := watchEvents(b, m.tree(m.dial(k), hello))
	m.export(m.dial(k), dial.Announce{Name: "a", Namespaces: []string{hello}},
		graft{tree.root(), []string{"ci", "3f2a9c1d0b7e.1", "artifacts"}, fs.DiskDir(disk, "/")})
	ev.await("passed")
	var took, used [2]time.Duration
	for b.Loop() {
		for i, path := range []string{"n/a/ci/3f2a9c1d0b7e.1/artifacts", "ci/last/artifacts", "artifacts/last"} {
			began, cpu := time.Now(), cpuTime()
			readAll(b, m.tree(m.dial(k), hello), path)
			took[min(i, 1)] += time.Since(began)
			used[min(i, 1)] += cpuTime() - cpu
		}
	}
	b.ReportMetric(took[1].Seconds()/2/took[0].Seconds(), "time/direct")
	b.ReportMetric(used[1].Seconds()/2/used[0].Seconds(), "cpu/direct")
}

// readAll reads the files of a directory, many at once.
func readAll(b *testing.B, root fs.Dir, path string) {
	d, err := fs.WalkDir(b.Context(), root, path)
	if err != nil {
		b.Fatal(err)
	}
	var all errgroup.Group
	all.SetLimit(256)
	files := 0
	for st, err := range fs.Entries(b.Context(), d) {
		if err != nil {
			b.Fatal(err)
		}
		files++
		all.Go(func() error {
			n, err := fs.Child(b.Context(), d, st)
			if err == nil {
				_, err = fs.ReadAll(b.Context(), n)
			}
			return err
		})
	}
	if err := all.Wait(); err != nil || files != 10000 {
		b.Fatal(files, err)
	}
}

// A graft is a tree that has another in the place of one of its directories.
type graft struct {
	fs.Dir
	at  []string
	sub fs.Dir
}

func (g graft) Walk(ctx context.Context, name string) (fs.Node, error) {
	n, err := g.Dir.Walk(ctx, name)
	switch {
	case err != nil || name != g.at[0]:
		return n, err
	case len(g.at) == 1:
		return g.sub, nil
	}
	return graft{n.(fs.Dir), g.at[1:], g.sub}, nil
}

// One question, of a connected client, to a mux that knows 1000 runs of ten
// executors; ten of them match.
func BenchmarkFind1000(b *testing.B) {
	m := startMux(b)
	k, _ := m.key("", "alice")
	root := m.tree(m.dial(k), hello)
	ev := watchEvents(b, root)
	for i := range 10 {
		tree := newTestTree()
		for j := range 99 {
			commit := fmt.Sprintf("%010x%02x", i, j) + testCommit[12:]
			tree.add(commit[:12]+".1", commit, "passed")
		}
		tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
		name := fmt.Sprintf("box.%d", i)
		m.export(m.dial(k), dial.Announce{Name: name, Namespaces: []string{hello}}, tree.root())
		ev.await("/n/"+name+"/ci/3f2a9c1d0b7e.1", "passed")
	}
	question := string(testKey(testCommit).Text())
	for b.Loop() {
		answer, f := find(b, root, question)
		f.Close()
		if n := strings.Count(answer, "\n"); n != 10 {
			b.Fatalf("%d answers: %q", n, answer)
		}
	}
}

// From nothing to the bytes of a run: dial, ask, read a small tar.
func BenchmarkDialFindFetch(b *testing.B) {
	m := startMux(b)
	k, _ := m.key("", "alice")
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	tree.files["ci/3f2a9c1d0b7e.1.tar"] = strings.Repeat("0123456789abcdef", 1<<12)
	ev := watchEvents(b, m.tree(m.dial(k), hello))
	m.export(m.dial(k), dial.Announce{Name: "a", Namespaces: []string{hello}}, tree.root())
	ev.await("passed")
	question := string(testKey(testCommit).Text())
	for b.Loop() {
		began := time.Now()
		c, err := dial.Dial(b.Context(), "ssh://"+m.addr, dial.Options{Signers: []ssh.Signer{k}, KnownHosts: m.hosts})
		if err != nil {
			b.Fatal(err)
		}
		rwc, err := c.Import(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		cl, err := ninep.Import(b.Context(), rwc, ninep.ImportOptions{Aname: hello})
		if err != nil {
			b.Fatal(err)
		}
		answer, f := find(b, cl.Root(), question)
		path, _, _ := strings.Cut(answer, " ")
		if got := read(b, cl.Root(), path+".tar"); len(got) != 1<<16 {
			b.Fatal(len(got))
		}
		f.Close()
		cl.Close()
		c.Close()
		if d := time.Since(began); d > 5*time.Second {
			b.Fatal(d)
		}
	}
}
