package store

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"9ci/fs/ci"
)

// What was changed in a run on disk is found, content and metadata apart.
func TestVerifyDir(t *testing.T) {
	s := newStore(t)
	id := writeRun(t, s, commitA, treeA, "passed", 0)
	var tar bytes.Buffer
	if err := s.WriteTar(t.Context(), &tar, id); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name              string
		do                func(dir string) error
		content, metadata string // what is said; "" nothing
	}{
		{"nothing", func(string) error { return nil }, "", ""},
		{"stdout", func(d string) error { return rewrite(d, "stdout", "other\n") }, "stdout: its SHA-256 is ", ""},
		{"artifact", func(d string) error { return rewrite(d, "artifacts/size", "43\n") }, "artifacts/size: its SHA-256 is ", ""},
		{"longer artifact", func(d string) error { return rewrite(d, "artifacts/size", "4200\n") }, "artifacts/size: its SHA-256 is ", "artifacts/size: its size is 5, not 3"},
		{"missing", func(d string) error { return os.Remove(filepath.Join(d, "key")) }, "key: ", ""},
		{"missing directory", func(d string) error { return os.Remove(filepath.Join(d, "artifacts/bin/empty dir")) }, "artifacts/bin/empty dir: it is not there", ""},
		{"extra", func(d string) error { return os.WriteFile(filepath.Join(d, "extra"), nil, 0o444) }, "extra: neither the manifest nor artifacts.mtree names it", ""},
		{"extra of two lines", func(d string) error {
			return os.WriteFile(filepath.Join(d, "x\nsignature  ok: signed by alice"), nil, 0o444)
		}, `x\nsignature  ok: signed by alice: neither`, ""},
		{"ctl", func(d string) error { return os.WriteFile(filepath.Join(d, "ctl"), []byte("cancel\n"), 0o644) }, "", ""},
		{"ctl that is a link", func(d string) error { return os.Symlink("stdout", filepath.Join(d, "ctl")) }, "ctl: neither", ""},
		{"ctl that is a directory", func(d string) error { return os.Mkdir(filepath.Join(d, "ctl"), 0o755) }, "ctl: neither", ""},
		{"ctl of a step", func(d string) error {
			return os.WriteFile(filepath.Join(d, "step/ctl"), nil, 0o444)
		}, "step/ctl: neither", ""},
		{"extra artifact", func(d string) error { return os.Mkdir(filepath.Join(d, "artifacts/x"), 0o755) }, "artifacts/x: neither the manifest", ""},
		{"mode", func(d string) error { return os.Chmod(filepath.Join(d, "artifacts/bin/hello"), 0o777) }, "", "artifacts/bin/hello: its mode is 0777, not 0755"},
		{"our mode", func(d string) error { return os.Chmod(filepath.Join(d, "log"), 0o644) }, "", "log: its mode is 0644, not 0444"},
		{"time", func(d string) error {
			return os.Chtimes(filepath.Join(d, "artifacts/size"), time.Now(), time.Unix(1, 0))
		}, "", "artifacts/size: its time is 1970-01-01T00:00:01Z, not "},
		{"link", func(d string) error {
			os.Remove(filepath.Join(d, "artifacts/link"))
			return os.Symlink("elsewhere", filepath.Join(d, "artifacts/link"))
		}, "", `artifacts/link: it points to "elsewhere", not "bin/hello"`},
		{"type", func(d string) error {
			os.Remove(filepath.Join(d, "stderr"))
			return os.Symlink("stdout", filepath.Join(d, "stderr"))
		}, "stderr: open stderr: not a regular file", "stderr: it is a link, not a file"},
		{"manifest", func(d string) error {
			b, _ := os.ReadFile(filepath.Join(d, "manifest"))
			_, rest, _ := bytes.Cut(b, []byte("\n"))
			return rewrite(d, "manifest", string(rest))
		}, "manifest", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to := newStore(t)
			e, err := to.Adopt(t.Context(), bytes.NewReader(tar.Bytes()), nil)
			if err != nil {
				t.Fatal(err)
			}
			var restore []func()
			for _, d := range []string{"", "artifacts", "artifacts/bin", "step"} {
				restore = append(restore, keepDir(t, filepath.Join(e.Dir, d)))
			}
			if err := tt.do(e.Dir); err != nil {
				t.Fatal(err)
			}
			for _, f := range restore {
				f()
			}
			rep, err := ci.VerifyDir(e.Dir)
			if err != nil {
				t.Fatal(err)
			}
			said := func(what string, got []string, want string) {
				if want == "" && len(got) > 0 || want != "" && !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, want) }) {
					t.Errorf("%s = %q, want %q", what, got, want)
				}
			}
			said("Content", rep.Content, tt.content)
			said("Metadata", rep.Metadata, tt.metadata)
			if want := tt.name == "ctl"; rep.Ctl != want {
				t.Errorf("Ctl = %v, want %v", rep.Ctl, want)
			}
		})
	}
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing")} {
		if _, err := ci.VerifyDir(dir); err == nil {
			t.Errorf("VerifyDir(%s), which is no run, is no error", dir)
		}
	}
}

// rewrite changes what a file holds and keeps its mode and time.
func rewrite(dir, name, text string) error {
	name = filepath.Join(dir, name)
	fi, err := os.Stat(name)
	if err != nil {
		return err
	}
	os.Chmod(name, 0o600)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		return err
	}
	os.Chmod(name, fi.Mode())
	return os.Chtimes(name, time.Now(), fi.ModTime())
}

// keepDir makes a directory writable, and returns what gives it back its mode
// and time.
func keepDir(t *testing.T, dir string) func() {
	t.Helper()
	fi, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o700)
	return func() {
		os.Chmod(dir, fi.Mode())
		os.Chtimes(dir, time.Now(), fi.ModTime())
	}
}

// A file of an index in which most lines say nothing is written anew, also
// under the eyes of another process.
func TestIndexIsRewritten(t *testing.T) {
	s := newStore(t)
	id := writeRun(t, s, commitA, treeA, "passed", 0)
	before := entries(s)
	unlock, err := s.lock()
	if err != nil {
		t.Fatal(err)
	}
	var lines []byte
	for i := range 3000 {
		lines = fmt.Appendf(lines, "gone %s.%d\n", commitB[:12], i+1)
	}
	if err := s.appendIndex(lines); err != nil {
		t.Fatal(err)
	}
	unlock()
	other, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if fi, err := os.Stat(s.path("index")); err != nil || fi.Size() > 1000 {
		t.Errorf("the index has %d bytes, %v", fi.Size(), err)
	}
	for _, s := range []*Store{s, other} {
		if got := entries(s); got != before {
			t.Errorf("the runs are\n%s, want\n%s", got, before)
		}
	}
	// By key, and what an entry leads to.
	e, err := s.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for x := range other.WithKey(e.KeyDigest) {
		found = append(found, x.ID)
	}
	if !slices.Equal(found, []string{id}) {
		t.Errorf("WithKey = %q, want %q", found, id)
	}
	if k, err := e.Key(); err != nil || k.Get("target") != "test" {
		t.Errorf("Key = %q, %v", k, err)
	}
	if i, err := e.Info(); err != nil || i.Get("id") != id {
		t.Errorf("Info = %q, %v", i, err)
	}
}
