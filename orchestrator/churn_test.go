package orchestrator

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/dial"
	"9ci/proto/ninep"
)

// Executors come and go under readers: nothing is left of any of them, and a
// client that stays is served to the end.
func TestChurn(t *testing.T) {
	m := startMux(t)
	k, _ := m.key("", "alice")
	stay := newTestTree()
	stay.add("3f2a9c1d0b7e.1", testCommit, "passed")
	steady := m.dial(k)
	ev := watchEvents(t, m.tree(steady, hello))
	m.export(steady, dial.Announce{Name: "steady", Namespaces: []string{hello}}, stay.root())
	ev.await("/n/steady/ci/")
	before := runtime.NumGoroutine()

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	connect := func() *dial.Conn {
		c, err := dial.Dial(t.Context(), "ssh://"+m.addr, dial.Options{Signers: []ssh.Signer{k}, KnownHosts: m.hosts})
		if err != nil {
			t.Error(err)
		}
		return c
	}
	for i := range 8 {
		wg.Go(func() { // an executor that runs, and leaves or is cut off
			for n := 0; ctx.Err() == nil; n++ {
				c := connect()
				if c == nil {
					return
				}
				tree := newTestTree()
				ectx, stop := context.WithTimeout(ctx, time.Duration(10+rand.IntN(100))*time.Millisecond)
				a := dial.Announce{Name: fmt.Sprintf("box.%d", i), Namespaces: []string{hello}}
				a.Joined = func() { tree.add(fmt.Sprintf("3f2a9c1d0b7e.%d", n+1), testCommit, "passed") }
				go func() {
					<-ectx.Done()
					if n%2 == 0 {
						c.Close()
					}
				}()
				c.Export(ectx, a, func(ctx context.Context, rwc io.ReadWriteCloser, _ string, user fs.User) {
					srv := ninep.Server{User: user, Attach: func(context.Context, string, string) (fs.Dir, error) { return tree.root(), nil }}
					srv.Serve(ctx, rwc)
				})
				stop()
				c.Close()
			}
		})
		wg.Go(func() { // a reader that looks at all there is
			for ctx.Err() == nil {
				c := connect()
				if c == nil {
					return
				}
				rwc, err := c.Import(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				cl, err := ninep.Import(t.Context(), rwc, ninep.ImportOptions{Aname: hello})
				if err != nil {
					t.Error(err)
					return
				}
				for range 5 {
					_, f := find(t, cl.Root(), "commit="+testCommit)
					f.Close()
					if got := read(t, cl.Root(), "n/steady/ci/3f2a9c1d0b7e.1/stdout"); got != "ok 3f2a9c1d0b7e.1\n" {
						t.Errorf("steady: %q", got)
					}
					if n, err := fs.Walk(t.Context(), cl.Root(), fmt.Sprintf("n/box.%d", rand.IntN(8))); err == nil {
						for range fs.Entries(t.Context(), n.(fs.Dir)) {
						}
					}
					if n, err := fs.Walk(t.Context(), cl.Root(), "ci/last/stdout"); err == nil {
						fs.ReadAll(t.Context(), n)
					}
				}
				cl.Close()
				c.Close()
			}
		})
	}
	wg.Wait()
	for deadline := time.Now().Add(10 * time.Second); m.s.conns.count() > 1 || runtime.NumGoroutine() > before+5; runtime.Gosched() {
		if time.Now().After(deadline) {
			b := make([]byte, 1<<20)
			t.Fatalf("%d connections and %d goroutines are left, of %d:\n%s", m.s.conns.count(), runtime.NumGoroutine(), before, b[:runtime.Stack(b, true)])
		}
	}
}
