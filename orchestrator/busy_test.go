package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// An executor whose channels are all taken is busy, by every door, and has what it
// has once one of them is free.
func TestBusyExecutor(t *testing.T) {
	m := startMux(t)
	k, file := m.key(`namespace="`+hello+`"`, "alice@laptop")
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	root := m.tree(m.dial(k), hello)
	ev := watchEvents(t, root)
	m.export(m.dial(k), dial.Announce{Name: "box", Namespaces: []string{hello}}, tree.root())
	ev.await("/ci/3f2a9c1d0b7e.1")
	const text = "Resource temporarily unavailable"
	const path = "n/box/ci/3f2a9c1d0b7e.1/stdout"

	out := m.s.dir.share(hello, "box").m.conn.out
	taken := 0
	for out.Take() {
		taken++
	}
	for _, d := range []ninep.Dialect{ninep.DotL, ninep.Plan9} {
		rwc, err := m.dial(k).Import(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c, err := ninep.Import(t.Context(), rwc, ninep.ImportOptions{Aname: hello, Dialect: d})
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{path, "ci/last/stdout"} {
			n, err := fs.FileAt(t.Context(), c.Root(), path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err = fs.ReadAll(t.Context(), n); !errors.Is(err, fs.ErrBusy) {
				t.Errorf("%v: %s: %v, want %v", d, path, err, fs.ErrBusy)
			}
		}
		c.Close()
	}
	for command, want := range map[string]int{
		"cat " + path: 75, "ls n/box": 75, "ls -l n/box/ci": 75, "stat " + path: 75, "wait n/box/ci/3f2a9c1d0b7e.1": 75,
		"cat ci/last/stdout": 75, "cat " + path + " status": 75,
		"cat " + path + " nothing": 1, "cat nothing " + path: 1, "cat status": 0,
	} {
		_, stderr, status := m.run(file, command)
		if status != want || want == 75 && !strings.Contains(strings.ToLower(stderr), strings.ToLower(text)) {
			t.Errorf("ssh %s = %d, %q, want %d", command, status, stderr, want)
		}
	}
	args := slices.Concat([]string{"-O"}, m.opensshArgs(file), []string{"127.0.0.1:" + path, t.TempDir()})
	if b, err := exec.CommandContext(t.Context(), "scp", args...).CombinedOutput(); err == nil || !strings.Contains(strings.ToLower(string(b)), strings.ToLower(text)) {
		t.Errorf("scp = %v, %q", err, b)
	}
	sc, err := ssh.Dial("tcp", m.addr, &ssh.ClientConfig{Auth: []ssh.AuthMethod{ssh.PublicKeys(k)}, HostKeyCallback: ssh.FixedHostKey(m.s.HostKey())})
	if err != nil {
		t.Fatal(err)
	}
	defer sc.Close()
	fc, err := sftp.NewClient(sc)
	if err != nil {
		t.Fatal(err)
	}
	defer fc.Close()
	var status *sftp.StatusError
	if _, err := fc.Open("/" + path); !errors.As(err, &status) || status.FxCode() != sftp.ErrSSHFxFailure || !strings.Contains(err.Error(), text) {
		t.Errorf("sftp: %v, want SSH_FX_FAILURE with %q", err, text)
	}

	for range taken {
		out.Give()
	}
	if b, err := fc.Open("/" + path); err != nil {
		t.Errorf("sftp: %v", err)
	} else {
		text, err := io.ReadAll(b)
		if string(text) != "ok 3f2a9c1d0b7e.1\n" {
			t.Errorf("sftp: %q, %v", text, err)
		}
	}
	if out, stderr, status := m.run(file, "cat "+path); status != 0 || out != "ok 3f2a9c1d0b7e.1\n" {
		t.Errorf("ssh cat = %d, %q, %q", status, out, stderr)
	}
}

// A key with too many connections is told so, and is let in when one has ended.
// What is over a limit of one connection is told too.
func TestBusyOrchestrator(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		id := testLogin(t, m.testMux, k).String()
		var r *requester
		for range maxConnsOfKey {
			var err error
			if r, err = m.s.conns.enter(id); err != nil {
				t.Fatal(err)
			}
		}
		q := wire.FindMsg{Namespace: hello, Question: "commit=" + testCommit}
		l, _ := m.login(k)
		if _, _, err := l.Find(t.Context(), q); !errors.Is(err, fs.ErrBusy) || !strings.Contains(err.Error(), "too many connections of one key") {
			t.Errorf("Find = %v, want %v", err, fs.ErrBusy)
		}
		if _, err := l.Import(t.Context()); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("Import = %v, want %v", err, fs.ErrBusy)
		}
		if err := m.exportOn(l, wire.Announce{Name: "box", Namespaces: []string{hello}}, newTestTree().root()); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("Export = %v, want %v", err, fs.ErrBusy)
		}
		<-l.Done()
		synctest.Wait()
		// An executor comes back by itself.
		joined := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		lost := make(chan error, 1000)
		c := m.far(k, 0)
		go c.Export(ctx, dial.Announce{
			Name: "box", Namespaces: []string{hello},
			Joined: func() { close(joined) }, Lost: func(err error) { lost <- err },
		}, func(_ context.Context, rwc io.ReadWriteCloser, _ string, _ fs.User) { rwc.Close() })
		if err := <-lost; !errors.Is(err, fs.ErrBusy) {
			t.Errorf("Lost(%v), want %v", err, fs.ErrBusy)
		}
		m.s.conns.leave(r)
		<-joined
		c.Close()
		for range maxConnsOfKey - 1 {
			m.s.conns.leave(r)
		}

		l, _ = m.login(k)
		for i := 0; ; i++ {
			rwc, err := l.Import(t.Context())
			if err == nil && i < wire.MaxChannels {
				defer rwc.Close()
				continue
			}
			if i != wire.MaxChannels || !errors.Is(err, fs.ErrBusy) {
				t.Errorf("channel %d: %v, want %v", i, err, fs.ErrBusy)
			}
			break
		}
		if _, _, err := l.Find(t.Context(), q); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("Find = %v, want %v", err, fs.ErrBusy)
		}
	})
}

// An open may be refused with words of the peer's: they are quoted.
func TestRefused(t *testing.T) {
	err := wire.Refused(fmt.Errorf("open: %w", &ssh.OpenChannelError{Reason: ssh.ResourceShortage, Message: "\x1b[2J" + strings.Repeat("x", 1000)}))
	if !errors.Is(err, fs.ErrBusy) || strings.Contains(err.Error(), "\x1b") || len(err.Error()) > 300 {
		t.Errorf("Refused = %q", err)
	}
	plain := &ssh.OpenChannelError{Reason: ssh.Prohibited}
	if err := wire.Refused(plain); errors.Is(err, fs.ErrBusy) || err != error(plain) {
		t.Errorf("Refused = %v, want %v", err, plain)
	}
}

// A session that starts no program ends, and one that does goes on.
func TestIdleSession(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		key, _ := m.key("", "alice")
		l, _ := m.login(key)
		open := func() (ssh.Channel, <-chan *ssh.Request) {
			ch, reqs, err := l.ssh.OpenChannel("session", nil)
			if err != nil {
				t.Fatal(err)
			}
			return ch, reqs
		}
		cat, catRequests := open()
		go ssh.DiscardRequests(catRequests)
		if ok, err := cat.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{"cat event"})); !ok || err != nil {
			t.Fatal(ok, err)
		}
		idle, idleRequests := open()
		go ssh.DiscardRequests(idleRequests)
		began := time.Now()
		if _, err := io.Copy(io.Discard, idle); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 50*time.Second || took > 2*time.Minute {
			t.Errorf("it ended after %v", took)
		}
		if _, err := cat.SendRequest("none", true, nil); err != nil {
			t.Errorf("the other: %v", err)
		}
	})
}
