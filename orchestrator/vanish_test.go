package orchestrator

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"9ci/orchestrator/internal/wire"
)

// Askers that vanish leave nothing at the orchestrator: neither those whose
// connection ends, nor those that give a question up.
func TestAskersVanish(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		a := m.waiter("a")
		a.ask("")
		a.tree.add(askedRun, testCommit, "test")
		k, _ := m.key("", "b")
		question := func(id, pairs string) wire.FindMsg {
			return wire.FindMsg{Namespace: hello, Question: string(testKey(testCommit).Text()) + "intent=" + id + "\n" + pairs}
		}
		synctest.Wait()
		const leave, release, cut, freeze, ways = 0, 1, 2, 3, 4
		before := 0
		vanish := func(how int) {
			l, nc := m.login(k)
			defer l.Close()
			if err := m.exportOn(l, wire.Announce{Name: "b", Namespaces: []string{hello}}, newTestTree().root()); err != nil {
				t.Fatal(err)
			}
			if how == freeze {
				nc.freeze(true)
			}
			for i := range 40 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_, takeBack, err := l.Find(ctx, question(fmt.Sprintf("3f2a9c1d0b7e.%d", i+1), []string{"", waitFor("a")}[i%2]))
				cancel()
				if err == nil && how == release {
					takeBack()
				}
				if how == cut && i == 20 {
					nc.Close()
				}
			}
		}
		for i := range 8 * ways {
			vanish(i % ways)
			if i == ways-1 { // all that is made once is there
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				before = bubbled()
			}
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if after := bubbled(); after != before || after == 0 {
			t.Errorf("%d goroutines are left, want %d", after, before)
		}
		d := m.s.dir.(*localDirectory)
		d.mu.Lock()
		defer d.mu.Unlock()
		sp := d.spaces[hello]
		if len(sp.shares) != 1 || len(sp.lost) != 0 || len(sp.shares["a"].runs) != 1 || d.lostBytes != 0 || sp.watches != 0 {
			t.Errorf("%d shares, %d lost, %d runs, %d bytes, %d watches are left", len(sp.shares), len(sp.lost), len(sp.shares["a"].runs), d.lostBytes, sp.watches)
		}
	})
}

// bubbled returns how many goroutines are in a bubble. Those outside, such as the one
// that runs finalizers, come and go.
func bubbled() int {
	b := make([]byte, 4<<20)
	return bytes.Count(b[:runtime.Stack(b, true)], []byte(", synctest bubble "))
}
