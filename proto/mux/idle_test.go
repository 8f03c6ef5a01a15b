package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"testing"

	"9ci/fs"
	"9ci/proto/internal/testtree"
	"9ci/proto/ninep"
)

// A session that nobody uses is given up when it is asked for; one that somebody
// has a file in is not. A client does not notice that its session was another.
func TestCloseIdle(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		root := testtree.NewDir("/", 100)
		root.Add(testtree.NewNode("file", 101, 0o444, "text\n"))
		m, servers := newMux(t, map[string]fs.Dir{"a": root})
		b := m.Find([]string{"n", "a"})
		if b.CloseIdle() {
			t.Error("a session that was not dialled is idle")
		}
		one, two := client9(t, m, d), client9(t, m, d)
		for i, c := range []*ninep.Client{one, two, one} {
			n, err := walk(t.Context(), c.Root(), "n/a/file")
			if err != nil {
				t.Fatal(err)
			}
			f, err := n.Open(t.Context(), fs.OpenRead)
			if err != nil {
				t.Fatal(err)
			}
			if b.CloseIdle() {
				t.Error("a session with an open file is idle")
			}
			if text, err := io.ReadAll(fs.NewReader(t.Context(), f)); string(text) != "text\n" || err != nil {
				t.Errorf("read %q, %v", text, err)
			}
			f.Close()
			closed := false
			for !closed { // the clunk is on its way
				if closed = b.CloseIdle(); !closed {
					if _, err := n.Stat(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			if b.CloseIdle() {
				t.Error("a session is closed twice")
			}
			s := servers["a"]
			s.mu.Lock()
			if s.dials != i+1 {
				t.Errorf("%d dials, want %d", s.dials, i+1)
			}
			s.mu.Unlock()
		}
	})
}

// A backend that is busy or out of order is not one that is not there: a walk that
// crosses into it fails with its error, and does not end short.
func TestWalkSaysWhy(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		for _, want := range []error{fs.ErrBusy, iofs.ErrPermission, iofs.ErrNotExist} {
			m, _ := newMux(t, map[string]fs.Dir{"a": testtree.NewDir("/", 100)})
			m.Find([]string{"n", "a"}).dial = func(context.Context, ninep.Dialect) (io.ReadWriteCloser, error) {
				return nil, fmt.Errorf("too many: %w", want)
			}
			c := client9(t, m, d)
			if _, err := walk(t.Context(), c.Root(), "n/a"); !errors.Is(err, want) {
				t.Errorf("Walk(n/a) = %v, want %v", err, want)
			}
			if _, err := fs.Walk(t.Context(), c.Root(), "n/a/x/y"); !errors.Is(err, want) {
				t.Errorf("Walk(n/a/x/y) = %v, want %v", err, want)
			}
		}
	})
}
