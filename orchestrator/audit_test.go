package orchestrator

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// A logbook is a log that a test waits for lines in.
type logbook struct {
	t    testing.TB
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed and made anew when there is more
}

func newLogbook(t testing.TB) *logbook { return &logbook{t: t, more: make(chan struct{})} }

func (l *logbook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	close(l.more)
	l.more = make(chan struct{})
	return len(p), nil
}

// lines returns the lines that have all the words.
func (l *logbook) lines(words ...string) (found []string, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			found = append(found, line)
		}
	}
	return found, l.more
}

// await returns the first line that has all the words.
func (l *logbook) await(words ...string) string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 5*time.Minute) // so that it says what there was instead
	defer cancel()
	for {
		found, more := l.lines(words...)
		if len(found) > 0 {
			return found[0]
		}
		select {
		case <-more:
		case <-ctx.Done():
			l.t.Fatalf("no line has %q:\n%s", words, l.text.String())
		}
	}
}

// startAudited starts a mux whose log is a logbook.
func startAudited(t testing.TB) (*testMux, *logbook) {
	t.Helper()
	m := &testMux{t: t, dir: filepath.Join(t.TempDir(), "state"), home: t.TempDir()}
	book := newLogbook(t)
	m.start(listen(t), Options{Log: book.logger()})
	return m, book
}

// An operator sees each login, refusal, announcement and adoption, with the key,
// the principal, the address and the namespace, at the level that is on by default.
func TestAudit(t *testing.T) {
	m, book := startAudited(t)
	const secret = "github.com/bob/secret"
	alice, _ := m.key(`namespace="`+hello+`"`, "alice@box")
	bob, _ := m.key(`namespace="`+secret+`"`, "bob")
	stranger, _ := m.stranger()
	who := func(k ssh.Signer, principal string) string {
		return "key=" + wire.Fingerprint(k.PublicKey()) + " principal=" + principal + " addr=127.0.0.1:"
	}

	if _, err := dial.Dial(t.Context(), "ssh://"+m.addr, dial.Options{Signers: []ssh.Signer{stranger}, KnownHosts: m.hosts}); err == nil {
		t.Fatal("a stranger may enter")
	}
	book.await("level=WARN msg=refuse "+who(stranger, "-"), `what=login err="this key is not in authorized_keys"`)

	a := m.dial(alice)
	book.await("level=INFO msg=login " + who(alice, "alice@box"))

	err := a.Export(t.Context(), dial.Announce{Name: "box", Namespaces: []string{secret}}, nil)
	if err == nil {
		t.Error("alice exports bob's namespace")
	}
	book.await("level=WARN msg=refuse "+who(alice, "alice@box"), "what=announce namespace="+secret+" ")

	tree := newTestTree()
	stop := m.export(a, dial.Announce{Name: "box", Namespaces: []string{hello}}, tree.root())
	book.await("level=INFO msg=join "+who(alice, "alice@box"), " namespace="+hello+" executor=box generation=1")
	ev := watchEvents(t, m.tree(a, hello))
	ev.await("/n/box join")
	m.exportTo(bob, "bobs", secret)
	book.await("msg=join "+who(bob, "bob"), " namespace="+secret)

	// Each way to a namespace that may not be read.
	for i, get := range []func() error{
		func() error { _, err := m.enter(a, secret); return err },
		func() error { _, err := m.enter(a, secret+"/n/bobs"); return err },
		func() error { _, err := fs.Walk(t.Context(), m.tree(a, ""), secret); return err },
		func() error {
			_, _, err := a.Find(t.Context(), secret, []byte("commit="+testCommit), 0)
			return err
		},
	} {
		if err := get(); err == nil {
			t.Errorf("way %d: alice reads bob's namespace", i)
		}
		found, _ := book.lines("level=WARN msg=refuse "+who(alice, "alice@box"), "what=namespace namespace=github.com/bob")
		if len(found) != i+1 {
			t.Errorf("way %d: %d lines, want %d: %q", i, len(found), i+1, found)
		}
	}
	if found, _ := book.lines("what=namespace", hello); len(found) > 0 {
		t.Errorf("what alice may read is refused: %q", found)
	}

	client, err := ssh.Dial("tcp", m.addr, &ssh.ClientConfig{Auth: []ssh.AuthMethod{ssh.PublicKeys(alice)}, HostKeyCallback: ssh.FixedHostKey(m.s.HostKey())})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Listen("tcp", "127.0.0.1:565"); err == nil {
		t.Error("port 565 is forwarded")
	}
	book.await("msg=refuse "+who(alice, "alice@box"), "what=forward err=")

	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	book.await("level=INFO msg=adopt "+who(alice, "alice@box"), " namespace="+hello+" executor=box", "run=3f2a9c1d0b7e.1 score="+testScore+` signer="alice 1"`)
	stop()
	book.await("level=INFO msg=leave "+who(alice, "alice@box"), " namespace="+hello+" executor=box")
}

// A principal may hold what would forge a line or move a terminal's cursor.
func TestAuditIsOneLine(t *testing.T) {
	m, book := startAudited(t)
	key, file := m.stranger()
	ca := newAuthority(t)
	if err := os.WriteFile(filepath.Join(m.dir, "authorized_keys"), []byte(ca.line("")), 0o600); err != nil {
		t.Fatal(err)
	}
	ca.certify(file, "x\ntime=0 msg=login key=forged\x1b[2J\r"+strings.Repeat("y", 2*maxAuditText))
	m.dialWith(certified(t, key, file), key)
	line := book.await("msg=login")
	if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), unicode.IsControl) || !strings.Contains(line, `\ntime=0 msg=login key=forged\x1b[2J\r`) || len(line) > 2*maxAuditText {
		t.Errorf("the line is %q", line)
	}
	if found, _ := book.lines(); len(found) != 1 {
		t.Errorf("%d lines: %q", len(found), found)
	}
}

// A key that asks without end for what it does not get writes so many lines, and the
// lines of others go on.
func TestAuditIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newLogbook(t)
		a := newAudit(book.logger(), newMetrics(new(Server)))
		addr := func(i int) net.Addr {
			return &net.TCPAddr{IP: net.IPv4(10, byte(i>>16), byte(i>>8), byte(i)), Port: 1}
		}
		for range 10 * strangerBurst {
			a.ofStranger(addr(1), slog.LevelWarn, "refuse", "k", slog.String("what", "login"))
		}
		if found, _ := book.lines("addr=10.0.0.1:"); len(found) != strangerBurst {
			t.Errorf("%d lines of one address, want %d", len(found), strangerBurst)
		}
		for i := range 10 * strangersBurst {
			a.ofStranger(addr(2+i), slog.LevelWarn, "refuse", "k", slog.String("what", "login"))
		}
		if found, _ := book.lines(); len(found) != strangersBurst {
			t.Errorf("%d lines of all strangers, want %d", len(found), strangersBurst)
		}
		time.Sleep(time.Minute)
		a.ofStranger(addr(1), slog.LevelWarn, "refuse", "k")
		book.await("addr=10.0.0.1:", fmt.Sprintf("missed=%d", 9*strangerBurst))
	})
}

// An executor that announces without end a tree that cannot be followed fills no
// disk either.
func TestAuditOfAnnouncements(t *testing.T) {
	m, book := startAudited(t)
	alice, _ := m.key(`namespace="`+hello+`"`, "alice")
	client, err := ssh.Dial("tcp", m.addr, &ssh.ClientConfig{Auth: []ssh.AuthMethod{ssh.PublicKeys(alice)}, HostKeyCallback: ssh.FixedHostKey(m.s.HostKey())})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	a := wire.Announce{Name: "box", Namespaces: []string{hello}}
	for range auditBurst {
		if ok, reason, err := client.SendRequest(wire.RequestAnnounce, true, a.Text()); !ok || err != nil {
			t.Fatalf("announce: %s, %v", reason, err)
		}
		if _, _, err := client.SendRequest(wire.RequestWithdraw, true, []byte(a.Name)); err != nil {
			t.Fatal(err)
		}
	}
	book.await("msg=leave")
	if found, _ := book.lines("executor=box"); len(found) > auditBurst*3/2 {
		t.Errorf("%d lines, want about %d", len(found), auditBurst)
	}
}

// enter attaches a namespace by its aname.
func (m *testMux) enter(c *dial.Conn, aname string) (io.Closer, error) {
	m.t.Helper()
	rwc, err := c.Import(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	cl, err := ninep.Import(m.t.Context(), rwc, ninep.ImportOptions{Aname: aname})
	if err != nil {
		rwc.Close()
		return nil, err
	}
	return cl, nil
}

// Of executors of one name that replace each other, each leaves in the audit before
// the next one joins, however long a line takes.
func TestAuditOrder(t *testing.T) {
	var lines []string // written by one at a time
	d := newLocalDirectory(func(sh *share, what string, generation uint64) {
		runtime.Gosched()
		lines = append(lines, fmt.Sprint(what, " ", generation))
	})
	a := wire.Announce{Name: "box", Namespaces: []string{hello}, Instance: "i"}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				m := &member{announcedAs: "box", key: "k", conn: new(conn)}
				if _, err := d.join(t.Context(), m, a, ""); err != nil {
					t.Error(err)
				}
				d.leave(m, false)
			}
		})
	}
	wg.Wait()
	for i := 0; i < len(lines); i += 2 {
		var n int
		if _, err := fmt.Sscanf(lines[i], "join %d", &n); err != nil || n != i/2+1 || lines[i+1] != fmt.Sprint("leave ", n) {
			t.Fatalf("lines %d and %d: %q", i, i+1, lines[i:i+2])
		}
	}
	if len(lines) != 800 {
		t.Errorf("%d lines, want 800", len(lines))
	}
}
