package orchestrator

import (
	"fmt"
	"strings"
	"testing"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
)

// A reader of events that has fallen too far behind gets the present state, and
// goes on from there.
func TestEventBehind(t *testing.T) {
	d := newLocalDirectory(func(*share, string, uint64) {})
	e := newEventFile(d.watch(hello), nil)
	defer e.Close()
	m := &member{name: "box", key: "k"}
	a := wire.Announce{Name: "box", Namespaces: []string{hello}}
	n := 0
	for size := 0; size < 3<<20; n++ {
		if _, err := d.join(t.Context(), m, a, ""); err != nil {
			t.Fatal(err)
		}
		size += 2 * len("/n/box leave 2026-11-24T21:00:00Z\n")
		d.leave(m, false)
	}
	if _, err := d.join(t.Context(), m, a, ""); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<20)
	got, err := e.ReadAt(t.Context(), b, 0)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(b[:got]); strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "/n/box join ") {
		t.Errorf("after %d lines: %.200q, want the state", 2*n+1, text)
	}
	d.leave(m, false)
	if got, err = e.ReadAt(t.Context(), b, 0); err != nil || !strings.HasPrefix(string(b[:got]), "/n/box leave ") {
		t.Errorf("then %.200q, %v", b[:got], err)
	}
}

// The root's events are those of the namespaces that the session may read, each
// line whole.
func TestRootEvents(t *testing.T) {
	m := startMux(t)
	k, _ := m.key("", "operator")
	one, _ := m.key(`namespace="`+hello+`"`, "alice")
	all, some := watchEvents(t, m.tree(m.dial(k), "")), watchEvents(t, m.tree(m.dial(one), ""))
	m.exportTo(k, "a", "github.com/bob/n/secret")
	all.await("/github.com/bob/n/secret/n/a join")
	m.exportTo(k, "b", hello)
	all.await("/" + hello + "/n/b join")
	some.await("/" + hello + "/n/b join")
	if strings.Contains(some.text, "secret") {
		t.Errorf("events of a namespace that is forbidden: %q", some.text)
	}
}

// A listing that goes on has the entries that were there when it began.
func TestListingIsStable(t *testing.T) {
	m := startMux(t)
	k, _ := m.key("", "alice")
	for i := range 3 {
		m.exportTo(k, fmt.Sprintf("box.%d", 2*i+1), hello)
	}
	c := &conn{s: m.s, login: testLogin(t, m, k)}
	n, err := fs.Walk(t.Context(), newView(t.Context(), c).root(), hello+"/n")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	after := uint64(0)
	for {
		sts, err := n.(fs.Dir).ReadDir(t.Context(), after, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(sts) == 0 {
			break
		}
		names = append(names, sts[0].Name)
		after = sts[0].Cookie
		m.exportTo(k, fmt.Sprintf("box.%d", 2*len(names)), hello)
	}
	if got := strings.Join(names, " "); got != "box.1 box.3 box.5" {
		t.Errorf("a listing while executors join: %s", got)
	}
	if sts, err := n.(fs.Dir).ReadDir(t.Context(), 0, 100); err != nil || len(sts) != 6 {
		t.Errorf("the next listing: %v, %v", sts, err)
	}
}
