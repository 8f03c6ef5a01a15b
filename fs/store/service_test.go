package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs/ci"
)

// The log of a service is the run's, within the limit of its output.
func TestService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		s.MaxOutput = 1 << 20
		r := mustCreate(t, s)
		r.Enter("test")
		for _, name := range []string{"", ".", "..", "a/b", "db.o", "x y", strings.Repeat("x", 65)} {
			if _, err := r.AddService(name); err == nil || !strings.Contains(err.Error(), "is no name of a service") {
				t.Errorf("AddService(%q) = %v", name, err)
			}
		}
		db, err := r.AddService("db")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(db.Stdout(), "one\ntwo ")
		fmt.Fprint(db.Stderr(), "three")
		time.Sleep(2 * holdbackTime)
		synctest.Wait()
		fmt.Fprint(db.Stdout(), "halves\nlast")
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if _, err := db.Stdout().Write([]byte("late\n")); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Write when it is closed = %v, want %v", err, os.ErrClosed)
		}
		for i := 1; i < ci.MaxServices; i++ {
			svc, err := r.AddService(fmt.Sprint("s", i))
			if err != nil {
				t.Fatal(err)
			}
			if i > 1 {
				svc.Close()
				continue
			}
			for err == nil {
				_, err = fmt.Fprintln(svc.Stderr(), "y")
			}
			if !strings.Contains(err.Error(), "over 1048576 bytes") {
				t.Errorf("Write = %v", err)
			}
			svc.Close()
		}
		if _, err := r.AddService("more"); err == nil || !strings.Contains(err.Error(), "16 services at most") {
			t.Errorf("AddService = %v", err)
		}
		if err := r.Seal(t.Context(), "passed", 0, testSign); err != nil {
			t.Fatal(err)
		}
		if _, err := r.AddService("late"); err == nil || !strings.Contains(err.Error(), "has ended") {
			t.Errorf("AddService when the run has ended = %v", err)
		}
		e, err := s.Get(r.ID())
		if err != nil || e.State != "error" || e.Size > 1<<20+100<<10 {
			t.Errorf("Get = %v, size %d, %v", e, e.Size, err)
		}
		b, err := os.ReadFile(filepath.Join(e.Dir, "service/db/log"))
		var texts []string
		for line := range strings.Lines(string(b)) {
			_, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "Z ")
			texts = append(texts, text)
		}
		if got := strings.Join(texts, "|"); err != nil || got != "stdout F one|stdout P two |stderr P three|stdout F halves|stdout P last" {
			t.Errorf("the log of db has %q, %v", got, err)
		}
		verifyRun(t, s, r.ID())
		var first bytes.Buffer
		if err := s.WriteTar(t.Context(), &first, r.ID()); err != nil {
			t.Fatal(err)
		}
		other := newStore(t)
		other.MaxOutput = 2 << 20
		a, err := other.Adopt(t.Context(), bytes.NewReader(first.Bytes()), nil)
		if err != nil {
			t.Fatal(err)
		}
		verifyRun(t, other, a.ID)
		var second bytes.Buffer
		if err := other.WriteTar(t.Context(), &second, a.ID); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("the tar of the adopted run differs from its maker's: %v", err)
		}
	})
}

// A process that was killed, or a disk that was full, as the first service was to get its
// log leaves an empty directory, which is no part of the run.
func TestServiceHalfMade(t *testing.T) {
	s := newStore(t)
	r := mustCreate(t, s)
	if err := os.Mkdir(filepath.Join(r.Dir(), "service"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if ids, err := s.Recover(t.Context(), testSign); err != nil || len(ids) != 1 {
		t.Fatalf("Recover = %q, %v, want one run", ids, err)
	}
	verifyRun(t, s, r.ID())
}
