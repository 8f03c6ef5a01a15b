package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"9ci/fs"
	"9ci/orchestrator/dial"
	"9ci/proto/ninep"
)

// A process is an orchestrator of its own, whose log a test reads.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string // of its standard error; closed at its end
}

// runProcess starts cmd, which is or becomes an orchestrator with the args.
func runProcess(t *testing.T, cmd *exec.Cmd, args ...string) *process {
	t.Helper()
	cmd.Env = append(cmd.Environ(), "ORCHESTRATOR_TEST_ARGS="+strings.Join(args, " "))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p := &process{t: t, cmd: cmd, lines: make(chan string, 1<<16)}
	go func() {
		defer close(p.lines)
		defer r.Close()
		for s := bufio.NewScanner(r); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return p
}

// await returns what the group of a pattern matches in the next line of the log
// that has it.
func (p *process) await(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var seen []string
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Minute) // so that it says what there was instead
	defer cancel()
	for {
		select {
		case line, ok := <-p.lines:
			if m := re.FindStringSubmatch(line); m != nil {
				return m[len(m)-1]
			}
			if !ok {
				p.t.Fatalf("the orchestrator ended; no %s in %q", pattern, seen)
			}
			seen = append(seen, line)
		case <-ctx.Done():
			p.t.Fatalf("no %s in %q", pattern, seen)
		}
	}
}

// end waits for the process, and returns its error.
func (p *process) end() error {
	for range p.lines {
	}
	return p.cmd.Wait()
}

func curl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("curl", append([]string{"-sS", "-w", "\n%{http_code}"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("curl %q: %v: %s", args, err, out)
	}
	return string(out)
}

// An operator's curl reads /metrics and /healthz, over TCP and over a Unix socket.
func TestMetricsByCurl(t *testing.T) {
	dir := t.TempDir()
	p := runProcess(t, exec.Command(os.Args[0]), "-state", dir, "-a", "tcp!127.0.0.1!0", "-metrics", "tcp!127.0.0.1!0")
	addr := p.await(`msg=metrics addr=(\S+)`)
	if out := curl(t, "http://"+addr+"/metrics"); !strings.Contains(out, "\norchestrator_connections 0\n") || !strings.HasSuffix(out, "\n200") {
		t.Errorf("/metrics: %s", out)
	}
	if out := curl(t, "http://"+addr+"/healthz"); out != "ok\n\n200" {
		t.Errorf("/healthz: %q", out)
	}
	if err := os.Remove(filepath.Join(dir, "authorized_keys")); err != nil {
		t.Fatal(err)
	}
	if out := curl(t, "http://"+addr+"/healthz"); !strings.Contains(out, "authorized_keys") || !strings.HasSuffix(out, "\n503") {
		t.Errorf("/healthz without authorized_keys: %q", out)
	}
	if out := curl(t, "http://"+addr+"/debug/pprof/"); !strings.HasSuffix(out, "\n404") {
		t.Errorf("another path: %q", out)
	}

	sock := filepath.Join(t.TempDir(), "metrics")
	p = runProcess(t, exec.Command(os.Args[0]), "-state", dir, "-a", "tcp!127.0.0.1!0", "-metrics", "unix!"+sock)
	p.await("msg=metrics")
	if out := curl(t, "--unix-socket", sock, "http://localhost/metrics"); !strings.HasSuffix(out, "\n200") {
		t.Errorf("/metrics on a socket: %s", out)
	}
}

// A tenant is a client of a process, and an executor that exports a big file, n/a/big.
type tenant struct {
	conn   *ssh.Client
	events chan error // nil each time the export joins, else why it was lost
}

const big = 8 << 20 // bytes: beyond a channel's window

func newTenant(t *testing.T, state, addr string) *tenant {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	line := append([]byte(`namespace="local/x" `), ssh.MarshalAuthorizedKey(key.PublicKey())...)
	if err := os.WriteFile(filepath.Join(state, "authorized_keys"), line, 0o600); err != nil {
		t.Fatal(err)
	}
	host, err := os.ReadFile(filepath.Join(state, "ssh_host_ed25519_key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey(host)
	if err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(known, []byte(knownhosts.Line([]string{addr}, hostKey)), 0o600); err != nil {
		t.Fatal(err)
	}
	conn, err := dial.Open("ssh://"+addr, dial.Options{Signers: []ssh.Signer{key}, KnownHosts: known})
	if err != nil {
		t.Fatal(err)
	}
	x := &tenant{events: make(chan error, 1<<10)}
	tree := fs.NewDir("/", fs.TextFile("big", func(context.Context) ([]byte, error) { return make([]byte, big), nil }))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan bool)
	a := dial.Announce{Name: "a", Namespaces: []string{"local/x"}, Joined: func() { x.events <- nil }, Lost: func(err error) { x.events <- err }}
	go func() {
		defer close(ended)
		conn.Export(ctx, a, func(ctx context.Context, rwc io.ReadWriteCloser, _ string, user fs.User) {
			srv := ninep.Server{User: user, Attach: func(context.Context, string, string) (fs.Dir, error) { return tree, nil }}
			srv.Serve(ctx, rwc)
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		conn.Close()
	})
	if err := <-x.events; err != nil {
		t.Fatal(err)
	}
	x.conn, err = ssh.Dial("tcp", addr, &ssh.ClientConfig{Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(hostKey)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.conn.Close() })
	return x
}

// stall starts a transfer of the big file, and reads its first byte.
func (x *tenant) stall(t *testing.T) io.Reader {
	t.Helper()
	s, err := x.conn.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("cat n/a/big"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return r
}

func (p *process) term() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
}

// At SIGTERM a transfer goes on to its end, nothing new is taken, and the status is
// 0. The executor is told why, and joins the next orchestrator there.
func TestTerm(t *testing.T) {
	dir := t.TempDir()
	p := runProcess(t, exec.Command(os.Args[0]), "-state", dir, "-a", "tcp!127.0.0.1!0", "-metrics", "tcp!127.0.0.1!0")
	addr := p.await(`msg=listen addr=(\S+)`)
	metrics := p.await(`msg=metrics addr=(\S+)`)
	x := newTenant(t, dir, addr)
	r := x.stall(t)
	p.term()
	p.await("msg=drain ")
	if out := curl(t, "http://"+metrics+"/healthz"); !strings.Contains(out, "stopping") || !strings.HasSuffix(out, "\n503") {
		t.Errorf("/healthz: %q", out)
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("a new connection is taken")
	}
	if _, err := x.conn.NewSession(); err == nil || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("a new session: %v, want that the orchestrator is stopping", err)
	}
	if rest, err := io.ReadAll(r); err != nil || len(rest) != big-1 {
		t.Errorf("the transfer has %d bytes and %v, want %d", len(rest), err, big-1)
	}
	p.await("msg=drained left=0")
	if err := p.end(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	if err := <-x.events; err == nil || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("the executor lost its connection: %v, want that the orchestrator is stopping", err)
	}
	runProcess(t, exec.Command(os.Args[0]), "-state", dir, "-a", "tcp!"+strings.Replace(addr, ":", "!", 1))
	for err := range x.events {
		if err == nil {
			break
		}
	}
}

// A second SIGTERM ends a transfer that stalls, with status 0.
func TestTwoTerms(t *testing.T) {
	dir := t.TempDir()
	p := runProcess(t, exec.Command(os.Args[0]), "-state", dir, "-a", "tcp!127.0.0.1!0")
	x := newTenant(t, dir, p.await(`msg=listen addr=(\S+)`))
	x.stall(t)
	p.term()
	p.await("msg=drain ")
	p.term()
	p.await("msg=drained left=1")
	if err := p.end(); err != nil {
		t.Errorf("after two SIGTERMs: %v", err)
	}
}

// Systemd is told when the service is ready, alive and stopping.
func TestNotify(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: sock, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+sock, "WATCHDOG_USEC=200000")
	p := runProcess(t, cmd, "-state", t.TempDir(), "-a", "tcp!127.0.0.1!0")
	seen := map[string]int{}
	await := func(state string, n int) {
		t.Helper()
		b := make([]byte, 4096)
		for seen[state] < n {
			l.SetReadDeadline(time.Now().Add(20 * time.Second))
			m, err := l.Read(b)
			if err != nil {
				t.Fatalf("%s: %v; so far %v", state, err, seen)
			}
			seen[string(b[:m])]++
		}
	}
	await("READY=1", 1)
	await("WATCHDOG=1", 3)
	p.term()
	await("STOPPING=1", 1)
	if err := p.end(); err != nil {
		t.Error(err)
	}
}

// Sockets that systemd passes are served by their names, and a name that says
// nothing here is refused.
func TestActivation(t *testing.T) {
	dir := t.TempDir()
	ssh, metrics, web := filepath.Join(dir, "ssh"), filepath.Join(dir, "metrics"), filepath.Join(dir, "web")
	activate := func(names string, args ...string) *process {
		return runProcess(t, exec.Command("systemd-socket-activate", "-l", ssh, "-l", metrics, "-l", web, "--fdname="+names,
			"-E", "ORCHESTRATOR_TEST_ARGS", os.Args[0]), args...)
	}
	p := activate("ssh:metrics:web", "-state", filepath.Join(dir, "state"), "-url", "https://ci.example.org")
	p.await("Listening on .*web")
	// The first connection starts the service. It is served too.
	if out := curl(t, "--unix-socket", metrics, "http://localhost/healthz"); out != "ok\n\n200" {
		t.Errorf("/healthz on the socket that was passed: %q", out)
	}
	if out := curl(t, "--unix-socket", web, "http://ci.example.org/login"); !strings.HasSuffix(out, "200") {
		t.Errorf("the page on the socket that was passed: %s", out)
	}
	if got := p.await(`msg=listen addr=(\S+)`); got != ssh {
		t.Errorf("it serves SSH on %s, want %s", got, ssh)
	}
	c, err := net.Dial("unix", ssh)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if line, err := bufio.NewReader(c).ReadString('\n'); !strings.HasPrefix(line, "SSH-2.0-9ci") {
		t.Errorf("the socket that was passed says %q, %v", line, err)
	}
	p.term()
	if err := p.end(); err != nil {
		t.Error(err)
	}

	// A socket for TLS has the service serve it, as -tls does.
	state := filepath.Join(dir, "state")
	work := openssl(t, state)
	if err := os.WriteFile(filepath.Join(state, "authorized_tls"), []byte("ci:box\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p = activate("tls:metrics:web", "-state", state, "-a", "tcp!127.0.0.1!0", "-url", "https://ci.example.org")
	p.await("Listening on .*web")
	out, err := exec.Command("openssl", "s_client", "-unix", ssh, "-alpn", "9p", "-verify_return_error", "-verify_hostname", "localhost",
		"-CAfile", filepath.Join(state, "tls-ca.pem"), "-cert", filepath.Join(work, "box.crt"), "-key", filepath.Join(work, "box.key")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "ALPN protocol: 9p\n") {
		t.Errorf("openssl on the socket that was passed: %v: %s", err, out)
	}
	if got := p.await(`msg=listen tls=(\S+)`); got != ssh {
		t.Errorf("it serves TLS on %s, want %s", got, ssh)
	}
	p.await("msg=login key=ci:box .*alpn=9p")
	p.term()
	if err := p.end(); err != nil {
		t.Error(err)
	}

	p = activate("ssh:mail:web", "-state", filepath.Join(dir, "state"))
	p.await("Listening on .*web")
	if c, err := net.Dial("unix", ssh); err == nil {
		defer c.Close()
	}
	p.await(`socket "mail" that systemd passes is for nothing here: say FileDescriptorName=ssh, tls, web or metrics`)
	var exit *exec.ExitError
	if err := p.end(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("with a socket of an unknown name: %v, want status 1", err)
	}
}

// The units are what systemd takes, leave the service little, and have sockets that the
// program takes.
func TestUnits(t *testing.T) {
	dir := t.TempDir()
	names := regexp.MustCompile(`(?m)^FileDescriptorName=(.*)$`)
	unit := func(name string) (path, text string) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text = strings.Replace(string(b), "/usr/local/bin/orchestrator", os.Args[0], 1) // verify looks for the program
		path = filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path, text
	}
	service, text := unit("9ci-orchestrator.service")
	verify := []string{"verify", service}
	for name, want := range map[string]string{"9ci-orchestrator.socket": "ssh", "9ci-orchestrator-web.socket": "web"} {
		socket, text := unit(name)
		verify = append(verify, socket)
		if m := names.FindStringSubmatch(text); m == nil || m[1] != want {
			t.Errorf("%s has the FileDescriptorName %q, want %s", name, m, want)
		}
	}
	if out, err := exec.Command("systemd-analyze", verify...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v: %s", err, out)
	}
	if out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold=20", service).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v: %s", err, out)
	}
	m := regexp.MustCompile(`(?m)^ExecStart=\S+ (.*)$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatal("the unit has no ExecStart")
	}
	if err := flags(new(options)).Parse(strings.Fields(m[1])); err != nil {
		t.Errorf("the unit's flags: %v", err)
	}
}
