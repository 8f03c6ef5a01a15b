package orchestrator

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/wire"
)

// A textLog is a log that a test reads.
type textLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *textLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// take returns the lines since the last take.
func (l *textLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.buf.Reset()
	return strings.Split(strings.TrimSuffix(l.buf.String(), "\n"), "\n")
}

// A client that announces and withdraws in a loop is told to wait, and one that is
// refused in a loop fills no log. The events and lines of others come as ever.
func TestAnnounceInALoop(t *testing.T) {
	var log textLog
	o := Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	inBubbleOf(t, o, func(t *testing.T, m *bubbleMux) {
		noisy, _ := m.key(`namespace="github.com/noisy/*"`, "noisy")
		quiet, _ := m.key("", "quiet")
		watcher, _ := m.login(quiet)
		ev := watchEvents(t, m.treeOn(watcher, ""))

		loop := func(n int, ns string) (taken, busy, refused int) {
			l, _ := m.login(noisy)
			defer l.Close()
			for range n {
				a := wire.Announce{Name: "box", Namespaces: []string{ns}}
				ok, reply, err := l.Ask(t.Context(), wire.RequestAnnounce, a.Text())
				switch {
				case err != nil:
					t.Fatal(err)
				case ok:
					taken++
					l.Ask(t.Context(), wire.RequestWithdraw, []byte("box"))
				case strings.HasSuffix(string(reply), fs.ErrBusy.Error()):
					busy++
				default:
					refused++
				}
			}
			return
		}
		const n = 3000
		log.take()
		if taken, busy, refused := loop(n, "github.com/noisy/x"); taken != announcesOfConn || busy != n-taken || refused != 0 {
			t.Errorf("of a connection's announcements %d are taken, %d busy and %d refused, want %d taken", taken, busy, refused, announcesOfConn)
		}
		if taken, busy, _ := loop(n, "github.com/noisy/x"); taken != announcesOfKey-announcesOfConn || busy != n-taken {
			t.Errorf("of a key's next connection %d are taken, want %d", taken, announcesOfKey-announcesOfConn)
		}
		if taken, _, refused := loop(n, hello); taken != 0 || refused != n {
			t.Errorf("of those that it may not make %d are taken, and %d refused", taken, refused)
		}
		if lines := log.take(); len(lines) > auditBurst+10 {
			t.Errorf("%d lines in the log", len(lines))
		}

		l, _ := m.login(quiet)
		if err := m.exportOn(l, wire.Announce{Name: "box", Namespaces: []string{hello}}, newTestTree().root()); err != nil {
			t.Error(err)
		}
		ev.await("/" + hello + "/n/box join")
		if text := strings.Join(log.take(), "\n"); !strings.Contains(text, "namespace="+hello+" executor=box") {
			t.Errorf("the log does not tell of another key's executor:\n%s", text)
		}

		time.Sleep(time.Minute) // the bubble's clock
		if taken, _, _ := loop(1, "github.com/noisy/x"); taken != 1 {
			t.Error("a key that waited is refused")
		}
		synctest.Wait()
		if text := strings.Join(log.take(), "\n"); !strings.Contains(text, "missed=") {
			t.Errorf("the log does not tell how many lines it left out:\n%s", text)
		}
		time.Sleep(2 * forgetAfter)
		m.s.conns.mu.Lock()
		defer m.s.conns.mu.Unlock()
		if n := len(m.s.conns.byKey); n != 1 { // quiet's
			t.Errorf("%d requesters are remembered, want 1", n)
		}
	})
}

// What changes of an announcement counts, not what stays.
func TestAnnounceMore(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "daemon")
		l, _ := m.login(k)
		var namespaces []string
		for i := range 1000 {
			namespaces = append(namespaces, fmt.Sprintf("github.com/alice/r%d", i))
			a := wire.Announce{Name: "box", Namespaces: namespaces}
			if ok, reply, err := l.Ask(t.Context(), wire.RequestAnnounce, a.Text()); err != nil || !ok {
				t.Fatalf("announcement %d: %t, %q, %v", i, ok, reply, err)
			}
		}
		if n := len(m.s.dir.namespaces(access.Grant{Read: true}, "", math.MaxInt)); n != 1000 {
			t.Errorf("%d namespaces, want 1000", n)
		}
	})
}

// A requester's open files are counted by all its sessions, and given back.
func TestFilesOfKey(t *testing.T) {
	m, _, _ := liveMux(t)
	_, file := m.key(`namespace="`+hello+`",read`, "alice")
	_, other := m.key(`namespace="`+hello+`",read`, "bob")
	const command = "cat n/box/ci/3f2a9c1d0b7e.1/stdout"
	id := ""
	m.run(file, "whoami")
	if out, _, _ := m.run(file, "whoami"); out != "" {
		id, _, _ = strings.Cut(strings.TrimPrefix(out, "key="), "\n")
	}
	r, err := m.s.conns.enter(id)
	if err != nil {
		t.Fatal(err)
	}
	defer m.s.conns.leave(r)
	if _, stderr, status := m.run(file, command); status != 0 || r.files.Load() != 0 {
		t.Errorf("ssh %s = %d, %q, and %d files are open", command, status, stderr, r.files.Load())
	}
	for range maxFilesOfKey {
		if err := r.open(); err != nil {
			t.Fatal(err)
		}
	}
	if _, stderr, status := m.run(file, command); status != 75 || !strings.Contains(stderr, "too many open files of one key") {
		t.Errorf("ssh %s = %d, %q, want 75", command, status, stderr)
	}
	if _, stderr, status := m.run(other, command); status != 0 {
		t.Errorf("another key's %s = %d, %q", command, status, stderr)
	}
}
