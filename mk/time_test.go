package mk_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"9ci/mk"
)

// A file of the graph that was modified in the future is warned of, once a run.
func TestFuture(t *testing.T) {
	const graph = "all:V: a b v\n\ttrue\na b: c\n\ttouch $target\nv:V:\n\ttrue\n"
	for _, c := range []struct {
		mkfile string
		files  map[string]time.Duration // from now
		want   string
	}{
		{graph, map[string]time.Duration{"c": -time.Hour}, ""},
		{graph, map[string]time.Duration{"c": 0}, ""},
		{graph, map[string]time.Duration{"c": 3*time.Hour + 20*time.Second}, "'c' was modified 3h0m in the future"},
		{graph, map[string]time.Duration{"a": time.Minute + 30*time.Second, "c": time.Minute + 30*time.Second}, "' was modified 1m"},
		{graph, map[string]time.Duration{"c": 50*24*time.Hour + time.Minute}, "'c' was modified 50d0h in the future"},
		{graph, map[string]time.Duration{"c": 100 * 365 * 24 * time.Hour}, "'c' was modified 36"},
		{graph, map[string]time.Duration{"c": 0, "v": time.Hour, "other": time.Hour}, ""},
		{"all:\n\ttouch -d '90 minutes' all\n", nil, "'all' was modified 1h"},
	} {
		for _, nano := range []bool{false, true} {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "mkfile"), []byte(c.mkfile), 0o666); err != nil {
				t.Fatal(err)
			}
			for name, d := range c.files {
				name = filepath.Join(dir, name)
				if err := os.WriteFile(name, nil, 0o666); err != nil {
					t.Fatal(err)
				}
				at := time.Now().Add(d)
				if err := os.Chtimes(name, at, at); err != nil {
					t.Fatal(err)
				}
			}
			var stderr bytes.Buffer
			m, err := mk.Parse(t.Context(), mk.Config{Dir: dir, Exec: true, Nano: nano, Stderr: &stderr})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Plan(t.Context()); err != nil || stderr.Len() > 0 {
				t.Errorf("Plan: %v, said %q", err, stderr.String())
			}
			if err := m.Run(t.Context()); err != nil {
				t.Error(err)
			}
			got := stderr.String()
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) || strings.Count(got, "\n") > 1 {
				t.Errorf("%v, nano %v: mk said %q, want %q", c.files, nano, got, c.want)
			}
		}
	}
}
