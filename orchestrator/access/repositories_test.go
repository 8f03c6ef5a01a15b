package access

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A namespace stands for the repository that it was first seen with, for all that use the
// directory, until its line is deleted.
func TestRepositoriesKnow(t *testing.T) {
	dir := t.TempDir()
	open := func() *Repositories {
		t.Helper()
		r, err := OpenRepositories(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r, other := open(), open()
	const ns, host = "github.com/alice/hello", "github.com"
	if seen, err := r.Same(ns, host, "1"); seen || err != nil {
		t.Errorf("Same before Know: %v, %v", seen, err)
	}
	for _, o := range []*Repositories{r, other, r} {
		if err := o.Know(ns, host, "1"); err != nil {
			t.Error(err)
		}
	}
	file := filepath.Join(dir, "repositories")
	for _, o := range []*Repositories{r, other, open()} {
		for _, id := range [][2]string{{host, "2"}, {"gitlab.com", "1"}} {
			if err := o.Know(ns, id[0], id[1]); !errors.Is(err, ErrOtherRepository) || !strings.Contains(err.Error(), "delete line 3 of "+file) {
				t.Errorf("Know of %v: %v", id, err)
			}
		}
		if seen, err := o.Same(ns, host, "1"); !seen || err != nil {
			t.Errorf("Same: %v, %v", seen, err)
		}
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Know(ns, host, "2"); err != nil {
		t.Errorf("Know after its line was deleted: %v", err)
	}
	// Of two that see a name at once, with two repositories, one is first.
	var wg sync.WaitGroup
	var errs [2]error
	for i, o := range []*Repositories{r, other} {
		wg.Go(func() { errs[i] = o.Know("github.com/bob/new", host, fmt.Sprint(i+1)) })
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Errorf("two at once: %v, %v", errs[0], errs[1])
	}
}
