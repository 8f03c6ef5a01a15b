package orchestrator

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"9ci/fs"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// far returns a client's connection over a way of that round trip, which it has
// yet to make.
func (m *bubbleMux) far(s ssh.Signer, rtt time.Duration) *dial.Conn {
	m.t.Helper()
	os.WriteFile(m.hosts, []byte(knownhosts.Line([]string{"mux:22"}, m.s.HostKey())+"\n"), 0o600)
	c, err := dial.Open("ssh://mux:22", dial.Options{
		Signers: []ssh.Signer{s}, KnownHosts: m.hosts,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			time.Sleep(rtt) // TCP's own
			return m.l.dialFar("192.0.2.7", rtt), nil
		},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}

// trips runs f, and returns how many round trips it took: in a bubble only they
// take time.
func trips(rtt time.Duration, f func()) float64 {
	began := time.Now()
	f()
	return float64(time.Since(began)) / float64(rtt)
}

// A replay has its first run after eleven round trips: those of find, in whose last
// one a session is opened too, one to enter the tree, one to open the tar, and one
// to read it.
func TestFetchTrips(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		l, _ := m.login(k)
		tree := newTestTree()
		tree.files["ci/3f2a9c1d0b7e.1.tar"] = strings.Repeat("tar", 10000)
		if err := m.exportOn(l, wire.Announce{Name: "box", Namespaces: []string{hello}}, tree.root()); err != nil {
			t.Fatal(err)
		}
		const rtt = 100 * time.Millisecond
		c := m.far(k, rtt)
		n := trips(rtt, func() {
			opened := make(chan *ninep.Client)
			go func() {
				rwc, err := c.Import(t.Context())
				if err != nil {
					t.Error(err)
					close(opened)
					return
				}
				cl, err := ninep.Import(t.Context(), rwc, ninep.ImportOptions{Aname: hello, Uname: "test", Dialect: ninep.DotL, Ours: true})
				if err != nil {
					t.Error(err)
				}
				opened <- cl
			}()
			_, release, err := c.Find(t.Context(), hello, testKey(testCommit).Text(), 2*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			release()
			cl := <-opened
			if cl == nil {
				t.FailNow()
			}
			t.Cleanup(func() { cl.Close() })
			f, err := fs.FileAt(t.Context(), cl.Root(), "n/box/ci/3f2a9c1d0b7e.1.tar")
			if err != nil {
				t.Fatal(err)
			}
			s, err := ninep.Stream(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if b, err := io.ReadAll(s); len(b) != 30000 || err != nil {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
		})
		if n != 11 {
			t.Errorf("a run takes %v round trips, want 11", n)
		}
	})
}

// A client that has no connection has the answer of find after eight round trips:
// one for TCP, six to log in, and one to ask.
func TestFindTrips(t *testing.T) {
	for _, rtt := range []time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond} {
		t.Run(rtt.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, m *bubbleMux) {
				k, _ := m.key("", "alice")
				l, _ := m.login(k)
				tree := newTestTree()
				if err := m.exportOn(l, wire.Announce{Name: "box", Namespaces: []string{hello}}, tree.root()); err != nil {
					t.Fatal(err)
				}
				tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
				synctest.Wait()
				c := m.far(k, rtt)
				ask := func() {
					answer, release, err := c.Find(t.Context(), hello, testKey(testCommit).Text(), 2*time.Second)
					if err != nil {
						t.Fatal(err)
					}
					release()
					if want := "/n/box/ci/3f2a9c1d0b7e.1 passed "; !strings.HasPrefix(string(answer), want) {
						t.Errorf("Find = %q, want %q", answer, want)
					}
				}
				if n := trips(rtt, ask); n != 8 {
					t.Errorf("the first answer takes %v round trips, want 8", n)
				}
				if n := trips(rtt, ask); n != 1 {
					t.Errorf("the second answer takes %v round trips, want 1", n)
				}
			})
		})
	}
}
