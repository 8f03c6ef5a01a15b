package fs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// What cannot be served fails the copy with a reason; nothing of it is kept,
// and the run goes on.
func TestAddArtifactsRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(dir string) error
		want string
	}{
		{"fifo", func(d string) error { return unix.Mkfifo(filepath.Join(d, "a", "x"), 0o644) }, `"a/x" is a fifo`},
		{"device", func(d string) error {
			return unix.Mknod(filepath.Join(d, "a", "x"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3)))
		}, `"a/x" is a device`},
		{"socket", func(d string) error {
			l, err := net.Listen("unix", filepath.Join(d, "a", "x"))
			if err == nil {
				l.(*net.UnixListener).SetUnlinkOnClose(false)
				l.Close()
			}
			return err
		}, `"a/x" is a socket`},
		{"name", func(d string) error { return os.WriteFile(filepath.Join(d, "a", "\xff"), nil, 0o644) }, "is not UTF-8: 9P cannot carry it"},
		{"target", func(d string) error { return os.Symlink("\xff", filepath.Join(d, "a", "x")) }, "is not UTF-8: 9P cannot carry it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			src := t.TempDir()
			makeArtifacts(t, filepath.Join(src, "a"))
			if err := tt.make(src); err != nil {
				if errors.Is(err, os.ErrPermission) {
					t.Skip(err)
				}
				t.Fatal(err)
			}
			root, err := os.OpenRoot(src)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			r := mustCreate(t, s)
			r.Enter("artifacts")
			if err := r.AddArtifacts(t.Context(), root); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("AddArtifacts = %v, want %q", err, tt.want)
			}
			if list, _ := os.ReadDir(filepath.Join(r.Dir(), "artifacts")); len(list) > 0 {
				t.Errorf("%v is kept", list)
			}
			if err := r.Seal(t.Context(), "failed", 1, nil); err != nil {
				t.Error(err)
			}
			verifyRun(t, s, r.ID())
		})
	}
}

// A file that nobody can read is kept readable for its owner, links are kept
// as they are, and what is behind them is not copied.
func TestAddArtifactsCopies(t *testing.T) {
	s := newStore(t)
	src, out := t.TempDir(), t.TempDir()
	os.WriteFile(filepath.Join(out, "secret"), []byte("secret"), 0o644)
	os.WriteFile(filepath.Join(src, "closed"), []byte("x"), 0)
	os.Mkdir(filepath.Join(src, "dir"), 0o700)
	os.WriteFile(filepath.Join(src, "dir", "file"), []byte("y"), 0o4711)
	os.Chmod(filepath.Join(src, "dir", "file"), 0o711|os.ModeSetuid)
	os.Chmod(filepath.Join(src, "dir"), 0o100)
	defer os.Chmod(filepath.Join(src, "dir"), 0o700)
	os.Symlink(out, filepath.Join(src, "link"))
	if os.Getuid() != 0 {
		t.Skip("who is not root cannot read what nobody can")
	}
	root, err := os.OpenRoot(src)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	r := mustCreate(t, s)
	if err := r.AddArtifacts(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	if err := r.Seal(t.Context(), "passed", 0, nil); err != nil {
		t.Fatal(err)
	}
	tree := NewTree(s, nil)
	dir := "ci/" + r.ID() + "/artifacts/"
	for name, want := range map[string]os.FileMode{
		"closed":   0o400,
		"dir":      os.ModeDir | 0o500,
		"dir/file": os.ModeSetuid | 0o711,
		"link":     os.ModeSymlink | 0o777,
	} {
		st, err := stat(t, tree, dir+name)
		if err != nil || st.Mode != want {
			t.Errorf("%s has mode %v, %v, want %v", name, st.Mode, err, want)
		}
	}
	if _, err := Walk(t.Context(), tree, dir+"link/secret"); err == nil {
		t.Errorf("what a link leads to was copied")
	}
	verifyRun(t, s, r.ID())
	// The same from tar.
	verifyRun(t, adoptFrom(t, s, r.ID()), r.ID())
}

func adoptFrom(t *testing.T, s *Store, id string) *Store {
	t.Helper()
	to := newStore(t)
	f, err := s.openTar(id)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := to.Adopt(t.Context(), NewReader(t.Context(), f), nil); err != nil {
		t.Fatal(err)
	}
	return to
}

// A guest that floods its output is told so, and its run ends in error.
func TestFlood(t *testing.T) {
	s := newStore(t)
	s.MaxOutput = 1 << 20
	r := mustCreate(t, s)
	r.Enter("test")
	var err error
	n := 0
	for ; err == nil; n++ {
		_, err = fmt.Fprintln(r.Stdout(), "y")
	}
	if !strings.Contains(err.Error(), "over 1048576 bytes") {
		t.Errorf("Write = %v", err)
	}
	if err := r.Seal(t.Context(), "passed", 0, nil); err != nil {
		t.Fatal(err)
	}
	e, err := s.Get(r.ID())
	if err != nil || e.State != "error" || e.Size > 1<<20+100<<10 {
		t.Errorf("Get = %v, size %d, %v", e, e.Size, err)
	}
	log, _ := os.ReadFile(filepath.Join(e.Dir, "step/test/log"))
	if !strings.Contains(string(log), "stderr F 9ci: ") {
		t.Errorf("the log does not say why")
	}
	verifyRun(t, s, r.ID())
}

// Misuse is an error that says what was wrong.
func TestRunMisuse(t *testing.T) {
	s := newStore(t)
	for _, commit := range []string{"", "HEAD", commitA[:12], strings.ToUpper(commitA), commitA + "0"} {
		if _, err := s.Create(commit); err == nil || !strings.Contains(err.Error(), "is not the name of a git object") {
			t.Errorf("Create(%q) = %v", commit, err)
		}
	}
	r := mustCreate(t, s)
	check := func(what string, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s = %v, want %q", what, err, want)
		}
	}
	_, err := r.Stdout().Write([]byte("x"))
	check("Write before a step", err, "outside of a step")
	check("Enter", r.Enter("deploy"), "not a step")
	check("Leave", r.Leave("boot", "passed", 0), "has not been entered")
	check("Leave", r.Leave("boot", "fine", 0), "no such state")
	check("SetState", r.SetState("passed"), "not a state of a run that has not ended")
	check("SetKey", r.SetKey(Attrs{{"env", "a\nb"}}), "newline")
	check("SetKey", r.SetKey(Attrs{{"env", ""}, {"env", ""}}), "twice")
	check("SetKey", r.SetKey(Attrs{{"a b", ""}}), "not the name of an attribute")
	check("SetInfo", r.SetInfo(Attrs{{"id", "x"}}), "does not change")
	check("SetInfo", r.SetInfo(Attrs{{"tree", "x"}}), "not the name of a git object")
	check("Seal", r.Seal(t.Context(), "done", 0, nil), "not how a run ends")
	r.Enter("boot")
	check("Enter", r.Enter("clone"), "step boot has not been left")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Seal(ctx, "passed", 0, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Seal = %v, want %v", err, context.Canceled)
	}
	err = r.Seal(t.Context(), "cancelled", -1, func([]byte) ([]byte, error) { return nil, errors.New("no agent") })
	check("Seal", err, "is sealed without a signature: no agent")
	verifyRun(t, s, r.ID())
	check("Seal again", r.Seal(t.Context(), "passed", 0, nil), "has ended")
	check("Enter", r.Enter("clone"), "has ended")
	check("AddArtifacts", r.AddArtifacts(t.Context(), nil), "has ended")
	check("Discard", r.Discard(), "has ended")

	d := mustCreate(t, s)
	if err := d.Discard(); err != nil {
		t.Error(err)
	}
	<-d.Done()
	wantRuns(t, s, r.ID())
}

// A part of a line waits for its rest, but not for long.
func TestHoldback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		r := mustCreate(t, s)
		log := func() string {
			b, _ := os.ReadFile(filepath.Join(r.Dir(), "log"))
			var texts []string
			for line := range strings.Lines(string(b)) {
				_, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "Z ")
				texts = append(texts, text)
			}
			return strings.Join(texts, "|")
		}
		r.Enter("test")
		fmt.Fprint(r.Stdout(), "one ")
		time.Sleep(holdbackTime / 2)
		fmt.Fprint(r.Stdout(), "line\ntw")
		if got := log(); got != "stdout F one line" {
			t.Errorf("the log has %q", got)
		}
		time.Sleep(2 * holdbackTime)
		synctest.Wait()
		if got := log(); got != "stdout F one line|stdout P tw" {
			t.Errorf("the log has %q", got)
		}
		fmt.Fprint(r.Stderr(), "err")
		fmt.Fprint(r.Stdout(), "o\n")
		r.Leave("test", "passed", 0)
		if got := log(); got != "stdout F one line|stdout P tw|stdout F o|stderr P err" {
			t.Errorf("the log has %q", got)
		}
	})
}
