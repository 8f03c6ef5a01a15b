package orchestrator

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/door"
	"9ci/orchestrator/internal/client"
	"9ci/orchestrator/internal/wire"
)

// An executor that is stopped delays no client for long, and is dropped when it
// does not answer the probe.
func TestExecutorStops(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key(`namespace="`+hello+`"`, "alice")
		reader, _ := m.login(k)
		root := m.treeOn(reader, hello)
		stopped, live := newTestTree(), newTestTree()
		stopped.add("3f2a9c1d0b7e.1", testCommit, "passed")
		live.add("3f2a9c1d0b7e.9", testCommit, "passed")
		ls, nc := m.login(k)
		if err := m.exportOn(ls, wire.Announce{Name: "stopped", Namespaces: []string{hello}}, stopped.root()); err != nil {
			t.Fatal(err)
		}
		ll, _ := m.login(k)
		if err := m.exportOn(ll, wire.Announce{Name: "live", Namespaces: []string{hello}}, live.root()); err != nil {
			t.Fatal(err)
		}
		ev := watchEvents(t, root)
		synctest.Wait()

		nc.freeze(true)
		live.add("3f2a9c1d0b7e.10", testCommit, "passed")
		synctest.Wait()
		began := time.Now()
		answer, f := find(t, root, "commit="+testCommit)
		f.Close()
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("find took %v with a stopped executor", d)
		}
		if strings.Count(answer, "/n/live/") != 2 {
			t.Errorf("find = %q", answer)
		}

		// The best run may be the stopped executor's; the next one serves.
		began = time.Now()
		if got := read(t, root, "ci/3f2a9c1d0b7e/stdout"); !strings.HasPrefix(got, "ok 3f2a9c1d0b7e.") {
			t.Errorf("ci/<rev>: %q", got)
		}
		if d := time.Since(began); d > openTimeout+opTimeout {
			t.Errorf("ci/<rev> took %v with a stopped executor", d)
		}
		began = time.Now()
		_, err := door.Walk(t.Context(), root, "n/stopped/ci")
		if err == nil || time.Since(began) > 20*time.Second {
			t.Errorf("walk to a stopped executor: %v after %v", err, time.Since(began))
		}
		ev.await("/n/stopped leave")
		if d := time.Since(began); d > time.Minute {
			t.Errorf("a stopped executor stays for %v", d)
		}
		if got := read(t, root, "n/live/ci/3f2a9c1d0b7e.9/stdout"); got != "ok 3f2a9c1d0b7e.9\n" {
			t.Errorf("the live executor: %q", got)
		}
	})
}

// A connection on which nothing at all happens is closed by the keepalive.
func TestKeepalive(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		_, nc := m.login(k)
		l, _ := m.login(k)
		synctest.Wait()
		if n := m.s.conns.count(); n != 2 {
			t.Fatalf("%d connections, want 2", n)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := m.s.conns.count(); n != 2 {
			t.Errorf("%d connections after five idle minutes, want 2", n)
		}
		nc.freeze(true)
		time.Sleep(keepaliveEvery + keepaliveSpread + keepaliveAnswer)
		synctest.Wait()
		if n := m.s.conns.count(); n != 1 {
			t.Errorf("%d connections, want 1: the stopped one is to go", n)
		}
		select {
		case <-l.Done():
			t.Error("the live connection is gone too")
		default:
		}
	})
}

// Clients notice an orchestrator that has stopped.
func TestClientKeepalive(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		l, nc := m.login(k)
		nc.in.set(func() { nc.in.frozen = true })
		nc.out.set(func() { nc.out.frozen = true })
		began := time.Now()
		<-l.Done()
		if d := time.Since(began); d > (client.KeepaliveMiss+1)*client.KeepaliveEvery {
			t.Errorf("noticed after %v", d)
		}
	})
}

// What may be published is what the key's line says, as it is now.
func TestPublishRight(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key(`read,namespace="`+hello+`"`, "reader")
		p, _ := m.key(`namespace="`+hello+`"`, "publisher")
		var refused *dial.RefusedError
		l, _ := m.login(k)
		for _, a := range []wire.Announce{{Name: "x", Namespaces: []string{hello}}, {Name: "x", Namespaces: []string{"local/x"}}} {
			if err := m.exportOn(l, a, newTestTree().root()); !errors.As(err, &refused) {
				t.Errorf("announce %v: %v", a, err)
			}
		}
		l, _ = m.login(p)
		if err := m.exportOn(l, wire.Announce{Name: "x", Namespaces: []string{hello, "local/x"}}, newTestTree().root()); !errors.As(err, &refused) {
			t.Errorf("announce more than the key may: %v", err)
		}
		for _, bad := range []string{"", "name=x", "name=x\nnamespaces=" + hello + "\nname=y\n", "name=a/b\nnamespaces=" + hello, "name=x\nnamespaces=../..", "\xff"} {
			ok, reason, err := l.Ask(t.Context(), wire.RequestAnnounce, []byte(bad))
			if ok || err != nil || len(reason) == 0 {
				t.Errorf("announce %q: %t %q %v", bad, ok, reason, err)
			}
		}
	})
}

// What an executor lies about, names and lines that no tree has, no client sees.
func TestExecutorLies(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key(`namespace="`+hello+`"`, "alice")
		reader, _ := m.login(k)
		root := m.treeOn(reader, hello)
		ev := watchEvents(t, root)
		liar := newTestTree()
		liar.add("3f2a9c1d0b7e.1", testCommit, "passed")
		good := liar.files["index"]
		liar.files["index"] = "nonsense\n../../x passed 0 1.000 2026-11-24T21:00:00Z - - - -\n" +
			"3f2a9c1d0b7e.2 melted 0 1.000 2026-11-24T21:00:00Z - - - -\n" +
			"3f2a9c1d0b7e.3 passed 0 1.000 2026-11-24T21:00:00Z " + testHash + " ../../etc/passwd - -\n" +
			"3f2a9c1d0b7e.4 passed 0 1.000 2026-11-24T21:00:00Z " + testHash + " " + testCommit + " 'a\x1b[2J' " + testScore + "\n" +
			strings.Repeat("x", 100000) + "\n" + good
		liar.files["bad/ok"], liar.files["bad/esc\x1b[2J"], liar.files["bad/del\x7f"] = "x", "x", "x"
		liar.files["ci/3f2a9c1d0b7e.1/bad/ok"], liar.files["ci/3f2a9c1d0b7e.1/bad/\x1b[2J"] = "x", "x"
		l, _ := m.login(k)
		if err := m.exportOn(l, wire.Announce{Name: "liar", Namespaces: []string{hello}}, liar.root()); err != nil {
			t.Fatal(err)
		}
		ev.await("/n/liar/ci/3f2a9c1d0b7e.1", "passed")
		answer, _ := find(t, root, "commit="+testCommit)
		if want := "/n/liar/ci/3f2a9c1d0b7e.1 passed 41.250 " + testScore + " 'alice 1' -\n"; answer != want {
			t.Errorf("find = %q, want %q", answer, want)
		}
		// What is forwarded as it is, is refused as a whole.
		for _, path := range []string{"n/liar/bad", "ci/3f2a9c1d0b7e/bad"} {
			n, err := door.Walk(t.Context(), root, path)
			if err != nil {
				t.Fatal(err)
			}
			sts, err := n.(fs.Dir).ReadDir(t.Context(), 0, 100)
			if err == nil {
				t.Errorf("%s: ReadDir = %v, want an error", path, sts)
			}
		}
		// An event that is no event ends the following, not the tree.
		liar.mu.Lock()
		liar.events = append(liar.events, strings.Repeat("no newline", 1000))
		close(liar.more)
		liar.more = make(chan struct{})
		liar.mu.Unlock()
		synctest.Wait()
		if got := read(t, root, "n/liar/status"); got != "mode=run\n" {
			t.Errorf("status = %q", got)
		}
	})
}

// A directory without an end has one at the mux.
func TestEndlessDirectory(t *testing.T) {
	v := &view{c: &conn{}}
	v.c.login = &access.Login{Identity: access.Identity{Key: newSigner(t).PublicKey()}, Grant: access.Grant{Read: true}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sh := &share{m: &member{name: "x"}, ns: hello, ctx: ctx}
	d := &remoteDir{remote: remote{v, sh, endless{}}, dir: endless{}}
	after, n := uint64(0), 0
	for {
		sts, err := d.ReadDir(t.Context(), after, 4096)
		if err != nil {
			break
		}
		if n += len(sts); n > 2*maxEntries {
			t.Fatal("no end")
		}
		after = sts[len(sts)-1].Cookie
	}
	if n > maxEntries {
		t.Errorf("%d entries, want %d at most", n, maxEntries)
	}
}

type endless struct{}

func (endless) Stat(context.Context) (fs.Stat, error)              { return fs.Stat{}, nil }
func (endless) Open(context.Context, fs.OpenMode) (fs.File, error) { return nil, fs.ErrIsDir }
func (endless) Walk(context.Context, string) (fs.Node, error)      { return endless{}, nil }
func (endless) ReadDir(_ context.Context, after uint64, n int) ([]fs.Stat, error) {
	sts := make([]fs.Stat, n)
	for i := range sts {
		sts[i] = fs.Stat{Name: "again", Cookie: after + uint64(i) + 1}
	}
	return sts, nil
}

// The ctl of an executor takes commands from the key that exports it.
func TestWriteIsTheExportersOwn(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		ka, _ := m.key("", "alice")
		kb, _ := m.key("", "bob")
		tree := newTestTree()
		a, _ := m.login(ka)
		if err := m.exportOn(a, wire.Announce{Name: "box", Namespaces: []string{hello}}, tree.root()); err != nil {
			t.Fatal(err)
		}
		write := func(k ssh.Signer) error {
			l, _ := m.login(k)
			n, err := door.Walk(t.Context(), m.treeOn(l, hello), "n/box/ctl")
			if err != nil {
				return err
			}
			f, err := n.Open(t.Context(), fs.OpenWrite)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt(t.Context(), []byte("run main"), 0)
			return err
		}
		if err := write(kb); err == nil || len(tree.writes) > 0 {
			t.Errorf("another key's write: %v, %q", err, tree.writes)
		}
		if err := write(ka); err != nil || len(tree.writes) != 1 || tree.writes[0] != "ctl: run main" {
			t.Errorf("the exporter's write: %v, %q", err, tree.writes)
		}
		if want := ssh.FingerprintSHA256(ka.PublicKey()); tree.user.Name != want {
			t.Errorf("the executor sees %q, want %q", tree.user.Name, want)
		}
	})
}
