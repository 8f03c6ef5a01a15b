package orchestrator

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/internal/client"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

const drainFor = 30 * time.Second

// draining drains a mux, and sends what Drain returns.
func (m *bubbleMux) draining() <-chan int {
	left := make(chan int, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), drainFor)
		defer cancel()
		left <- m.s.Drain(ctx)
	}()
	synctest.Wait()
	return left
}

// cat runs cat in a session that nobody reads yet.
func (m *bubbleMux) cat(l testLink, path string) ssh.Channel {
	m.t.Helper()
	ch, reqs, err := l.ssh.OpenChannel("session", nil)
	if err != nil {
		m.t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(&struct{ Command string }{"cat " + path})); !ok || err != nil {
		m.t.Fatalf("exec: %v, %v", ok, err)
	}
	synctest.Wait()
	return ch
}

// A server that drains takes nothing new and says so; a transfer that is under way
// ends whole, and with it the drain.
func TestDrain(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key(`namespace="`+hello+`"`, "alice")
		a, _ := m.login(k)
		tree := newTestTree()
		tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
		tree.files["ci/3f2a9c1d0b7e.1/stdout"] = strings.Repeat("0123456789abcdef", 1<<19) // 8 MiB: beyond a channel's window
		ended := make(chan error, 1)
		joined := make(chan bool)
		go func() {
			ended <- a.Export(context.Background(), wire.Announce{Name: "box", Namespaces: []string{hello}}, client.Told{Joined: func(string) { close(joined) }}, serveTree(tree))
		}()
		<-joined
		b, _ := m.login(k)
		ch := m.cat(b, "n/box/ci/3f2a9c1d0b7e.1/stdout")

		left := m.draining()
		if err := m.s.Health(); err == nil || !strings.Contains(err.Error(), "stopping") {
			t.Errorf("Health = %v, want that the server is stopping", err)
		}
		select {
		case <-m.l.done:
		default:
			t.Error("the listener accepts connections")
		}
		if _, err := wire.OpenChannel(t.Context(), b.ssh, "session", nil, func() {}); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("a new session: %v, want busy", err)
		}
		if err := m.exportOn(b, wire.Announce{Name: "late", Namespaces: []string{hello}}, tree.root()); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("an announcement: %v, want busy", err)
		}
		time.Sleep(drainFor - time.Second)
		select {
		case n := <-left:
			t.Fatalf("Drain left %d transfers before their time", n)
		default:
		}
		got, err := io.ReadAll(ch)
		if want := tree.files["ci/3f2a9c1d0b7e.1/stdout"]; err != nil || string(got) != want {
			t.Errorf("cat gets %d bytes and %v, want %d", len(got), err, len(want))
		}
		if n := <-left; n != 0 {
			t.Errorf("Drain left %d transfers, want 0", n)
		}
		a.ssh.Close()
		if err := <-ended; !errors.Is(err, client.ErrLost) || !strings.Contains(err.Error(), "stopping") {
			t.Errorf("the executor is told %v, want that the orchestrator is stopping", err)
		}
	})
}

// A transfer that stalls has drainFor and no more.
func TestDrainStalled(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key(`namespace="`+hello+`"`, "alice")
		a, _ := m.login(k)
		tree := newTestTree()
		tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
		tree.files["ci/3f2a9c1d0b7e.1/stdout"] = strings.Repeat("0123456789abcdef", 1<<19)
		if err := m.exportOn(a, wire.Announce{Name: "box", Namespaces: []string{hello}}, tree.root()); err != nil {
			t.Fatal(err)
		}
		b, _ := m.login(k)
		defer m.cat(b, "n/box/ci/3f2a9c1d0b7e.1/stdout").Close()
		began := time.Now()
		if n := <-m.draining(); n != 1 || time.Since(began) != drainFor {
			t.Errorf("Drain left %d transfers after %v, want 1 after %v", n, time.Since(began), drainFor)
		}
	})
}

// Sessions that do nothing, such as an idle mount, keep nobody for long, and
// executors that only wait keep nobody.
func TestDrainIdle(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key(`namespace="`+hello+`"`, "alice")
		a, _ := m.login(k)
		if err := m.exportOn(a, wire.Announce{Name: "box", Namespaces: []string{hello}}, newTestTree().root()); err != nil {
			t.Fatal(err)
		}
		b, _ := m.login(k)
		m.treeOn(b, hello)
		began := time.Now()
		if n := <-m.draining(); n != 0 || time.Since(began) < quiet || time.Since(began) > quiet+2*drainTick {
			t.Errorf("Drain left %d transfers after %v, want 0 after %v", n, time.Since(began), quiet)
		}
	})
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		a, _ := m.login(k)
		if err := m.exportOn(a, wire.Announce{Name: "box", Namespaces: []string{hello}}, newTestTree().root()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if n := <-m.draining(); n != 0 || time.Since(began) != 0 {
			t.Errorf("Drain left %d transfers after %v, want 0 at once", n, time.Since(began))
		}
	})
}

func serveTree(tree *testTree) client.ServeFunc {
	return func(ctx context.Context, rwc io.ReadWriteCloser, _ string, user fs.User) {
		srv := ninep.Server{User: user, Attach: func(context.Context, string, string) (fs.Dir, error) { return tree.root(), nil }}
		srv.Serve(ctx, rwc)
	}
}
