package cmd_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/executor"
	"9ci/cmd/internal/host"
	"9ci/cmd/internal/replay"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/dial"
)

// asker is a program: an executor that asks for HEAD as 9ci does, but whose run
// needs no machine. It says "runs", and ends the run when it reads a line; or it
// says "replayed". It stays connected until its input ends.
func asker() {
	if err := askHead(); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

func askHead() error {
	ctx := context.Background()
	rp, err := repo.Open(ctx, ".")
	if err != nil {
		return err
	}
	c, err := config.Load(ctx, rp, nil)
	if err != nil {
		return err
	}
	commit, tree, err := rp.Resolve(ctx, "HEAD")
	if err != nil {
		return err
	}
	say := func(format string, args ...any) { fmt.Printf("say "+format+"\n", args...) }
	h, err := host.New(ctx, rp, c, host.Options{Mode: "run", Version: "test", Queue: new(executor.Queue), Log: slog.New(slog.DiscardHandler), Say: say})
	if err != nil {
		return err
	}
	defer h.Close()
	h.Start(ctx)
	export, leave := context.WithCancel(ctx)
	defer leave()
	h.Export(export)

	e := h.Executor
	key := replay.Key(c, commit, tree, []string{"test"})
	elsewhere := e.Seek(rp, key, c)
	id, err := elsewhere.Replay(ctx)
	if err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	if id == "" {
		run, err := e.Store.Create(commit)
		if err != nil {
			return err
		}
		run.SetKey(key)
		run.SetInfo(ci.Attrs{{Name: "tree", Value: tree}})
		var release func()
		id, release, err = elsewhere.Await(ctx, run.ID())
		switch {
		case err != nil:
			return err
		case id != "":
			run.Discard()
		default:
			run.Enter("test")
			fmt.Println("runs")
			in.ReadString('\n')
			run.Leave("test", "passed", 0)
			if err := run.Seal(ctx, "passed", 0, e.Sign); err != nil {
				return err
			}
			fmt.Println("ran")
		}
		release()
	}
	if id != "" {
		fmt.Println("replayed", id)
	}
	io.Copy(io.Discard, in)
	return nil
}

// A process is a program of a test, whose lines the test reads.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

// processes are what a test has started, and what they have said so far.
type processes struct {
	t     *testing.T
	lines chan [2]string // name and line
	said  map[string][]string
}

// start starts a program that ends with the test.
func (ps *processes) start(name string, cmd *exec.Cmd) *process {
	ps.t.Helper()
	p := &process{name: name, cmd: cmd}
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		ps.t.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		ps.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		ps.t.Fatal(err)
	}
	w.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(out); s.Scan(); {
			ps.lines <- [2]string{name, s.Text()}
		}
	}()
	ps.t.Cleanup(func() {
		p.kill()
		<-done
	})
	return p
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// until reads lines until enough of the processes have said the words, and returns
// those.
func (ps *processes) until(enough int, words string, of ...*process) (did []*process) {
	ps.t.Helper()
	timeout := time.After(patience)
	for {
		did = nil
		for _, p := range of {
			if strings.Contains(strings.Join(ps.said[p.name], "\n"), words) {
				did = append(did, p)
			}
		}
		if len(did) >= enough {
			return did
		}
		select {
		case l := <-ps.lines:
			ps.t.Logf("%s: %s", l[0], l[1])
			ps.said[l[0]] = append(ps.said[l[0]], l[1])
		case <-timeout:
			ps.t.Fatalf("%d of %d said %q, want %d", len(did), len(of), words, enough)
		}
	}
}

// A party is an orchestrator, and users that may enter it and trust each other. They
// work in one clone.
type party struct {
	processes
	dir, addr string
	known     string // a known_hosts file
}

func newParty(t *testing.T, users ...string) *party {
	t.Helper()
	p := &party{processes: processes{t: t, lines: make(chan [2]string, 1000), said: map[string][]string{}}, dir: t.TempDir(), addr: "127.0.0.1!0"}
	script := `set -e
cd "$1"
mkdir repo home home/.ssh
cd repo
git init -q
git remote add origin https://example.org/alice/hello.git
echo 'test:V:' >mkfile
git add -A
git -c user.name=gopher -c user.email=gopher@example.org commit -qm sample
cd ..
shift
for u; do
	mkdir -p $u/ns $u/state $u/config/9ci
	ssh-keygen -q -t ed25519 -N '' -C $u -f $u/config/9ci/id_ed25519
	cat $u/config/9ci/id_ed25519.pub >>keys
	sed "s/^/$u /" $u/config/9ci/id_ed25519.pub >>signers
done
for u; do cp signers $u/config/9ci/allowed_signers; done
`
	if out, err := exec.CommandContext(t.Context(), "sh", append([]string{"-c", script, "sh", p.dir}, users...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return p
}

// sh runs a script in the party's directory.
func (p *party) sh(script string) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "sh", "-ec", script)
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// orchestrator starts the orchestrator: again at the same address, if it has had one.
func (p *party) orchestrator(flags ...string) *process {
	p.t.Helper()
	state := filepath.Join(p.dir, "orchestrator")
	delete(p.said, "orchestrator")
	o := p.start("orchestrator", exec.Command(filepath.Join(bin, "orchestrator"), append([]string{"-a", "tcp!" + p.addr, "-state", state}, flags...)...))
	p.until(1, "addr=", o)
	_, addr, _ := strings.Cut(strings.Join(p.said["orchestrator"], "\n"), "addr=")
	addr, _, _ = strings.Cut(addr, " ")
	hostname, port, err := net.SplitHostPort(addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.addr = hostname + "!" + port
	key, err := os.ReadFile(filepath.Join(state, "ssh_host_ed25519_key.pub"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.known = filepath.Join(p.dir, "home/.ssh/known_hosts")
	if err := os.WriteFile(p.known, fmt.Appendf(nil, "[%s]:%s %s", hostname, port, key), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return o
}

func (p *party) url() string { return "ssh://" + strings.Replace(p.addr, "!", ":", 1) }

// env is the environment of a user.
func (p *party) env(user string) []string {
	dir := filepath.Join(p.dir, user)
	return append(os.Environ(), "HOME="+filepath.Join(p.dir, "home"), "NAMESPACE="+dir+"/ns", "XDG_STATE_HOME="+dir+"/state",
		"XDG_CONFIG_HOME="+dir+"/config", "CI_ORCHESTRATOR="+p.url())
}

// asker starts an asker of a user.
func (p *party) asker(user string) *process {
	p.t.Helper()
	self, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Args = []string{"asker"}
	cmd.Dir, cmd.Env = filepath.Join(p.dir, "repo"), p.env(user)
	return p.start(user, cmd)
}

func (p *party) keyFile(user string) string {
	return filepath.Join(p.dir, user, "config/9ci/id_ed25519")
}

// key returns the key of a user.
func (p *party) key(user string) ssh.Signer {
	p.t.Helper()
	key, err := sign.LoadKey(p.keyFile(user))
	if err != nil {
		p.t.Fatal(err)
	}
	return key
}

// events reads the event file of the namespace, as a user, until n executors have
// joined.
func (p *party) events(user string, n int) {
	p.t.Helper()
	key := p.key(user)
	login := func() ([]ssh.Signer, error) { return sign.Logins(key, p.keyFile(user)) }
	conn, err := dial.Open(p.url(), dial.Options{Login: login, KnownHosts: p.known})
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	c, err := host.ImportTree(p.t.Context(), conn, "example.org/alice/hello")
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	e, err := fs.Walk(p.t.Context(), c.Root(), "event")
	if err != nil {
		p.t.Fatal(err)
	}
	f, err := e.Open(p.t.Context(), fs.OpenRead)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	var text strings.Builder
	buf := make([]byte, 4096)
	for strings.Count(text.String(), " join ") < n {
		k, err := f.ReadAt(p.t.Context(), buf, int64(text.Len()))
		if err != nil {
			p.t.Fatal(err)
		}
		text.Write(buf[:k])
	}
}

// Four executors ask for one revision. The orchestrator is killed and started again
// while three wait for the fourth, and nobody else runs. Then the one that runs is
// killed, and one of the three follows, whose run the two others replay.
func TestAskers(t *testing.T) {
	p := newParty(t, "alice", "bob", "carol", "dave")
	o := p.orchestrator()
	p.sh("cp keys orchestrator/authorized_keys")
	alice := p.asker("alice")
	p.until(1, "runs", alice)
	waiters := []*process{p.asker("bob"), p.asker("carol"), p.asker("dave")}
	p.until(3, "say waiting for n/", waiters...)

	o.kill()
	p.until(3, "asking again", waiters...)
	p.orchestrator()
	p.events("alice", 4)
	alice.kill()
	next := p.until(1, "runs", waiters...)
	if len(next) != 1 {
		t.Fatalf("%d follow alice, want 1", len(next))
	}
	io.WriteString(next[0].stdin, "pass\n")
	p.until(1, "ran", next...)
	p.until(2, "replayed ", waiters...)
	if ran := p.until(0, "runs", waiters...); len(ran) != 1 {
		t.Errorf("%d followed alice, want 1", len(ran))
	}
}

// Executors whose keys the orchestrator does not know log in with certificates: they
// wait for each other, and the holder of an executor's key has its ctl. When the
// orchestrator is started again and trusts another authority, they come back with
// the certificates that stand there by then.
func TestAskersWithCertificates(t *testing.T) {
	p := newParty(t, "alice", "bob", "carol")
	o := p.orchestrator()
	certify := func(ca string) {
		t.Helper()
		p.sh("ca=" + ca + `
ssh-keygen -q -t ed25519 -N '' -f $ca
sed 's/^/cert-authority /' $ca.pub >orchestrator/authorized_keys
for u in alice bob; do ssh-keygen -q -s $ca -I $u -n $u -V -1m:+1h $u/config/9ci/id_ed25519.pub; done
ssh-keygen -q -s $ca -I carol -n carol -V 20200101000000Z:20200102000000Z carol/config/9ci/id_ed25519.pub
`)
	}
	certify("ca1")
	nineci := func(user string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "9ci"), args...)
		cmd.Dir, cmd.Env = filepath.Join(p.dir, "repo"), p.env(user)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	alice := p.asker("alice")
	p.until(1, "runs", alice)
	bob := p.asker("bob")
	p.until(1, "say waiting for n/", bob)

	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	ctl := fmt.Sprintf("%s/example.org/alice/hello/n/%s.%d/ctl", p.url(), hostname, alice.cmd.Process.Pid)
	if out, err := nineci("alice", "cat", ctl); err != nil || !strings.Contains(out, "cancel ID") {
		t.Errorf("alice reads her executor's ctl: %q, %v", out, err)
	}
	if out, err := nineci("bob", "cat", ctl); err == nil || !strings.Contains(out, "does not exist") {
		t.Errorf("bob reads it: %q, %v, want not found", out, err)
	}
	if out, err := nineci("carol", "cat", ctl); err == nil || !strings.Contains(out, "carol/config/9ci/id_ed25519-cert.pub: the certificate ended at 2020-01-02T00:00:00Z: renew it") {
		t.Errorf("carol, whose certificate has ended: %q, %v", out, err)
	}

	o.kill()
	p.until(1, "asking again", bob)
	certify("ca2")
	p.orchestrator()
	p.events("alice", 2)
	io.WriteString(alice.stdin, "pass\n")
	p.until(1, "ran", alice)
	p.until(1, "replayed ", bob)
	if ran := p.until(0, "runs", bob); len(ran) > 0 {
		t.Error("bob ran too")
	}
}
