package store

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"9ci/fs"
	"9ci/fs/ci"
)

// refusedArtifacts is what a machine's tar may hold and a run cannot keep.
var refusedArtifacts = []struct {
	name    string
	entries []tar.Header
	want    string
}{
	{"fifo", []tar.Header{{Name: "./x", Typeflag: tar.TypeFifo}}, `"x" is a fifo`},
	{"device", []tar.Header{{Name: "x", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}, `"x" is a device`},
	{"hard link", []tar.Header{{Name: "x", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}}, `"x" is a hard link`},
	{"not UTF-8", []tar.Header{{Name: "\xff"}}, "is not UTF-8: 9P cannot carry it"},
	{"newline", []tar.Header{{Name: "a\nb"}}, `"a\nb" has a control character`},
	{"C1", []tar.Header{{Name: "a\u009b31m"}}, "has a control character"},
	{"long", []tar.Header{{Name: strings.Repeat("x", 256)}}, "is over 255 bytes"},
	{"target", []tar.Header{{Name: "x", Typeflag: tar.TypeSymlink, Linkname: "\xff"}}, "is not UTF-8: 9P cannot carry it"},
	{"up", []tar.Header{{Name: "../x"}}, "is not a clean relative path"},
	{"absolute", []tar.Header{{Name: "/etc/x"}}, "is not a clean relative path"},
	{"twice", []tar.Header{{Name: "x"}, {Name: "x"}}, `"x" is in the tar twice`},
	{"through a link", []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}, {Name: "l/x"}}, `"l/x" is in no directory of the tar`},
	{"through a link in it", []tar.Header{{Name: "d", Typeflag: tar.TypeDir}, {Name: "l", Typeflag: tar.TypeSymlink, Linkname: "d"}, {Name: "l/x"}}, `"l/x" is in no directory of the tar`},
	{"a link's place", []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "d"}, {Name: "l", Typeflag: tar.TypeDir}}, `"l" is in the tar twice`},
	{"bytes", []tar.Header{{Name: "x", Size: ci.MaxArtifacts + 1}}, "are over 17179869184 bytes"},
	{"bytes beyond counting", []tar.Header{{Name: "a", Size: 1}, {Name: "x", Size: 1<<63 - 1}}, "are over 17179869184 bytes"},
	{"depth", deepPath(ci.MaxDepth + 1), "is over 64 names deep"},
}

// Each is refused with a reason, nothing of it is kept, and the run goes on.
func TestAddArtifactsRefuses(t *testing.T) {
	for _, tt := range refusedArtifacts {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			r := mustCreate(t, s)
			r.Enter("artifacts")
			err := r.AddArtifacts(t.Context(), bytes.NewReader(headers(t, tt.entries)))
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("AddArtifacts = %v, want %v, %q", err, ErrRefused, tt.want)
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

// headers is a tar of entries, each with a byte of data at most.
func headers(t testing.TB, entries []tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, h := range entries {
		w := tar.NewWriter(&b)
		h.Format, h.ModTime = tar.FormatPAX, time.Unix(1, 0)
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size == 1 {
			b.Write(make([]byte, 512))
		}
	}
	return append(b.Bytes(), make([]byte, 1024)...)
}

func deepPath(n int) (entries []tar.Header) {
	for i := range n {
		entries = append(entries, tar.Header{Name: strings.Repeat("d/", i+1), Typeflag: tar.TypeDir})
	}
	return entries
}

// What is no tar is refused; an error of its source is not.
func TestAddArtifactsNoTar(t *testing.T) {
	s := newStore(t)
	r := mustCreate(t, s)
	good := headers(t, []tar.Header{{Name: "x", Size: 1}})
	for _, b := range [][]byte{[]byte(strings.Repeat("no tar at all ", 200)), good[:512], good[:300]} {
		if err := r.AddArtifacts(t.Context(), bytes.NewReader(b)); !errors.Is(err, ErrRefused) {
			t.Errorf("AddArtifacts(%.20q) = %v, want %v", b, err, ErrRefused)
		}
	}
	broken := io.MultiReader(bytes.NewReader(good[:512]), iotest.ErrReader(unix.EIO))
	if err := r.AddArtifacts(t.Context(), broken); !errors.Is(err, unix.EIO) || errors.Is(err, ErrRefused) {
		t.Errorf("AddArtifacts of a broken disk = %v, want %v", err, unix.EIO)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.AddArtifacts(ctx, bytes.NewReader(good)); !errors.Is(err, context.Canceled) {
		t.Errorf("AddArtifacts = %v, want %v", err, context.Canceled)
	}
}

// Holes stay holes, from a machine and from a peer; a file of nothing else
// takes no room, and one beyond what a run can keep takes no time either.
func TestSparseArtifacts(t *testing.T) {
	src := t.TempDir()
	const size = 100 << 20
	f, err := os.Create(filepath.Join(src, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{3, 10 << 20, size - 5} {
		if _, err := f.WriteAt([]byte("data"), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	r := mustCreate(t, s)
	if err := r.AddArtifacts(t.Context(), tarOf(t, src)); err != nil {
		t.Fatal(err)
	}
	if err := r.Seal(t.Context(), "passed", 0, nil); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, adoptFrom(t, s, r.ID())} {
		verifyRun(t, s, r.ID())
		name := filepath.Join(s.runPath(r.ID()), "artifacts", "sparse")
		got, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v, are not what was left", len(got), err)
		}
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil || st.Blocks*512 > 1<<20 {
			t.Errorf("it takes %d bytes of disk, %v", st.Blocks*512, err)
		}
	}

	if err := os.Truncate(f.Name(), 1<<40); err != nil {
		t.Fatal(err)
	}
	r = mustCreate(t, s)
	err = r.AddArtifacts(t.Context(), tarOf(t, src))
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), `with the 1099511627776 bytes of "sparse" the artifacts are over`) {
		t.Errorf("AddArtifacts of a terabyte = %v", err)
	}
}

// What comes of a tar is what was in it, in whatever pieces it comes, with
// holes for its blocks of zeros.
func FuzzSparseWriter(f *testing.F) {
	f.Add([]byte(""), uint16(1), uint16(0))
	f.Add([]byte("x"), uint16(3), uint16(5000))
	f.Add(bytes.Repeat([]byte{0, 0, 1}, 5000), uint16(4096), uint16(1))
	name := filepath.Join(f.TempDir(), "file")
	f.Fuzz(func(t *testing.T, b []byte, piece, pad uint16) {
		b = slices.Concat(make([]byte, pad), b, make([]byte, pad), b)
		out, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		w := fs.NewSparseWriter(out)
		for rest := b; len(rest) > 0; {
			n := min(len(rest), 1+int(piece))
			if m, err := w.Write(rest[:n]); m != n || err != nil {
				t.Fatalf("Write of %d bytes = %d, %v", n, m, err)
			}
			rest = rest[n:]
		}
		err = w.Close()
		got, rerr := os.ReadFile(name)
		if err != nil || rerr != nil || !bytes.Equal(got, b) {
			t.Errorf("Close = %v; of %d bytes came %d, %v", err, len(b), len(got), rerr)
		}
	})
}

// A file that nobody can read is kept readable for its owner, links are kept
// as they are, and what is behind them is not copied.
func TestAddArtifacts(t *testing.T) {
	s := newStore(t)
	out := t.TempDir()
	os.WriteFile(filepath.Join(out, "secret"), []byte("secret"), 0o644)
	r := mustCreate(t, s)
	err := r.AddArtifacts(t.Context(), bytes.NewReader(headers(t, []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o711},
		{Name: "./closed", Mode: 0o1000, Uid: 12345, Gid: 12345, Uname: "somebody", Size: 1},
		{Name: "./dir/", Typeflag: tar.TypeDir, Mode: 0o100},
		{Name: "./dir/file", Mode: 0o4711, Size: 1},
		{Name: "./link", Typeflag: tar.TypeSymlink, Linkname: out},
	})))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Seal(t.Context(), "passed", 0, nil); err != nil {
		t.Fatal(err)
	}
	tree := NewTree(s, nil)
	dir := "ci/" + r.ID() + "/artifacts/"
	for name, want := range map[string]os.FileMode{
		"closed":   os.ModeSticky | 0o400,
		"dir":      os.ModeDir | 0o500,
		"dir/file": os.ModeSetuid | 0o711,
		"link":     os.ModeSymlink | 0o777,
	} {
		st, err := stat(t, tree, dir+name)
		if err != nil || st.Mode != want {
			t.Errorf("%s has mode %v, %v, want %v", name, st.Mode, err, want)
		}
	}
	if st, err := stat(t, tree, dir+"closed"); err != nil || st.UID != uint32(os.Getuid()) {
		t.Errorf("closed belongs to %d, %v, want %d", st.UID, err, os.Getuid())
	}
	if _, err := fs.Walk(t.Context(), tree, dir+"link/secret"); err == nil {
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
	if _, err := to.Adopt(t.Context(), fs.NewReader(t.Context(), f), nil); err != nil {
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

// Where one step has said all, its log and the run's are one file on disk, of the maker
// and of an adopter; elsewhere they are two.
func TestLogTakesRoomOnce(t *testing.T) {
	for _, said := range [][]string{{"test"}, {"prepare-runtime", "test"}, {"boot"}} {
		s, to := newStore(t), newStore(t)
		r := mustCreate(t, s)
		for _, step := range said {
			r.Enter(step)
			fmt.Fprintf(r.Stdout(), "out of %s\n", step)
			r.Leave(step, "passed", 0)
		}
		if err := r.Seal(t.Context(), "passed", 0, testSign); err != nil {
			t.Fatal(err)
		}
		var tar bytes.Buffer
		if err := s.WriteTar(t.Context(), &tar, r.ID()); err != nil {
			t.Fatal(err)
		}
		if _, err := to.Adopt(t.Context(), &tar, nil); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*Store{s, to} {
			verifyRun(t, s, r.ID())
			one, err := os.Stat(filepath.Join(s.runPath(r.ID()), "log"))
			if err != nil {
				t.Fatal(err)
			}
			for _, step := range ci.Steps {
				other, err := os.Stat(filepath.Join(s.runPath(r.ID()), "step", step, "log"))
				if want := len(said) == 1 && said[0] == step && step == "test"; err != nil || os.SameFile(one, other) != want {
					t.Errorf("%q spoke: whether log and step/%s/log are one file, %v, is not %v", said, step, err, want)
				}
			}
		}
	}
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
	check("SetKey", r.SetKey(ci.Attrs{{Name: "env", Value: "a\nb"}}), "newline")
	check("SetKey", r.SetKey(ci.Attrs{{Name: "env", Value: ""}, {Name: "env", Value: ""}}), "twice")
	check("SetKey", r.SetKey(ci.Attrs{{Name: "a b", Value: ""}}), "not the name of an attribute")
	check("SetInfo", r.SetInfo(ci.Attrs{{Name: "id", Value: "x"}}), "does not change")
	check("SetInfo", r.SetInfo(ci.Attrs{{Name: "tree", Value: "x"}}), "not the name of a git object")
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

// A status says how a run ended only when its key and its info say the rest: a
// process that recovers the run believes the status.
func TestSealStopsAtError(t *testing.T) {
	for _, name := range []string{"key", "info"} {
		s := newStore(t)
		r := mustCreate(t, s)
		if err := r.Enter("test"); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(r.Dir(), name)
		os.Remove(file)
		os.Mkdir(file, 0o700) // in the way of its rename
		if err := r.Seal(t.Context(), "passed", 0, nil); err == nil {
			t.Fatalf("Seal of a run whose %s cannot be written is no error", name)
		}
		if st, err := readStatus(filepath.Join(r.Dir(), "status")); err != nil || st.Finished() {
			t.Errorf("%s could not be written, and status says %v, %v", name, st, err)
		}
		os.Remove(file)
		if err := r.Seal(t.Context(), "passed", 0, nil); err != nil {
			t.Errorf("Seal again: %v", err)
		}
	}
}
