package access

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Of files that belong together, as a certificate and its key do, one that does not
// go with the other counts as little as one that is gone.
func TestWatchedTogether(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	fresh := 0
	w, err := watch([]string{a, b}, func(texts [][]byte) (string, error) {
		if !bytes.Equal(texts[0], texts[1]) {
			return "", errors.New("no pair")
		}
		return string(texts[0]), nil
	}, func() { fresh++ }, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatalf("watch without files: %v", err)
	}
	for _, step := range []struct {
		do    func()
		want  string
		fresh int
		log   string // what is said once, though get is called three times
	}{
		{func() {}, "", 0, ""},
		{func() { write(a, "1") }, "", 0, ""},
		{func() { write(b, "1") }, "1", 1, ""},
		{func() { write(b, "2") }, "1", 1, "no pair: what it said before stands"},
		{func() { write(a, "2") }, "2", 2, "well again"},
		{func() { os.Remove(a) }, "2", 2, "no such file or directory: what it said before stands"},
		{func() { write(a, "2") }, "2", 2, "well again"},
	} {
		log.Reset()
		step.do()
		for range 3 {
			if got := w.get(); got != step.want {
				t.Errorf("get = %q, want %q", got, step.want)
			}
		}
		if n := strings.Count(log.String(), "\n"); fresh != step.fresh || !strings.Contains(log.String(), step.log) || n != min(len(step.log), 1) {
			t.Errorf("at %q: fresh %d times, want %d; it says %q, want %q once", step.want, fresh, step.fresh, &log, step.log)
		}
	}
}
