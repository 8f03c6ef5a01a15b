package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"strings"
	"sync"
	"testing"

	"9ci/fs"
	"9ci/fs/ci"
)

// Runs are made, adopted and evicted while clients list, follow and copy them,
// through two stores of one directory. A client sees each run whole or not at
// all.
func TestBusyStore(t *testing.T) {
	a := newStore(t)
	b, err := Open(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	_, good := goodTar(t)
	a.SetKeep(Keep{Count: 3})
	b.SetKeep(Keep{Count: 2})
	done := make(chan struct{})
	var makers, clients sync.WaitGroup
	for i, s := range []*Store{a, b} {
		makers.Go(func() {
			for j := range 15 {
				r, err := s.Create(commitA)
				if err != nil {
					t.Error(err)
					return
				}
				for _, step := range ci.Steps {
					if err := r.Enter(step); err != nil {
						t.Error(err)
					}
					fmt.Fprintf(r.Stdout(), "%s of run %d\n", step, j)
					if err := r.Leave(step, "passed", 0); err != nil {
						t.Error(err)
					}
				}
				if err := r.Seal(t.Context(), "passed", 0, testSign); err != nil {
					t.Error(err)
				}
				if j%5 == i {
					if _, err := s.Adopt(t.Context(), bytes.NewReader(good), nil); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for _, s := range []*Store{a, b, a, b} {
		root := NewTree(s, nil)
		clients.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				ciDir, err := root.Walk(t.Context(), "ci")
				if err != nil {
					t.Error(err)
					return
				}
				seen := make(map[string]bool)
				for st, err := range fs.Entries(t.Context(), ciDir.(fs.Dir)) {
					if err != nil {
						t.Error(err)
						return
					}
					if seen[st.Name] {
						t.Errorf("%s is listed twice", st.Name)
					}
					seen[st.Name] = true
					client(t, root, st.Name)
				}
				mustReadText(t, root, "index")
				mustReadText(t, root, "status")
			}
		})
	}
	makers.Wait()
	close(done)
	clients.Wait()
	for _, s := range []*Store{a, b} {
		unlock, err := s.lock() // what clients had may still be evicted
		if err != nil {
			t.Fatal(err)
		}
		for e := range s.Runs() {
			verifyRun(t, s, e.ID)
		}
		unlock()
	}
}

// A run whose status says that it has ended counts as kept, and no longer as
// running.
func TestEndedIsKept(t *testing.T) {
	s := newStore(t)
	root := NewTree(s, nil)
	for i := range 20 {
		r, err := s.Create(commitA)
		if err != nil {
			t.Fatal(err)
		}
		sealed := make(chan error, 1)
		go func() { sealed <- r.Seal(t.Context(), "passed", 0, testSign) }()
		for {
			st, err := ci.ParseStatus(mustReadText(t, root, "ci/"+r.ID()+"/status"))
			if err != nil {
				t.Fatal(err)
			}
			if st.Finished() {
				break
			}
		}
		st, err := ci.ParseAttrs([]byte(mustReadText(t, root, "status")))
		if running, kept := st.Get("running")+st.Get("queued"), st.Get("kept"); err != nil || running != "00" || kept != fmt.Sprint(i+1) {
			t.Errorf("with %d runs that have ended, running+queued=%s kept=%s, %v", i+1, running, kept, err)
		}
		if err := <-sealed; err != nil {
			t.Fatal(err)
		}
	}
}

// client reads a run as one that follows it does. That it is gone is no error
// before its first file is open.
func client(t *testing.T, root fs.Dir, id string) {
	n, err := fs.Walk(t.Context(), root, "ci/"+id+"/live")
	if errors.Is(err, iofs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Errorf("walk to live of %s: %v", id, err)
		return
	}
	f, err := n.Open(t.Context(), fs.OpenRead)
	if errors.Is(err, iofs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Errorf("open live of %s: %v", id, err)
		return
	}
	defer f.Close()
	live, err := io.ReadAll(fs.NewReader(context.Background(), f))
	if err != nil {
		t.Errorf("read live of %s: %v", id, err)
		return
	}
	// Of a run that has ended, or that we held open, all is there.
	n, err = fs.Walk(t.Context(), root, "ci/"+id+"/log")
	if err != nil {
		if !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("walk to log of %s: %v", id, err)
		}
		return
	}
	log, err := fs.ReadAll(t.Context(), n)
	if err != nil {
		if !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("read log of %s: %v", id, err)
		}
		return
	}
	var said bytes.Buffer
	if err := ci.CopyLog(&said, &said, bytes.NewReader(log)); err != nil || said.String() != string(live) {
		t.Errorf("live of %s read %q, its log says %q, %v", id, live, &said, err)
	}
}

func mustReadText(t *testing.T, root fs.Dir, name string) string {
	t.Helper()
	n, err := fs.Walk(t.Context(), root, name)
	if err != nil {
		t.Error(err)
		return ""
	}
	b, err := fs.ReadAll(t.Context(), n)
	if err != nil || !strings.HasSuffix(string(b), "\n") && len(b) > 0 {
		t.Errorf("%s reads %q, %v", name, b, err)
	}
	return string(b)
}
