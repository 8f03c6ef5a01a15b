package orchestrator

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/internal/client"
	"9ci/orchestrator/internal/wire"
)

// A testExporter is an executor whose status says which it is.
type testExporter struct {
	m    *bubbleMux
	link testLink
	nc   *memConn
	tree fs.Dir
	name string

	shown  string   // its name below n
	second []string // the others of its name that it was told of
}

// exporter makes an executor that has logged in with the key.
func (m *bubbleMux) exporter(k ssh.Signer, status string) *testExporter {
	tree := newTestTree()
	tree.files["status"] = status + "\n"
	e := &testExporter{m: m, tree: tree.root(), name: status}
	e.link, e.nc = m.login(k)
	return e
}

// export announces a, and returns once the answer is there.
func (e *testExporter) export(a wire.Announce) error {
	e.m.t.Helper()
	return e.m.exportTold(e.link, a, client.Told{
		Joined: func(shown string) { e.shown = shown },
		Second: func(shown string) { e.second = append(e.second, shown) },
	}, e.tree)
}

func box(instance string) wire.Announce {
	return wire.Announce{Name: "box", Namespaces: []string{hello}, Instance: instance}
}

// A second executor of a name and key gets a number, and both are told. It keeps the
// number when it comes back, whatever has come and gone meanwhile.
func TestSecondOfAName(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		reader, _ := m.login(k)
		root := m.treeOn(reader, hello)
		var all []*testExporter
		for i := range 3 {
			e := m.exporter(k, fmt.Sprint(i+1))
			if err := e.export(box(fmt.Sprintf("i%d", i+1))); err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
		synctest.Wait()
		for i, want := range []string{"box", "box+2", "box+3"} {
			if all[i].shown != want {
				t.Errorf("executor %d is %q, want %q", i+1, all[i].shown, want)
			}
			if got := read(t, root, "n/"+want+"/status"); got != fmt.Sprintf("%d\n", i+1) {
				t.Errorf("n/%s/status = %q", want, got)
			}
			if s := read(t, root, "status"); !strings.Contains(s, "executor='"+want+" ") {
				t.Errorf("status = %q, want %s", s, want)
			}
		}
		if got := fmt.Sprint(all[0].second, all[1].second); got != "[box+2 box+3] []" {
			t.Errorf("they are told of %s", got)
		}

		// The first one leaves. The second comes back with its number, although the
		// name is free, and a new one gets the name.
		all[0].link.Close()
		all[1].link.Close()
		synctest.Wait()
		time.Sleep(lostFor)
		again := m.exporter(k, "2")
		a := box("i2")
		a.Had = "box+2"
		if err := again.export(a); err != nil || again.shown != "box+2" {
			t.Errorf("the second one is %q when it is back, %v", again.shown, err)
		}
		fourth := m.exporter(k, "4")
		if err := fourth.export(box("i4")); err != nil || fourth.shown != "box" {
			t.Errorf("a new one is %q, %v, want the free name", fourth.shown, err)
		}
	})
}

// An executor whose connection has ended but is still about to leave keeps nobody
// waiting for its name.
func TestNameOfOneThatLeaves(t *testing.T) {
	m := startMux(t)
	k, _ := m.key("", "alice")
	a := m.dial(k)
	m.export(a, dial.Announce{Name: "box", Namespaces: []string{hello}}, newTestTree().root())
	old := m.s.live.all()[0]
	old.mu.Lock() // so that it cannot leave
	defer old.mu.Unlock()
	a.Close()
	old.ssh.Wait()
	m.exportTo(k, "box", hello)
	if sh := m.s.dir.share(hello, "box"); sh == nil || sh.m.conn == old {
		t.Errorf("box is %+v, want the second executor's", sh)
	}
}

// An executor that connects again while its old connection is half dead gets its
// name at once. One whose connection broke finds its name kept, which a second one
// does not get meanwhile.
func TestNameIsKept(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		one := m.exporter(k, "1")
		if err := one.export(box("i1")); err != nil {
			t.Fatal(err)
		}
		one.nc.freeze(true)
		began := time.Now()
		again := m.exporter(k, "1")
		if err := again.export(box("i1")); err != nil || again.shown != "box" || time.Since(began) > 0 {
			t.Errorf("it is %q after %v, %v", again.shown, time.Since(began), err)
		}
		again.link.Close()
		synctest.Wait()
		two := m.exporter(k, "2")
		if err := two.export(box("i2")); err != nil || two.shown != "box+2" {
			t.Errorf("a second one is %q while the first is lost, %v", two.shown, err)
		}
		third := m.exporter(k, "1")
		if err := third.export(box("i1")); err != nil || third.shown != "box" {
			t.Errorf("the first is %q when it is back, %v", third.shown, err)
		}
	})
}

// A process that was started again on the same machine takes the name of the one
// that was killed, and so does one of a machine that fell silent and was started
// again. Stock ssh, which says neither, does so too.
func TestNameOfTheKilled(t *testing.T) {
	for _, test := range []struct {
		what       string
		old, again wire.Announce
		silent     bool
	}{
		{"killed", wire.Announce{Instance: "i1", Boot: "b1"}, wire.Announce{Instance: "i2", Boot: "b1"}, false},
		{"machine", wire.Announce{Instance: "i1", Boot: "b1"}, wire.Announce{Instance: "i2", Boot: "b2"}, true},
		{"stock", wire.Announce{}, wire.Announce{}, false},
		{"silent stock", wire.Announce{}, wire.Announce{}, true},
	} {
		t.Run(test.what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, m *bubbleMux) {
				k, _ := m.key("", "alice")
				old, again := m.exporter(k, "1"), m.exporter(k, "2")
				for i, a := range []*wire.Announce{&test.old, &test.again} {
					a.Name, a.Namespaces = "box", []string{hello}
					if err := []*testExporter{old, again}[i].export(*a); err != nil {
						t.Fatal(err)
					}
					if i > 0 {
						break
					}
					if test.silent {
						old.nc.freeze(true)
						time.Sleep(aliveFor)
					} else {
						old.link.Close()
						synctest.Wait()
					}
				}
				if again.shown != "box" {
					t.Errorf("it is %q, want the name", again.shown)
				}
			})
		})
	}
}

// Another key is refused the name, and the number too, also for a while after all
// executors of it have left. Of those that were refused the first one gets it.
func TestNameIsItsKeys(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		ka, _ := m.key("", "alice")
		kb, _ := m.key(`namespace="..., local/*"`, "bob")
		kc, _ := m.key("", "carol")
		a1, a2 := m.exporter(ka, "a1"), m.exporter(ka, "a2")
		b, c := m.exporter(kb, "b"), m.exporter(kc, "c")
		for _, e := range []*testExporter{a1, a2} {
			if err := e.export(box(e.name)); err != nil {
				t.Fatal(err)
			}
		}
		refused := func(e *testExporter, want string) {
			t.Helper()
			var r *dial.RefusedError
			if err := e.export(box("x")); !errors.As(err, &r) || !strings.Contains(err.Error(), want) {
				t.Errorf("another key: %v, want a refusal that says %q", err, want)
			}
		}
		refused(b, "belongs to another key: it is free 1m0s after")
		if err := m.exporter(kb, "b").export(wire.Announce{Name: "box", Namespaces: []string{"local/x"}}); err != nil {
			t.Errorf("another namespace: %v", err)
		}
		refused(c, "belongs to another key")
		a1.link.Close()
		synctest.Wait()
		time.Sleep(nameHeld)
		refused(b, "belongs to another key") // a2 is box+2
		a2.link.Close()
		synctest.Wait()
		refused(b, "belongs to another key")
		for range 3 { // both ask again, as dial does
			time.Sleep(nameHeld / 3)
			if err := c.export(box("c")); err == nil {
				t.Fatal("c was before b")
			}
			if b.export(box("b")) == nil {
				refused(c, "belongs to another key")
				return
			}
		}
		t.Error("the first that was refused does not get the name")
	})
}
