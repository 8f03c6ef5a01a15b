package orchestrator

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
)

const askedRun = "3f2a9c1d0b7e.1"

// A waiter is an executor with a key of its own that asks for the run of one key.
type waiter struct {
	m    *bubbleMux
	name string
	key  ssh.Signer
	link testLink
	tree *testTree
	root fs.Dir
	file fs.File
}

func (m *bubbleMux) waiter(name string) *waiter {
	m.t.Helper()
	w := m.stopped(name)
	w.connect()
	return w
}

// stopped returns a waiter that has not connected.
func (m *bubbleMux) stopped(name string) *waiter {
	m.t.Helper()
	w := &waiter{m: m, name: name, tree: newTestTree()}
	w.key, _ = m.key("", name)
	return w
}

func (w *waiter) connect() {
	w.m.t.Helper()
	w.link, _ = w.m.login(w.key)
	if err := w.m.exportOn(w.link, wire.Announce{Name: w.name, Namespaces: []string{hello}, Instance: "i" + w.name}, w.tree.root()); err != nil {
		w.m.t.Fatal(err)
	}
	w.root = w.m.treeOn(w.link, hello)
}

// ask announces that the waiter is going to run the key, and returns the name of
// the executor whose turn it is.
func (w *waiter) ask(pairs string) string {
	w.m.t.Helper()
	answer, f := find(w.m.t, w.root, string(testKey(testCommit).Text())+"intent="+askedRun+"\n"+pairs)
	if w.file != nil {
		w.file.Close()
	}
	w.file = f
	name, ok := strings.CutPrefix(answer, "/n/")
	if !ok {
		w.m.t.Fatalf("%s: find = %q", w.name, answer)
	}
	name, _, _ = strings.Cut(name, "/")
	return name
}

func waitFor(name string) string { return fmt.Sprintf("wait=/n/%s/ci/%s\n", name, askedRun) }

// A turn is what a waiter was answered, and after how long.
type turn struct {
	first string
	took  time.Duration
}

// later has each of them wait for the run of the executor named.
func later(whom string, all ...*waiter) []chan turn {
	var turns []chan turn
	for _, w := range all {
		c := make(chan turn, 1)
		turns = append(turns, c)
		began := time.Now()
		go func() { c <- turn{w.ask(waitFor(whom)), time.Since(began)} }()
	}
	synctest.Wait()
	return turns
}

// A runner that is killed is followed by one of those that waited, once it has had
// the time to come back.
func TestRunnerKilled(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		a, b, c := m.waiter("a"), m.waiter("b"), m.waiter("c")
		for _, w := range []*waiter{a, b, c} {
			if first := w.ask(""); first != "a" {
				t.Fatalf("%s is told that it is the turn of %s, want a", w.name, first)
			}
		}
		a.tree.add(askedRun, testCommit, "test")
		turns := later("a", c, b)
		a.link.Close()
		for _, turn := range turns {
			if got := <-turn; got.first != "b" || got.took != lostFor {
				t.Errorf("%s runs after %v, want b after %v", got.first, got.took, lostFor)
			}
		}
		if first := m.waiter("d").ask(""); first != "b" {
			t.Errorf("a new asker is told that it is the turn of %s, want b", first)
		}
	})
}

// To an orchestrator that is new, one that waits may come before the one that it waits
// for. It stays behind that: if each waited for the other, neither would run.
func TestWaiterIsBehind(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		a, b, c := m.stopped("a"), m.stopped("b"), m.waiter("c")
		turns := later("b", c)
		b.tree.add(askedRun, testCommit, "queued")
		b.connect()
		turns = append(turns, later("a", b)...)
		a.tree.add(askedRun, testCommit, "queued")
		a.connect()
		if first := a.ask(""); first != "a" {
			t.Errorf("a is told that it is the turn of %s, want a", first)
		}
		if first := m.waiter("d").ask(""); first != "a" {
			t.Errorf("a new asker is told that it is the turn of %s, want a", first)
		}
		a.tree.add(askedRun, testCommit, "failed")
		if got := <-turns[1]; got.first != "b" {
			t.Errorf("when a has ended, b is told that it is the turn of %s, want b", got.first)
		}
		b.tree.add(askedRun, testCommit, "failed")
		if got := <-turns[0]; got.first != "c" {
			t.Errorf("when b has ended, c is told that it is the turn of %s, want c", got.first)
		}
	})
}

// A run that its executor has given up is not waited for, though no event tells of that.
func TestRunIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		a, b := m.stopped("a"), m.waiter("b")
		a.tree.add(askedRun, testCommit, "queued")
		a.connect()
		synctest.Wait()
		if first := b.ask(""); first != "a" {
			t.Fatalf("it is the turn of %s, want a", first)
		}
		turns := later("a", b)
		a.tree.mu.Lock()
		a.tree.files["index"] = ""
		a.tree.mu.Unlock()
		if got := <-turns[0]; got.first != "b" || got.took > askAgain {
			t.Errorf("it is the turn of %s after %v, want b after %v", got.first, got.took, askAgain)
		}
	})
}

// A runner whose connection was lost and that comes back keeps its place: before
// those that asked after it, and while it is away.
func TestRunnerComesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		a, b := m.waiter("a"), m.waiter("b")
		a.ask("")
		b.ask("")
		a.tree.add(askedRun, testCommit, "queued") // behind others on its own machine
		turns := later("a", b)
		a.link.Close()
		time.Sleep(lostFor - time.Second)
		c := m.waiter("c")
		if first := c.ask(""); first != "a" {
			t.Errorf("while a is away it is the turn of %s, want a", first)
		}
		a.connect()
		time.Sleep(2 * lostFor)
		if first := c.ask(""); first != "a" {
			t.Errorf("after a has come back it is the turn of %s, want a", first)
		}
		a.tree.add(askedRun, testCommit, "test")
		synctest.Wait()
		select {
		case got := <-turns[0]:
			t.Fatalf("b is told of %s while a runs", got.first)
		default:
		}
		a.tree.add(askedRun, testCommit, "passed")
		if got := <-turns[0]; got.first != "a" {
			t.Errorf("b is told of %s first, want of a", got.first)
		}
	})
}

// A new connection under the name of one that was not noticed to be gone takes its
// place too.
func TestRunnerIsReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		a, b := m.waiter("a"), m.waiter("b")
		a.ask("")
		a.tree.add(askedRun, testCommit, "test")
		b.ask("")
		turns := later("a", b)
		old := a.link
		a.connect()
		synctest.Wait()
		old.Close()
		time.Sleep(2 * lostFor)
		select {
		case got := <-turns[0]:
			t.Fatalf("b is told of %s while a runs", got.first)
		default:
		}
		a.tree.add(askedRun, testCommit, "failed")
		if got := <-turns[0]; got.first != "b" {
			t.Errorf("after a failed it is the turn of %s, want b", got.first)
		}
	})
}

// Nobody waits for an executor that says that it leaves, nor for a run that is
// there no more.
func TestRunnerLeaves(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		a, b, c := m.waiter("a"), m.waiter("b"), m.waiter("c")
		for _, w := range []*waiter{a, b, c} {
			w.ask("")
		}
		turns := later("a", b, c)
		a.file.Close() // its index does not have the run: it was discarded
		for _, turn := range turns {
			if got := <-turn; got.first != "b" || got.took != 0 {
				t.Errorf("%s runs after %v, want b at once", got.first, got.took)
			}
		}
		turns = later("b", c)
		b.link.ssh.SendRequest(wire.RequestWithdraw, false, []byte("b"))
		if got := <-turns[0]; got.first != "c" || got.took != 0 {
			t.Errorf("%s runs after %v, want c at once", got.first, got.took)
		}
	})
}

// A run that has ended so fast that its event comes after its intent was taken
// back is no run that is gone.
func TestRunnerIsFast(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		a, b := m.waiter("a"), m.waiter("b")
		a.ask("")
		b.ask("")
		turns := later("a", b)
		told := make(chan struct{})
		a.tree.mu.Lock()
		a.tree.delay = func(ctx context.Context, path string) error {
			if strings.HasSuffix(path, "/key") {
				<-told
			}
			return nil
		}
		a.tree.mu.Unlock()
		a.tree.add("3f2a9c1d0b7e.7", testCommit, "passed") // the directory is busy with this one
		synctest.Wait()
		a.tree.add(askedRun, testCommit, "passed")
		a.file.Close()
		synctest.Wait()
		close(told)
		if got := <-turns[0]; got.first != "a" {
			t.Errorf("it is the turn of %s, want the run of a", got.first)
		}
	})
}

// The place of a run is that of its key, which find looks at: an executor whose run is
// known before its key is not put before those that have been told that it is their
// turn.
func TestPlaceIsOfKey(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		a, b := m.stopped("a"), m.waiter("b")
		told := make(chan struct{})
		a.tree.delay = func(ctx context.Context, path string) error {
			if strings.HasSuffix(path, "/key") {
				<-told
			}
			return nil
		}
		a.tree.add(askedRun, testCommit, "queued")
		a.connect()
		synctest.Wait()
		if first := b.ask(""); first != "b" {
			t.Fatalf("b is told that it is the turn of %s", first)
		}
		if first := a.ask(""); first != "b" {
			t.Errorf("a is told that it is the turn of %s, and b that it is its own", first)
		}
		close(told)
		synctest.Wait()
		if first := a.ask(""); first != "b" {
			t.Errorf("a is told that it is the turn of %s, and b that it is its own", first)
		}
	})
}

// An orchestrator that began a moment ago may not know the runner yet.
func TestWaitAtNewOrchestrator(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		b, c := m.waiter("b"), m.waiter("c")
		turns := later("a", b)
		time.Sleep(30 * time.Second)
		turns = append(turns, later("a", c)...)
		a := m.stopped("a")
		a.tree.add(askedRun, testCommit, "test")
		a.connect()
		time.Sleep(time.Hour)
		for _, turn := range turns {
			select {
			case got := <-turn:
				t.Fatalf("it is told of %s while a runs", got.first)
			default:
			}
		}
		a.tree.add(askedRun, testCommit, "failed")
		for _, turn := range turns {
			if got := <-turn; got.first != "b" {
				t.Errorf("after a failed it is the turn of %s, want b", got.first)
			}
		}
		// And one that never comes is not waited for twice.
		if got := <-later("nobody", c)[0]; got.first != "b" || got.took != 0 {
			t.Errorf("it is told of %s after %v, want b at once", got.first, got.took)
		}
	})
}

// The manual of find says how long a lost executor may take to be back.
func TestLostFor(t *testing.T) {
	if want := fmt.Sprintf("within %d s", int(lostFor.Seconds())); !strings.Contains(findManual, want) {
		t.Errorf("find's manual does not say %q", want)
	}
}
