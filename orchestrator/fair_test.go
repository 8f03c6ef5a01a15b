package orchestrator

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

const testLive = "ci/3f2a9c1d0b7e.1/live"

// liveMux is a mux of one executor, box, with a run whose live file blocks.
func liveMux(t testing.TB) (*testMux, *testTree, *fs.Feed) {
	t.Helper()
	m := startMux(t)
	k, _ := m.key(`namespace="`+hello+`"`, "box")
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "test")
	feed := tree.feed(testLive)
	feed.Write("begin\n")
	ev := watchEvents(t, m.tree(m.dial(k), hello))
	m.export(m.dial(k), dial.Announce{Name: "box", Namespaces: []string{hello}}, tree.root())
	ev.await("/ci/3f2a9c1d0b7e.1")
	return m, tree, feed
}

// channels returns how many channels to the executor box are open.
func (m *testMux) channels() int { return len(m.s.dir.share(hello, "box").m.conn.out) }

// liveReaders starts readers of box's live file by stock ssh, so many of each of two keys.
// It returns when all have read a line. Ended waits until all have ended, after the file
// has, and gives check what they read.
func (m *testMux) liveReaders(each int, check func(name, out string)) (ended func()) {
	m.t.Helper()
	var wg sync.WaitGroup
	begun := make(chan struct{}, 2*each)
	turn := wire.NewSlots(8) // logins at a time
	for _, name := range []string{"alice", "bob"} {
		_, file := m.key(`namespace="`+hello+`",read`, name)
		for range each {
			turn.Wait()
			cmd := m.openssh(m.t.Context(), file, "127.0.0.1", "cat n/box/"+testLive)
			out, err := cmd.StdoutPipe()
			if err != nil {
				m.t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				m.t.Fatal(err)
			}
			wg.Go(func() {
				r := bufio.NewReader(out)
				line, _ := r.ReadString('\n')
				turn.Give()
				begun <- struct{}{}
				rest, _ := io.ReadAll(r)
				if err := cmd.Wait(); err != nil {
					m.t.Errorf("%s: cat live: %v", name, err)
				}
				check(name, line+string(rest))
			})
		}
	}
	for range 2 * each {
		<-begun
	}
	return wg.Wait
}

// Two keys with 80 readers of a live file each, by stock ssh, keep a third key from
// nothing, and the executor sends each byte once.
func TestLiveReaders(t *testing.T) {
	m, tree, feed := liveMux(t)
	_, third := m.key(`namespace="`+hello+`",read`, "carol")
	const each = 80
	ended := m.liveReaders(each, func(name, out string) {
		if out != "begin\nend\n" {
			t.Errorf("%s: cat live = %q", name, out)
		}
	})
	for _, command := range []string{"stat n/box/ci/3f2a9c1d0b7e.1/stdout", "cat n/box/ci/3f2a9c1d0b7e.1/stdout", "ls -l n/box/ci/3f2a9c1d0b7e.1", "stat n/box/" + testLive} {
		if out, stderr, status := m.run(third, command); status != 0 || out == "" {
			t.Errorf("ssh %s = %d, %q, %q", command, status, out, stderr)
		}
	}
	if n := m.channels(); n > 4 {
		t.Errorf("160 readers of two keys have %d channels", n)
	}
	feed.Write("end\n")
	feed.Close()
	ended()
	if n := tree.read(testLive); n > 5 {
		t.Errorf("the executor was asked %d times", n)
	}
}

// Clients that mount the tree, each with a key of its own and with files open at the
// executor, take no more channels than there are, and nobody is busy.
func TestManyKeys(t *testing.T) {
	m, tree, feed := liveMux(t)
	tree.feed("ci/3f2a9c1d0b7e.1/step/test/log")
	const keys = 40
	type client struct {
		root fs.Dir
		live io.Reader
	}
	var all []client
	for i := range keys {
		k, _ := m.key(`namespace="`+hello+`",read`, fmt.Sprint("key", i))
		for _, d := range []ninep.Dialect{ninep.DotL, ninep.Plan9} {
			rwc, err := m.dial(k).Import(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c, err := ninep.Import(t.Context(), rwc, ninep.ImportOptions{Aname: hello, Dialect: d})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			if got := read(t, c.Root(), "n/box/ci/3f2a9c1d0b7e.1/stdout"); got != "ok 3f2a9c1d0b7e.1\n" {
				t.Fatalf("key %d reads %q", i, got)
			}
			open := func(path string) io.Reader {
				n, err := fs.Walk(t.Context(), c.Root(), path)
				if err != nil {
					t.Fatalf("key %d: %s: %v", i, path, err)
				}
				f, err := n.Open(t.Context(), fs.OpenRead)
				if err != nil {
					t.Fatalf("key %d: %s: %v", i, path, err)
				}
				t.Cleanup(func() { f.Close() })
				return fs.NewReader(t.Context(), f)
			}
			go io.Copy(io.Discard, open("n/box/ci/3f2a9c1d0b7e.1/step/test/log")) // blocks
			all = append(all, client{c.Root(), open("n/box/" + testLive)})
		}
	}
	if n := m.channels(); n > wire.MaxChannels/2 {
		t.Errorf("%d keys have %d channels", keys, n)
	}
	for i, c := range all {
		b := make([]byte, 6)
		if _, err := io.ReadFull(c.live, b); err != nil || string(b) != "begin\n" {
			t.Errorf("client %d: %q, %v", i, b, err)
		}
	}
	feed.Write("end\n")
	feed.Close()
	for i, c := range all {
		if b, err := io.ReadAll(c.live); err != nil || string(b) != "end\n" {
			t.Errorf("client %d: %q, %v", i, b, err)
		}
	}
	if n := tree.read(testLive); n > 5 {
		t.Errorf("the executor was asked %d times", n)
	}
}

// A reader that comes late, one that is slow, and one that asks for what is not there
// yet all get the bytes of a live file, however many there were.
func TestLiveBehind(t *testing.T) {
	m, tree, feed := liveMux(t)
	k, _ := m.key(`namespace="`+hello+`",read`, "alice")
	root := m.tree(m.dial(k), hello)
	open := func() fs.File {
		n, err := fs.Walk(t.Context(), root, "n/box/"+testLive)
		if err != nil {
			t.Fatal(err)
		}
		f, err := n.Open(t.Context(), fs.OpenRead)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	want := []byte("begin\n")
	fast, slow := open(), open()
	b := make([]byte, 100<<10)
	n, err := slow.ReadAt(t.Context(), b, 0)
	if err != nil || string(b[:n]) != "begin\n" {
		t.Fatalf("read %q, %v", b[:n], err)
	}
	astray := open()
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := astray.ReadAt(ctx, make([]byte, 10), 1<<40)
		gone <- err
	}()
	var off int64
	for i := range 10 {
		text := strings.Repeat(fmt.Sprint(i), 90<<10) // more than one chunk, less than a Feed keeps
		feed.Write(text)
		want = append(want, text...)
		for off < int64(len(want)) {
			n, err := fast.ReadAt(t.Context(), b, off)
			if err != nil || string(b[:n]) != string(want[off:off+int64(n)]) {
				t.Fatalf("at %d: %d bytes, %v, or others than were written", off, n, err)
			}
			off += int64(n)
		}
	}
	feed.Close()
	for name, f := range map[string]fs.File{"slow": slow, "late": open()} {
		got, err := io.ReadAll(fs.NewReader(t.Context(), f))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
		}
	}
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) && err != io.EOF {
		t.Errorf("a read behind the end: %v", err)
	}
	if n := tree.read(testLive); n == 0 {
		t.Error("the executor was not asked")
	}
}

// The connections of one key to executors' own SSH servers leave some for others.
func TestCarriedOfOne(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "box")
		a, _ := m.key("", "alice")
		b, _ := m.key("", "bob")
		l, _ := m.login(k)
		if err := m.exportOn(l, wire.Announce{Name: "box", Namespaces: []string{hello}}, newTestTree().root()); err != nil {
			t.Fatal(err)
		}
		msg := wire.ReachMsg{Namespace: hello, Name: "box"}
		take := func(k ssh.Signer) (n int, err error) {
			l, _ := m.login(k)
			for ; n <= maxCarried; n++ {
				if _, err = l.Reach(t.Context(), wire.ChannelSSH, msg); err != nil {
					return n, err
				}
			}
			return n, nil
		}
		if n, err := take(a); n != maxCarriedOfOne || !errors.Is(err, fs.ErrBusy) {
			t.Errorf("one key has %d connections, and then %v", n, err)
		}
		if n, err := take(b); n != maxCarriedOfOne || !errors.Is(err, fs.ErrBusy) {
			t.Errorf("another key has %d connections, and then %v", n, err)
		}
	})
}
