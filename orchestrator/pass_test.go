package orchestrator

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/door"
)

// daemon returns an executor's way in with a token, which has not connected yet.
func (m *bubbleMux) daemon(key ssh.Signer, token string) *dial.Conn {
	m.t.Helper()
	hosts := filepath.Join(m.home, "mux_hosts")
	if err := os.WriteFile(hosts, []byte(knownhosts.Line([]string{"mux:22"}, m.s.HostKey())+"\n"), 0o600); err != nil {
		m.t.Fatal(err)
	}
	c, err := dial.Open("ssh://mux", dial.Options{
		Key: key, KnownHosts: hosts,
		Pass: dial.NewPass(key, dial.Token{Name: "CI_TOKEN", Mend: "make another", Get: func(context.Context, string) (string, error) { return token, nil }}),
		Dial: func(context.Context, string, string) (net.Conn, error) { return m.l.dialFrom("192.0.2.7"), nil },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}

// A daemon on a token renews three times by itself. Its tree never goes away, and a
// reader of a live file in it notices nothing. When the token is revoked, the daemon
// is gone within a second, and knows why and what to do.
func TestDaemonOnToken(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		token := m.token(hello, false)
		id := m.tokenPrincipal()
		reader, _ := m.key("", "reader")
		tree := newTestTree()
		tree.add("3f2a9c1d0b7e.1", testCommit, "test")
		feed := tree.feed(testLive)
		c := m.daemon(newSigner(t), token)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		lost := make(chan error, 100)
		joined := make(chan struct{}, 100)
		wg.Go(func() {
			c.Export(ctx, dial.Announce{
				Name: "box", Namespaces: []string{hello}, Waits: true,
				Joined: func() { joined <- struct{}{} },
				Lost:   func(err error) { lost <- err },
			}, serveTree(tree))
		})
		<-joined
		began := time.Now()
		r, _ := m.login(reader)
		root := m.treeOn(r, hello)
		ev := watchEvents(t, root)
		ev.await("/n/box/ci/3f2a9c1d0b7e.1", "test")
		n, err := door.Walk(t.Context(), root, "n/box/"+testLive)
		if err != nil {
			t.Fatal(err)
		}
		f, err := n.Open(t.Context(), fs.OpenRead)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		want := ""
		for range 130 { // minutes: three certificates would end
			time.Sleep(time.Minute)
			line := time.Since(began).String() + "\n"
			feed.Write(line)
			b := make([]byte, len(line))
			if n, err := f.ReadAt(t.Context(), b, int64(len(want))); err != nil || string(b[:n]) != line {
				t.Fatalf("after %v the reader has %q, %v", time.Since(began), b[:n], err)
			}
			want += line
		}
		if _, err := c.Import(t.Context()); err != nil {
			t.Errorf("a channel of the daemon's own: %v", err)
		}
		select {
		case err := <-lost:
			t.Fatalf("the daemon lost its connection: %v", err)
		default:
		}
		if len(joined) != 0 || strings.Contains(ev.text, "leave") {
			t.Errorf("the daemon joined %d times more: %q", len(joined), ev.text)
		}

		m.revoke(id)
		began = time.Now()
		if err := <-lost; !strings.Contains(err.Error(), "the orchestrator has ended it") {
			t.Errorf("Lost: %v", err)
		}
		if took := time.Since(began); took > time.Second+time.Millisecond {
			t.Errorf("a revoked token ends the connection after %v", took)
		}
		ev.await("/n/box leave")
		if err := <-lost; !errors.Is(err, dial.ErrToken) || !strings.HasSuffix(err.Error(), ": make another") || strings.Contains(err.Error(), token) {
			t.Errorf("Lost: %v", err)
		}
		synctest.Wait()
		feed.Close()
		if n, err := f.ReadAt(t.Context(), make([]byte, 1), int64(len(want))); err == nil || err == io.EOF {
			t.Errorf("the reader of a tree that is gone: %d, %v", n, err)
		}
	})
}

// Two daemons with one token and two keys are two executors of one principal.
func TestDaemonsOnToken(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		token := m.token(hello, false)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		joined := make(chan string, 2)
		for _, name := range []string{"a", "b"} {
			c := m.daemon(newSigner(t), token)
			wg.Go(func() {
				c.Export(ctx, dial.Announce{Name: name, Namespaces: []string{hello}, Joined: func() { joined <- name }}, serveTree(newTestTree()))
			})
		}
		<-joined
		<-joined
		reader, _ := m.key("", "reader")
		r, _ := m.login(reader)
		root := m.treeOn(r, hello)
		for _, name := range []string{"a", "b"} {
			if got := read(t, root, "n/"+name+"/status"); got != "mode=run\n" {
				t.Errorf("n/%s/status = %q", name, got)
			}
		}
		all, err := access.Tokens(m.dir)
		if err != nil || len(all) != 1 {
			t.Errorf("tokens: %v, %v", all, err)
		}
	})
}
