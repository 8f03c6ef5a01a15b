package report

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs/ci"
)

// Lines that make no sense are dropped, and logged together; of several lines the last one
// counts; what is old is forgotten; and the file stays as small as what it has to say.
func TestRecordFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		now := time.Now()
		line := func(mark string, at time.Time) string {
			return mark + " " + hello + " " + commit + " 9ci/amd64 passed 0 1.000 " + ci.FormatTime(at) + "\n"
		}
		text := "nonsense\n" + line("due", now) + strings.Repeat("\x00\x1b\n", 100) + "told a b c d e f g\n" + line("told", now) +
			strings.Replace(line("due", now.Add(-toldFor-time.Second)), "9ci/amd64", "old", 1) +
			"told " + hello + " HEAD 9ci passed 0 1.000 " + ci.FormatTime(now) + "\n" + line("gone", now) + "due half"
		if err := os.WriteFile(filepath.Join(dir, File), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		r, err := openRecord(t.Context(), dir, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		read := func() string {
			t.Helper()
			b, err := os.ReadFile(filepath.Join(dir, File))
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		if got := read(); got != line("told", now) || len(r.waiting()) != 0 {
			t.Errorf("the file has %q, and %v wait", got, r.waiting())
		}
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "statuses:1: ") || !strings.Contains(got, "lines=104") {
			t.Errorf("the log: %s", got)
		}
		k := key{hello, commit, "9ci/amd64"}
		for i := range 3000 {
			st := ci.Status{State: "passed", Took: time.Second, Time: now.Add(time.Duration(i+1) * time.Millisecond * 1000)}
			if news, err := r.note(k, st); !news || err != nil {
				t.Fatalf("note = %v, %v", news, err)
			}
		}
		if n := strings.Count(read(), "\n"); n > 1100 {
			t.Errorf("the file has %d lines of one status", n)
		}
	})
}

// So many statuses are remembered, and no more: of more, the oldest ends are told no more.
func TestRecordFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r, err := openRecord(t.Context(), t.TempDir(), slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		now := time.Now()
		status := func(i int) ci.Status {
			return ci.Status{State: "passed", Took: time.Second, Time: now.Add(time.Duration(i) * time.Second)}
		}
		r.mu.Lock()
		for i := range maxEntries {
			r.set(&entry{key: key{hello, commit, fmt.Sprint(i)}, status: status(i), mark: told})
		}
		r.mu.Unlock()
		for i := range 2 {
			if _, err := r.note(key{hello, commit, "new" + fmt.Sprint(i)}, status(maxEntries+i)); err != nil {
				t.Fatal(err)
			}
		}
		if len(r.all) > maxEntries || len(r.all) < maxEntries/2 {
			t.Errorf("%d are remembered", len(r.all))
		}
		time.Sleep(maxEntries * time.Second)
		if r.wants(status(10), time.Now()) || !r.wants(status(maxEntries-10), time.Now()) {
			t.Error("what was forgotten may be told again, or what is known may not")
		}
		if !strings.Contains(log.String(), "are forgotten") {
			t.Errorf("the log: %s", log.String())
		}
	})
}

// Two orchestrators of one state directory tell one after the other.
func TestRecordLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		log := slog.New(slog.DiscardHandler)
		first, err := openRecord(t.Context(), dir, log)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := openRecord(ctx, dir, log); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the second begins: %v", err)
		}
		time.AfterFunc(time.Minute, first.close)
		began := time.Now()
		second, err := openRecord(t.Context(), dir, log)
		if took := time.Since(began); err != nil || took < time.Minute || took > time.Minute+2*lockPoll {
			t.Errorf("the second begins after %v: %v", took, err)
		}
		second.close()
	})
}

// A file of statuses that anybody may have written makes no panic, and what was read is
// written so that it reads the same.
func FuzzEntry(f *testing.F) {
	f.Add("told " + hello + " " + commit + " '9ci/amd64 a b' failed 1 1.000 2026-11-24T21:00:00Z")
	f.Add("due ' ' x")
	f.Fuzz(func(t *testing.T, line string) {
		e, err := parseEntry(line)
		if err != nil {
			return
		}
		if strings.ContainsAny(line, "\n\r") {
			return // the file has one line each
		}
		again, err := parseEntry(strings.TrimSuffix(e.line(), "\n"))
		if err != nil || *again != *e {
			t.Errorf("%q reads %+v, and then %+v, %v", line, e, again, err)
		}
	})
}
