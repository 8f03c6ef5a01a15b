package orchestrator

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/dial"
)

func get(t testing.TB, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	b, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(b)
}

// metric returns the value of a line of /metrics.
func metric(t testing.TB, m *testMux, series string) string {
	t.Helper()
	_, text := get(t, m.s.Handler(), "/metrics")
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), series+" "); ok {
			return v
		}
	}
	t.Errorf("/metrics has no %s", series)
	return ""
}

// /metrics counts what happens, by Prometheus's conventions, and tells no key and
// no namespace.
func TestMetrics(t *testing.T) {
	m, book := startAudited(t)
	alice, _ := m.key(`namespace="`+hello+`"`, "alice")
	stranger, _ := m.stranger()
	dial.Dial(t.Context(), "ssh://"+m.addr, dial.Options{Signers: []ssh.Signer{stranger}, KnownHosts: m.hosts})
	book.await("msg=refuse")
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	a := m.dial(alice)
	root := m.tree(a, hello)
	ev := watchEvents(t, root)
	m.export(a, dial.Announce{Name: "box", Namespaces: []string{hello}}, tree.root())
	ev.await("3f2a9c1d0b7e.1 passed")
	read(t, root, "n/box/ci/3f2a9c1d0b7e.1/stdout")
	find(t, root, "commit="+testCommit)
	m.enter(a, "github.com/bob/secret")

	for series, want := range map[string]string{
		`orchestrator_connections`:                              "1",
		`orchestrator_unauthenticated_connections`:              "0",
		`orchestrator_executors`:                                "1",
		`orchestrator_namespaces`:                               "1",
		`orchestrator_logins_total{result="accepted"}`:          "1",
		`orchestrator_logins_total{result="refused"}`:           "1",
		`orchestrator_refusals_total{what="login"}`:             "1",
		`orchestrator_refusals_total{what="namespace"}`:         "1",
		`orchestrator_find_duration_seconds_count{kind="ask"}`:  "1",
		`orchestrator_find_duration_seconds_count{kind="wait"}`: "0",
		`orchestrator_busy_total{what="channel"}`:               "0",
	} {
		if got := metric(t, m, series); got != want {
			t.Errorf("%s is %s, want %s", series, got, want)
		}
	}
	for _, series := range []string{
		`orchestrator_channels{opener="client"}`, `orchestrator_channels{opener="orchestrator"}`,
		`orchestrator_channel_bytes_total{direction="in",peer="client"}`, `orchestrator_channel_bytes_total{direction="out",peer="client"}`,
		`orchestrator_channel_bytes_total{direction="in",peer="executor"}`, `orchestrator_channel_bytes_total{direction="out",peer="executor"}`,
		"go_goroutines", "process_open_fds", "process_resident_memory_bytes",
	} {
		if got := metric(t, m, series); got == "0" {
			t.Errorf("%s is 0", series)
		}
	}

	_, text := get(t, m.s.Handler(), "/metrics")
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	for _, secret := range []string{"SHA256", hello, "bob", "box", "alice"} {
		if strings.Contains(text, secret) {
			t.Errorf("/metrics tells %s", secret)
		}
	}
}

// /healthz says what keeps clients from entering, and only while it does.
func TestHealth(t *testing.T) {
	m := startMux(t)
	m.dial(func() ssh.Signer { k, _ := m.key("", "alice"); return k }())
	health := func(wantCode int, want string) {
		t.Helper()
		if code, text := get(t, m.s.Handler(), "/healthz"); code != wantCode || !strings.Contains(text, want) {
			t.Errorf("/healthz is %d %q, want %d, %q", code, text, wantCode, want)
		}
	}
	health(200, "ok\n")
	keys := filepath.Join(m.dir, authorizedKeysFile)
	text, err := os.ReadFile(keys)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(keys); err != nil {
		t.Fatal(err)
	}
	health(503, "authorized_keys: no such file")
	if err := os.Mkdir(keys, 0o700); err != nil {
		t.Fatal(err)
	}
	health(503, "is a directory")
	os.Remove(keys)
	if err := os.WriteFile(keys, bytes.TrimSpace(text), 0o600); err != nil {
		t.Fatal(err)
	}
	health(200, "ok\n")
}

// A listener that cannot accept shows in Health until it can.
func TestHealthOfListener(t *testing.T) {
	l := &failingListener{Listener: listen(t), fail: make(chan error), failed: make(chan struct{})}
	m := &testMux{t: t, dir: filepath.Join(t.TempDir(), "state"), home: t.TempDir()}
	m.start(l, Options{})
	l.fail <- syscall.EMFILE
	<-l.failed // Serve asks for the next connection
	if err := m.s.Health(); !errors.Is(err, syscall.EMFILE) || !strings.Contains(err.Error(), m.addr) {
		t.Errorf("Health = %v, want that of the listener", err)
	}
	close(l.fail)
	k, _ := m.key("", "alice")
	m.dial(k)
	if err := m.s.Health(); err != nil {
		t.Errorf("Health of a listener that accepts: %v", err)
	}
}

// A failingListener's Accepts fail with what fail has, until that is closed.
type failingListener struct {
	net.Listener
	fail   chan error
	failed chan struct{} // has a value for each Accept after one that failed
	n      int
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.n++; l.n == 2 {
		close(l.failed)
	}
	if err, ok := <-l.fail; ok {
		return nil, err
	}
	return l.Listener.Accept()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
