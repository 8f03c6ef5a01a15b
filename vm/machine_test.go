package vm_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"9ci/vm"
	"9ci/vm/lend"
	"9ci/vm/network/networktest"
)

// imageCache is the user's, and savedCache one of these tests'.
var imageCache, savedCache string

// programs are what the machines of these tests are given, built once.
var programs struct{ guest, mk string }

// kvmDoubled is set for a process that is under a double of KVM.
const kvmDoubled = "9CI_TEST_KVM"

// underKVM has TestUnderKVM do what it is for.
const underKVM = "9CI_TEST_UNDER_KVM"

func TestMain(m *testing.M) {
	if program := vm.Needs()[0].Name; filepath.Base(os.Args[0]) == program {
		os.Exit(fakeQEMU())
	}
	if os.Getenv(kvmDoubled) != "" {
		err := becomeDoubled()
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Getenv(holdMachine) != "" || os.Getenv(underKVM) != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "9ci-vm-test")
	if err == nil {
		// The core OS is shared with all that runs here; saved machines,
		// which are of these tests' programs, are not.
		user, _ := os.UserCacheDir()
		imageCache = filepath.Join(user, "9ci")
		savedCache = filepath.Join(dir, "cache")
		programs.guest = filepath.Join(dir, "guest")
		programs.mk = filepath.Join(dir, "mk")
		err = errors.Join(
			build(programs.guest, "9ci/cmd/guest"),
			build(programs.mk, "9ci/cmd/mk"),
		)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

func build(to, pkg string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", to, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// config is a machine's that a test may change and start.
func config(t testing.TB) vm.Config {
	t.Helper()
	img, err := vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: imageCache, Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	return vm.Config{Image: img, Guest: programs.guest, Mk: programs.mk, Memory: 1 << 30, CPUs: 1, Dir: t.TempDir(), Cache: savedCache}
}

func start(t testing.TB, c vm.Config) *vm.Machine {
	t.Helper()
	m, err := vm.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Kill)
	return m
}

// sh runs a script in m and fails the test unless it ends with want.
func sh(t *testing.T, m *vm.Machine, script string, want int) (stdout, stderr string) {
	t.Helper()
	var o, e bytes.Buffer
	exit, err := m.Run(t.Context(), vm.Cmd{Args: []string{"sh", "-c", script}, Stdout: &o, Stderr: &e})
	if err != nil {
		t.Fatalf("sh -c %q: %v", script, err)
	}
	if exit.Code != want {
		t.Fatalf("sh -c %q = %d, want %d\n%s%s", script, exit.Code, want, &o, &e)
	}
	return o.String(), e.String()
}

// One machine, as a run uses it: commands, a share, podman, power down.
func TestMachine(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	c := config(t)
	source, later := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "from host"), []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Shares = []vm.Share{
		{Tag: "source", Dir: source, Target: "/n/source"},
		{Tag: "later", Dir: later},
	}
	c.Net = true
	c.Disk, c.Outbox = 4<<30, 1<<20
	m := start(t, c)

	stdout, stderr := sh(t, m, "echo out; echo err >&2; exit 7", 7)
	if stdout != "out\n" || stderr != "err\n" {
		t.Errorf("stdout %q, stderr %q", stdout, stderr)
	}
	if exit, err := m.Run(t.Context(), vm.Cmd{Args: []string{"sh", "-c", "kill -9 $$"}}); err != nil || exit != (vm.Exit{Code: 137, Signal: 9}) {
		t.Errorf("kill -9 = %+v, %v", exit, err)
	}
	if _, err := m.Run(t.Context(), vm.Cmd{Args: []string{"no such program"}}); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("no such program: %v, want %v", err, iofs.ErrNotExist)
	}

	shares(t, m, source, later)

	// What the guest hands over: what it wrote, zeros, and no more than fits.
	sh(t, m, "cat '/n/source/from host' >"+m.OutboxDevice()+" && sync", 0)
	if b, err := io.ReadAll(m.Outbox()); err != nil || string(b) != "hello\n"+strings.Repeat("\x00", 1<<20-6) {
		t.Errorf("Outbox = %.20q of %d bytes, %v", b, len(b), err)
	}
	if _, stderr := sh(t, m, "cat /dev/zero >"+m.OutboxDevice(), 1); !strings.Contains(stderr, "No space left on device") {
		t.Errorf("a full outbox: %q", stderr)
	}

	// Several at once, each with an input and an output of its own.
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			in := strings.Repeat(fmt.Sprintf("line of %d\n", i), 20000)
			var out bytes.Buffer
			exit, err := m.Run(t.Context(), vm.Cmd{Args: []string{"cat"}, Stdin: strings.NewReader(in), Stdout: &out})
			if err != nil || exit.Code != 0 || out.String() != in {
				t.Errorf("cat %d = %+v, %v, %d bytes, want %d", i, exit, err, out.Len(), len(in))
			}
		})
	}
	wg.Wait()

	services(t, m)

	// podman: an image of a shell, built upon and run.
	sh(t, m, `tar -C / -c bin lib lib64 usr/bin/sh usr/bin/dash usr/bin/cat usr/lib/x86_64-linux-gnu/libc.so.6 \
		$(cd / && find usr/lib*/ -name 'ld-linux-x86-64.so.2') | podman import -q - localhost/sh`, 0)
	sh(t, m, `printf 'FROM localhost/sh\nRUN echo built >/f\n' >/src/Containerfile && podman build -q -t localhost/built /src`, 0)
	if stdout, _ := sh(t, m, `podman run --rm --network=none -v /src:/a localhost/built sh -c 'cat /f >/a/f; exit 9'; echo $?; cat /src/f`, 0); stdout != "9\nbuilt\n" {
		t.Errorf("status and file that a container left = %q", stdout)
	}
	if stdout, stderr := sh(t, m, "podman run --rm --network=host localhost/built sh -c 'echo out; echo err >&2'", 0); stdout != "out\n" || stderr != "err\n" {
		t.Errorf("podman run: stdout %q, stderr %q", stdout, stderr)
	}

	tty(t, m)

	if err := m.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := m.Err(); err != nil {
		t.Errorf("Err after Shutdown: %v", err)
	}
	if _, err := m.Run(context.Background(), vm.Cmd{Args: []string{"true"}}); err == nil {
		t.Error("Run after Shutdown: no error")
	}
	if _, err := m.Outbox().Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Outbox after Shutdown: %v, want %v", err, os.ErrClosed)
	}
}

// shares attacks what the host shares as root of the machine: all of it can
// be read, none of it changed, and a link leads nowhere on the host.
func shares(t *testing.T, m *vm.Machine, source, later string) {
	t.Helper()
	if stdout, _ := sh(t, m, "mkdir /n/later && mount -t 9p -o trans=virtio,version=9p2000.L later /n/later && ls -A /n/later", 0); stdout != "" {
		t.Errorf("a share that is empty has %q", stdout)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	file := filepath.Join(later, "file")
	if err := errors.Join(os.WriteFile(secret, []byte("the host's\n"), 0o644), os.Symlink(secret, filepath.Join(later, "link")),
		os.WriteFile(file, []byte("shown\n"), 0o444), syscall.Mkfifo(filepath.Join(later, "fifo"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if stdout, _ := sh(t, m, "cat /n/later/file", 0); stdout != "shown\n" {
		t.Errorf("a file that came later = %q", stdout)
	}
	sh(t, m, "cat /n/later/link", 1)
	sh(t, m, "timeout 1 cat /n/later/fifo", 124) // the guest's own, which holds up nobody
	for _, dir := range []string{"/n/source", "/n/later"} {
		sh(t, m, "mount -o remount,rw "+dir, 0)
		for _, attack := range []string{
			"touch $d/x", "mkdir $d/x", "ln -s / $d/x", "mknod $d/x c 1 3", "mv $d/* $d/x", "rm -f $d/*",
			"chmod 4777 $d/f*", "chown 1 $d/f*", "touch -h $d/f*", "echo x >>$d/file", "ln $d/f* $d/x", "truncate -s 0 $d/f*",
		} {
			sh(t, m, "d="+dir+"; ! { "+attack+"; }", 0)
		}
	}
	if b, err := os.ReadFile(file); string(b) != "shown\n" {
		t.Errorf("the host's file is now %q, %v", b, err)
	}
	for dir, want := range map[string]string{source: "from host", later: "fifo file link"} {
		list, err := os.ReadDir(dir)
		var names []string
		for _, e := range list {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("the host's share has now %q, %v, want %q", got, err, want)
		}
	}
}

// A trap listens on every address of this host, and has what came.
type trap struct {
	port string
	mu   sync.Mutex
	came []string
}

func newTrap(t *testing.T) *trap {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p := &trap{}
	_, p.port, _ = net.SplitHostPort(l.Addr().String())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.add("tcp " + c.LocalAddr().String())
			c.Close()
		}
	})
	wg.Go(func() {
		b := make([]byte, 100)
		for {
			n, _, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			p.add("udp " + string(b[:n]))
		}
	})
	t.Cleanup(func() {
		l.Close()
		u.Close()
		wg.Wait()
	})
	return p
}

func (p *trap) add(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.came = append(p.came, what)
}

func (p *trap) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.came)
}

// wayOut is what root of a machine does to its routes: all that is not the card's own
// address goes out by the card, the machine's loopback too.
const wayOut = `
set -e
for f in all/route_localnet all/accept_local eth0/route_localnet eth0/accept_local; do echo 1 >/proc/sys/net/ipv4/conf/$f; done
for f in all eth0; do echo 0 >/proc/sys/net/ipv4/conf/$f/rp_filter; done
ip route add table 50 local 10.0.2.15 dev eth0
ip -6 route add table 50 local fd00:9c1::15 dev eth0
for to in 0.0.0.0/1 128.0.0.0/1; do ip route add $to via 10.0.2.2 dev eth0 src 10.0.2.15 table 50; done
for to in ::/1 8000::/1; do ip -6 route add $to via fd00:9c1::2 dev eth0 src fd00:9c1::15 table 50; done
for v in -4 -6; do
	ip $v rule add pref 100 lookup local
	ip $v rule add pref 50 lookup 50
	ip $v rule del pref 0
done
`

// TestNetwork has a machine that goes on from a saved one reach the outside and a
// forward, or not, as the host says; then root of it attacks this host.
func TestNetwork(t *testing.T) {
	o := networktest.New(t)
	l := o.Listen(t, "tcp", ":0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "outside\n")
			c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	c := config(t)
	c.Net = true
	c.Forwards = map[uint16]http.Handler{
		8000: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "forward\n") }),
	}
	m := start(t, c)
	ask := fmt.Sprintf(`for to in %v/%s %v/%[2]s; do timeout 5 bash -c "cat </dev/tcp/$to" || echo none; done
timeout 5 bash -c 'exec 3<>/dev/tcp/10.0.2.2/8000; printf "GET / HTTP/1.0\r\n\r\n" >&3; tail -1 <&3' || echo none`, o.Addr, port, o.Addr6)
	for _, up := range []bool{true, false, true} {
		if err := m.SetNet(t.Context(), up); err != nil {
			t.Fatal(err)
		}
		want := "outside\noutside\nforward\n"
		if !up {
			want = "none\nnone\nnone\n"
		}
		if got, _ := sh(t, m, "("+ask+") 2>/dev/null", 0); got != want {
			t.Errorf("network %v: got %q, want %q", up, got, want)
		}
	}
	sh(t, m, wayOut, 0)
	if got, _ := sh(t, m, "("+ask+") 2>/dev/null", 0); got != "outside\noutside\nforward\n" {
		t.Errorf("by root's own routes: got %q", got)
	}
	escape(t, m)
}

// escape attacks this host as root of m, whose packets all go out by its card: none
// may reach a socket here.
func escape(t *testing.T, m *vm.Machine) {
	t.Helper()
	p := newTrap(t)
	targets := []string{
		"10.0.2.2", "10.0.2.3", "10.0.2.255", "127.0.0.1", "127.0.0.53", "127.255.255.254", "0.0.0.0", "0.0.0.1",
		"169.254.169.254", "255.255.255.255", "::1", "::", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
		"fd00:9c1::2", "rebound.example",
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	ours := 0 // connections of this process, which the trap catches
	for _, a := range own {
		ip, _, _ := net.ParseCIDR(a.String())
		if c, err := net.Dial("tcp", net.JoinHostPort(ip.String(), p.port)); err == nil {
			c.Close()
			ours++
		}
		targets = append(targets, ip.String())
	}
	for ours == 0 || len(p.all()) < ours {
		runtime.Gosched()
	}
	sh(t, m, "echo 127.0.0.1 rebound.example >>/etc/hosts", 0)
	sh(t, m, "for a in "+strings.Join(targets, " ")+"; do for p in tcp udp; do "+
		`timeout 5 bash -c "echo $p-$a >/dev/$p/$a/`+p.port+`" 2>/dev/null & done; done; wait`, 0)
	if came := p.all(); len(came) > ours {
		t.Errorf("a machine reached sockets of this host: %q", came[ours:])
	}
}

// TestLent has a machine use what its host lends: Debian's archive by way of the
// host's proxy, and a registry with the host's password; and look for passwords.
func TestLent(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute, and Debian's archive")
	}
	const secret = "hunter2hunter2"
	var used sync.Map // by the proxy, scheme and host
	direct := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {}, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment}}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if want := "Basic " + base64.StdEncoding.EncodeToString([]byte("bob:"+secret)); r.Header.Get("Proxy-Authorization") != want {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		used.Store(r.URL.Scheme+"://"+r.Host, true)
		direct.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	hub := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	private := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, p, _ := r.BasicAuth(); p != secret {
			w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		hub.ServeHTTP(w, r)
	}))
	defer private.Close()
	at, err := url.Parse(private.URL)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(at.Host + "/library/image:1")
	if err != nil {
		t.Fatal(err)
	}
	img, err := random.Image(1<<20, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: "bob", Password: secret})); err != nil {
		t.Fatal(err)
	}
	auth := filepath.Join(t.TempDir(), "auth.json")
	text := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, at.Host, base64.StdEncoding.EncodeToString([]byte("bob:"+secret)))
	if err := os.WriteFile(auth, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	c := config(t) // before the proxy: an image that is built goes the host's own way
	t.Setenv("http_proxy", strings.Replace(proxy.URL, "//", "//bob:"+secret+"@", 1))
	loan, err := lend.Host(t.Context(), lend.Options{Registries: []lend.Registry{{Name: "docker.io", URL: at}}, AuthFile: auth})
	if err != nil || len(loan.Warnings) != 0 {
		t.Fatalf("%v, warnings %q", err, loan.Warnings)
	}
	c.Net, c.Files, c.Forwards, c.Env, c.Disk = true, loan.Files, loan.Forwards, loan.Env, 4<<30
	m := start(t, c)

	sh(t, m, "sed -i /security/!d /etc/apt/sources.list && apt-get -q update && ls /var/lib/apt/lists | grep -q Packages", 0)
	n := 0
	used.Range(func(to, _ any) bool {
		n++
		return true
	})
	if n == 0 {
		t.Error("apt did not go by the host's proxy")
	}
	if out, _ := sh(t, m, "podman pull -q docker.io/library/image:1", 0); len(out) < 64 {
		t.Errorf("podman pull: %q", out)
	}
	sh(t, m, "podman tag docker.io/library/image:1 10.0.2.2:5000/library/mine && ! podman push -q --tls-verify=false 10.0.2.2:5000/library/mine", 0)
	sh(t, m, "! { cat /proc/*/environ; grep -rsh . /etc /run /root /var/lib/containers/storage/libpod; } | grep -a -e "+secret+" -e "+base64.StdEncoding.EncodeToString([]byte("bob:" + secret))[:16]+" -e "+strings.TrimPrefix(proxy.URL, "http://"), 0)

	// The proxy is on this host's loopback, and reaches nothing else there for a
	// machine.
	for _, to := range []string{private.URL, strings.Replace(private.URL, "127.0.0.1", "localhost", 1), "http://[::1]"} {
		got, _ := sh(t, m, `timeout 5 bash -c 'exec 3<>/dev/tcp/10.0.2.2/3128; printf "GET `+to+`/ HTTP/1.1\r\nHost: x\r\n\r\n" >&3; head -1 <&3'`, 0)
		if !strings.HasPrefix(got, "HTTP/1.1 403") {
			t.Errorf("%s by the proxy: %q", to, got)
		}
	}
}

// services runs programs as services of m, in its namespace Loopback: with all that came
// of it a service ends when it fails or is told to.
func services(t *testing.T, m *vm.Machine) {
	t.Helper()
	for _, tt := range []struct {
		script string
		code   int
		out    string // once it began, the service is told to end
	}{
		{"ulimit -n; ulimit -Hn; ip -br addr | tr -s ' '; exit 7", 7, "65536\n1048576\nlo UNKNOWN 127.0.0.1/8 ::1/128 \n"},
		{"setsid sleep 1000 & exit 7", 7, ""},
		{`setsid sh -c 'trap "echo ends; exit" TERM; echo began; while :; do sleep 0.1; done' & exit 0`, 0, "began\nends\n"},
		{`trap '' TERM; setsid sh -c 'trap "" TERM; echo began; sleep 1000' & sleep 1000`, 137, "began\n"},
	} {
		signals := make(chan syscall.Signal, 1)
		var out bytes.Buffer
		exit, err := m.Run(t.Context(), vm.Cmd{
			Args: []string{vm.GuestPath, "service", "x", "nsenter", "--net=" + vm.Loopback, "sh", "-c", tt.script},
			Stdout: writer(func(p []byte) (int, error) {
				if out.Write(p); out.String() == "began\n" {
					signals <- syscall.SIGTERM
				}
				return len(p), nil
			}),
			Signals: signals,
		})
		if err != nil || exit.Code != tt.code || out.String() != tt.out {
			t.Errorf("%s: %+v, %v, %q, want %d, %q", tt.script, exit, err, &out, tt.code, tt.out)
		}
		if left, _ := sh(t, m, "pgrep -x sleep; ls -d /sys/fs/cgroup/service.*", 2); left != "" {
			t.Errorf("%s left %q", tt.script, left)
		}
	}
	if _, stderr := sh(t, m, vm.GuestPath+" service a/b true", 1); !strings.Contains(stderr, "usage: ") {
		t.Errorf("a service of no name: %q", stderr)
	}
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// tty runs a command on a terminal of m.
func tty(t *testing.T, m *vm.Machine) {
	t.Helper()
	resize := make(chan vm.Size, 1)
	resize <- vm.Size{Rows: 33, Cols: 99}
	var out bytes.Buffer
	exit, err := m.Run(t.Context(), vm.Cmd{
		Args: []string{"sh", "-c", "tty; stty size"}, TTY: true, Resize: resize, Stdout: &out,
	})
	if want := "/dev/pts/0\r\n33 99\r\n"; err != nil || exit.Code != 0 || out.String() != want {
		t.Errorf("on a terminal: %+v, %v, %q, want %q", exit, err, &out, want)
	}
}

// What is wrong in a machine is in the error that ends it.
func TestGuestPanics(t *testing.T) {
	m := start(t, config(t))
	_, err := m.Run(t.Context(), vm.Cmd{Args: []string{"sh", "-c", "echo c >/proc/sysrq-trigger"}})
	if err == nil || !strings.Contains(err.Error(), "guest panicked: ") || !strings.Contains(err.Error(), "sysrq") {
		t.Errorf("Run: %v, want the panic", err)
	}
	<-m.Done()
}

// A guest whose memory is full lives on, and the host knows which process it killed.
func TestGuestOutOfMemory(t *testing.T) {
	c := config(t)
	c.Memory, c.Cold = 256<<20, true
	m := start(t, c)
	sh(t, m, "exec tail /dev/zero", 128+9)
	if line := m.OutOfMemory(); !strings.HasSuffix(line, "(tail)") {
		t.Errorf("OutOfMemory = %q, want one of tail", line)
	}
	sh(t, m, "true", 0)
}

// A guest has the disk it was given, and no network unless it was.
func TestGuestLimits(t *testing.T) {
	c := config(t)
	c.Disk = 64 << 20
	m := start(t, c)
	_, stderr := sh(t, m, "head -c 100M /dev/zero >/src/big", 1)
	if !strings.Contains(stderr, "No space left on device") {
		t.Errorf("a full disk: %q", stderr)
	}
	sh(t, m, "rm /src/big && test -z \"$(ip route)\" || ip link show eth0 | grep -q NO-CARRIER", 0)
}

// A host without room for what a guest writes ends the machine, which
// would wait for room for ever.
func TestHostDiskFull(t *testing.T) {
	c := config(t)
	if err := syscall.Mount("tmpfs", c.Dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("needs to mount a small disk: %v", err)
	}
	defer syscall.Unmount(c.Dir, syscall.MNT_DETACH)
	c.Disk = 1 << 30
	m := start(t, c)
	_, err := m.Run(t.Context(), vm.Cmd{Args: []string{"sh", "-c", "head -c 100M /dev/zero >/src/big; sync"}})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), c.Dir) {
		t.Errorf("Run: %v, want %v", err, syscall.ENOSPC)
	}
	<-m.Done()
}

// A machine that goes on from a saved one is as good as one that starts
// cold, and is like no other.
func TestSavedMachine(t *testing.T) {
	c := config(t)
	var log bytes.Buffer
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	ids := make(map[string]bool)
	const n = 4
	for i := range n {
		c.Net = i%2 == 0
		c.Disk = int64(i/2) << 30 // both kinds
		m := start(t, c)
		id, _ := sh(t, m, "cat /proc/sys/kernel/random/uuid", 0)
		ids[id] = true
		if _, err := sh(t, m, "touch /src/mine && test $(ls /src | wc -l) = 1", 0); err != "" {
			t.Error(err)
		}
		now, _ := sh(t, m, "date +%s", 0)
		if s, err := strconv.ParseInt(strings.TrimSpace(now), 10, 64); err != nil || time.Since(time.Unix(s, 0)).Abs() > 5*time.Second {
			t.Errorf("the guest's clock is at %s, want %d", now, time.Now().Unix())
		}
		want := "UP"
		if !c.Net {
			want = "DOWN"
		}
		// The kernel tells of a change of the link when it comes to it.
		if link, _ := sh(t, m, "for i in $(seq 100); do ip -br link show eth0 | grep ' "+want+" ' && break; sleep 0.1; done", 0); link == "" {
			t.Errorf("network %v: eth0 is not %s", c.Net, want)
		}
		if err := m.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if len(ids) != n {
		t.Errorf("%d machines have %d different random numbers", n, len(ids))
	}
	if got := strings.Count(log.String(), "start=saved"); got != n {
		t.Errorf("%d machines went on from a saved one, want %d\n%s", got, n, &log)
	}
}

// A state that is damaged is not used twice.
func TestSavedMachineDamaged(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	c := config(t)
	c.Shares = []vm.Share{{Tag: "only here", Dir: t.TempDir()}}
	var log bytes.Buffer
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	c.Cache = t.TempDir()
	start(t, c).Kill()
	states, err := filepath.Glob(filepath.Join(c.Cache, "saved", "*", "state"))
	if err != nil || len(states) != 1 {
		t.Fatalf("states %q, %v, want one", states, err)
	}
	b, err := os.ReadFile(states[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(states[0], b[:len(b)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		sh(t, start(t, c), "true", 0)
	}
	if got := strings.Count(log.String(), "no saved machine"); got != 1 {
		t.Errorf("told %d times, want once\n%s", got, &log)
	}
	if got := strings.Count(log.String(), "start=cold"); got != 2 {
		t.Errorf("%d cold starts, want 2\n%s", got, &log)
	}
}
