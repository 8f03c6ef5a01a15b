package orchestrator

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pires/go-proxyproto"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"
)

// A netMux is a server in a network namespace, 10.77.0.1, and a namespace for its
// clients, which has the addresses 10.77.0.2 to 10.77.0.20.
type netMux struct {
	*testMux
	ns  string // of the clients
	log syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func startNetMux(t *testing.T, sources string) *netMux {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root makes network namespaces")
	}
	base := fmt.Sprintf("9ci-%d-%s", os.Getpid(), t.Name())
	server, clients := base+"-s", base+"-c"
	ip := func(args string) {
		t.Helper()
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	for _, ns := range []string{server, clients} {
		ip("netns add " + ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
		ip("-n " + ns + " link set lo up")
	}
	ip("-n " + server + " link add v0 type veth peer name v1 netns " + clients)
	ip("-n " + server + " addr add 10.77.0.1/24 dev v0")
	for i := 2; i <= 20; i++ {
		ip(fmt.Sprintf("-n %s addr add 10.77.0.%d/24 dev v1", clients, i))
	}
	ip("-n " + server + " link set v0 up")
	ip("-n " + clients + " link set v1 up")

	m := &netMux{testMux: &testMux{t: t, dir: filepath.Join(t.TempDir(), "state"), home: t.TempDir()}, ns: clients}
	if err := os.Mkdir(m.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	m.replace("sources", sources)
	m.start(listenIn(t, server, "10.77.0.1:0"), Options{Log: slog.New(slog.NewTextHandler(&m.log, nil))})
	return m
}

// listenIn listens in a namespace.
func listenIn(t testing.TB, ns, addr string) (l net.Listener) {
	t.Helper()
	err := inNamespace(ns, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// inNamespace calls f in a network namespace. A socket stays where it was made.
func inNamespace(ns string, f func() error) error {
	file, err := os.Open("/run/netns/" + ns)
	if err != nil {
		return err
	}
	defer file.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocks it: the thread ends with the goroutine
		err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// balancer relays connections to the server from an address of the clients, after a
// header. It returns options for ssh, by which it goes through there.
func (m *netMux) balancer(from, header string) []string {
	l := listenIn(m.t, m.ns, from+":0")
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				var to net.Conn
				err := inNamespace(m.ns, func() (err error) {
					d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
					to, err = d.Dial("tcp", m.addr)
					return err
				})
				if err != nil {
					m.t.Error(err)
					return
				}
				defer to.Close()
				io.WriteString(to, header)
				go func() {
					io.Copy(to, c)
					to.(*net.TCPConn).CloseWrite()
				}()
				io.Copy(c, to)
			})
		}
	})
	m.t.Cleanup(func() { l.Close(); wg.Wait() })
	host, port, _ := net.SplitHostPort(l.Addr().String())
	return []string{"-o", "Port=" + port, "-o", "HostName=" + host, "-o", "HostKeyAlias=" + knownhosts.Normalize(m.addr)}
}

// in runs a command among the clients.
func (m *netMux) in(name string, args ...string) (string, error) {
	out, err := exec.CommandContext(m.t.Context(), "ip", append([]string{"netns", "exec", m.ns, name}, args...)...).CombinedOutput()
	return string(out), err
}

// whoami runs ssh HOST whoami from an address.
func (m *netMux) whoami(from, keyFile string, options ...string) (string, error) {
	args := append(slices.Clone(options), m.opensshArgs(keyFile)...) // the first of an option counts
	if from != "" {
		args = append(args, "-b", from)
	}
	return m.in("ssh", append(args, "10.77.0.1", "whoami")...)
}

func (m *netMux) want(from, keyFile, denied string, options ...string) {
	m.t.Helper()
	out, err := m.whoami(from, keyFile, options...)
	if denied == "" && (err != nil || !strings.Contains(out, "rights=")) || denied != "" && (err == nil || !strings.Contains(out, denied)) {
		m.t.Errorf("ssh from %s: %q, %v; want %q", from, out, err, denied)
	}
}

// refused demands that the server hangs up at once, for which ssh has many words.
func (m *netMux) refused(from, keyFile string, options ...string) {
	m.t.Helper()
	if out, err := m.whoami(from, keyFile, options...); err == nil || strings.Contains(out, "denied") {
		m.t.Errorf("ssh from %s: %q, %v; want that the server hangs up", from, out, err)
	}
}

// Stock clients at their own addresses: one that guesses has to wait, and no other;
// one behind whose address a key has logged in does not; ssh-keyscan costs nothing.
func TestSources(t *testing.T) {
	m := startNetMux(t, "exempt 10.77.0.20\n")
	_, alice := m.key("", "alice")
	_, nobody := m.stranger()
	const denied = "Permission denied"
	m.want("10.77.0.4", alice, "")
	for range 4 { // 5 s each, less the time that they take
		m.want("10.77.0.3", nobody, denied)
		m.want("10.77.0.4", nobody, denied)
		m.want("10.77.0.20", nobody, denied)
	}
	m.refused("10.77.0.3", alice)
	m.want("10.77.0.4", nobody, denied)
	m.want("10.77.0.4", alice, "")
	m.want("10.77.0.20", nobody, denied)
	m.want("10.77.0.5", alice, "")
	for _, want := range []string{"msg=penalty addr=10.77.0.3:", "msg=refused addr=10.77.0.3:"} {
		if !strings.Contains(m.log.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, m.log.String())
		}
	}
	if strings.Contains(m.log.String(), "penalty addr=10.77.0.4") || strings.Contains(m.log.String(), "penalty addr=10.77.0.20") {
		t.Errorf("the log has other penalties:\n%s", m.log.String())
	}

	// 10.77.0.2 is the address of all that does not choose one.
	_, port, _ := net.SplitHostPort(m.addr)
	key := strings.Fields(string(ssh.MarshalAuthorizedKey(m.s.HostKey())))[1]
	for range 6 {
		if out, err := m.in("ssh-keyscan", "-p", port, "10.77.0.1"); err != nil || !strings.Contains(out, key) {
			t.Errorf("ssh-keyscan: %q, %v", out, err)
		}
	}
	m.want("10.77.0.2", nobody, denied)
	m.want("10.77.0.2", nobody, denied)
	m.want("10.77.0.2", alice, "")
}

// A key enters from the addresses of its line, also behind a balancer that tells the
// client's. Whatever is no balancer tells nothing.
func TestSourcesBalancer(t *testing.T) {
	m := startNetMux(t, "balancer 10.77.0.9\n")
	_, alice := m.key(`from="10.77.0.0/24,!10.77.0.6"`, "alice")
	_, bob := m.key(`from="203.0.113.*"`, "bob")
	_, nobody := m.stranger()
	const denied = "Permission denied"
	m.want("10.77.0.5", alice, "")
	m.want("10.77.0.6", alice, denied)
	m.want("10.77.0.5", bob, denied)

	v1 := func(ip string) string { return "PROXY TCP4 " + ip + " 10.77.0.1 40000 22\r\n" }
	by := m.balancer
	m.want("", bob, "", by("10.77.0.9", v1("203.0.113.9"))...)
	v2 := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.IPv4(203, 0, 113, 10), Port: 1}, &net.TCPAddr{IP: net.IPv4(10, 77, 0, 1), Port: 22})
	text, err := v2.Format()
	if err != nil {
		t.Fatal(err)
	}
	m.want("", bob, "", by("10.77.0.9", string(text))...)
	m.want("", alice, denied, by("10.77.0.9", string(text))...)
	m.refused("", bob, by("10.77.0.8", v1("203.0.113.9"))...)
	m.refused("", bob, by("10.77.0.9", "")...)
	for range 4 {
		m.want("", nobody, denied, by("10.77.0.9", v1("203.0.113.77"))...)
		m.want("", nobody, denied, by("10.77.0.9", v1("203.0.113.9"))...) // from which bob has logged in
	}
	m.refused("", bob, by("10.77.0.9", v1("203.0.113.77"))...)
	m.want("", bob, "", by("10.77.0.9", v1("203.0.113.9"))...)
	for _, want := range []string{"a balancer sends no PROXY header", "penalty addr=203.0.113.77:", "the client does not speak SSH"} {
		if !strings.Contains(m.log.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, m.log.String())
		}
	}
}
