package forge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
)

func numbered(i int) (id tokenID) {
	binary.BigEndian.PutUint64(id[:], uint64(i))
	return id
}

// The room for tokens that name no key is bounded; one that is live is never forgotten.
func TestReplayRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := openReplays("")
		if err != nil {
			t.Fatal(err)
		}
		end := time.Now().Add(time.Hour)
		for i := range maxReplays {
			if err := r.use(numbered(i), "a", fmt.Sprint("repo", i/maxReplaysOfOne), time.Now(), end); err != nil {
				t.Fatalf("token %d: %v", i, err)
			}
		}
		for what, repository := range map[string]string{"the room of all": "another", "the room of one": "repo1"} {
			if err := r.use(numbered(maxReplays), "a", repository, time.Now(), end); !errors.Is(err, fs.ErrBusy) {
				t.Errorf("beyond %s: %v", what, err)
			}
		}
		for i := range maxReplays {
			if err := r.use(numbered(i), "b", "x", time.Now(), end); err == nil || errors.Is(err, fs.ErrBusy) {
				t.Fatalf("token %d with another key: %v", i, err)
			}
			if err := r.use(numbered(i), "a", "x", time.Now(), end); err != nil {
				t.Fatalf("token %d again: %v", i, err)
			}
		}
		time.Sleep(time.Hour)
		if err := r.use(numbered(maxReplays), "a", "another", time.Now(), end.Add(time.Hour)); err != nil || len(r.shown) != 1 || len(r.of) != 1 {
			t.Errorf("after an hour: %v, %d tokens of %d repositories", err, len(r.shown), len(r.of))
		}
		for i := range maxReplaysOfOne {
			if err := r.use(numbered(i), "a", "one", time.Now(), end.Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.use(numbered(maxReplays+1), "a", "one", time.Now(), end); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("beyond the room of one repository: %v", err)
		}
		if err := r.use(numbered(maxReplays+1), "a", "two", time.Now(), end); err != nil {
			t.Errorf("of another repository: %v", err)
		}
	})
}

// What key has shown a token is known after a restart, whenever that comes.
func TestReplayRestart(t *testing.T) {
	in(t, []string{"gitlab"}, func(t *testing.T, w *world) {
		token := w.token(map[string]any{"aud": me})
		restart := func() {
			f, err := Open(w.file, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			f.transport, f.issuers = w.transport, w.issuers
			w.Forges = f
		}
		w.good("at first", token)
		restart()
		w.refused("with another key, after a restart", token, other, "was used by the key SHA256:mine")
		w.good("with its key, after a restart", token)

		// The process died while it wrote the next line.
		used := w.file + ".used"
		text, err := os.ReadFile(used)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(used, append(text, text[:len(text)-10]...), 0o600); err != nil {
			t.Fatal(err)
		}
		restart()
		w.refused("with another key, after a crash", token, other, "was used by")
		w.good("a second token", w.token(map[string]any{"aud": me}))
		restart()
		if len(w.replays.shown) != 2 || w.replays.of["gitlab:repo:74"] != 2 {
			t.Errorf("%v after a crash and a restart, want 2 tokens", w.replays.shown)
		}
		time.Sleep(time.Hour + leeway - time.Second)
		restart()
		w.refused("with another key, at its end", token, other, "was used by")
		time.Sleep(time.Second)
		restart()
		if text, err := os.ReadFile(used); err != nil || len(text) != 0 || len(w.replays.shown) != 0 {
			t.Errorf("%q, %v after their end", text, err)
		}
	})
}

// Of two orchestrators of one state directory, as when one ends and the next begins, each
// knows what the other has taken.
func TestReplayTwo(t *testing.T) {
	in(t, []string{"gitlab"}, func(t *testing.T, w *world) {
		f, err := Open(w.file, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		f.transport, f.issuers = w.transport, w.issuers
		one, two := w.Forges, f
		for i := range 3 {
			token := w.token(map[string]any{"aud": me, "jti": fmt.Sprint(i)})
			w.good("at the first", token)
			w.Forges = two
			w.refused("with another key, at the second", token, other, "was used by the key SHA256:mine")
			w.good("with its key, at the second", token)
			one, two = two, one
		}
		// The second writes the file anew, and the first knows that too.
		last := w.token(map[string]any{"aud": me, "jti": "last"})
		w.replays.lines = writeAnew
		w.good("at the second", last)
		w.Forges = two
		w.refused("with another key, at the first", last, other, "was used by")
		if text, err := os.ReadFile(w.file + ".used"); err != nil || strings.Count(string(text), "\n") != 4 {
			t.Errorf("the file is %q, %v, want 4 lines", text, err)
		}
	})
}

// A token is not taken if it cannot be written down who has shown it.
func TestReplayDisk(t *testing.T) {
	in(t, []string{"gitlab"}, func(t *testing.T, w *world) {
		used := w.file + ".used"
		if err := os.Mkdir(used, 0o700); err != nil {
			t.Fatal(err)
		}
		token := w.token(map[string]any{"aud": me})
		w.busy("no file can be written", token, "is a directory")
		w.good("a token that names its key", w.token(nil))
		if f, err := Open(w.file, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("Open = %v with a directory for its file", f)
		}
		if err := os.Remove(used); err != nil {
			t.Fatal(err)
		}
		w.good("when one can", token)
		if err := os.Remove(used); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/dev/full", used); err != nil {
			t.Fatal(err)
		}
		w.busy("the disk is full", w.token(map[string]any{"aud": me}), "no space left")
		w.good("what may be half a line is written anew", w.token(map[string]any{"aud": me}))
		for what, text := range map[string]string{
			"a word": "x\n", "no SHA-256": "xx a b 2026-01-01T00:00:00Z\n", "a short one": "00 a b 2026-01-01T00:00:00Z\n",
			"no time": strings.Repeat("00", 32) + " a b tomorrow\n", "a long one": strings.Repeat("00", 33) + " a b 2026-01-01T00:00:00Z\n",
		} {
			if err := os.WriteFile(used, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if f, err := Open(w.file, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), used+":1: ") {
				t.Errorf("%s: Open = %v, %v", what, f, err)
			}
		}
	})
}

// The file does not grow for ever.
func TestReplayFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "used")
		r, err := openReplays(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5000 {
			if err := r.use(numbered(i), "a", "b", time.Now(), time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		text, err := os.ReadFile(path)
		if n := strings.Count(string(text), "\n"); err != nil || n > 2000 || n != r.lines {
			t.Errorf("%d lines, %v, and %d were counted", n, err, r.lines)
		}
		again, err := openReplays(path)
		if err != nil || len(again.shown) < 59 || len(again.shown) > 60 {
			t.Errorf("%d tokens, %v, want those of the last minute", len(again.shown), err)
		}
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", fi.Mode(), err)
		}
	})
}
