package show

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
)

// A stream notes each write to two outputs, in order.
type stream struct {
	mu  sync.Mutex
	out []string
}

func (s *stream) writer(name string) io.Writer { return named{s, name} }

type named struct {
	s    *stream
	name string
}

func (n named) Write(p []byte) (int, error) {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	n.s.out = append(n.s.out, n.name+strings.ReplaceAll(string(p), "\n", "|"))
	return len(p), nil
}

// A run that goes on is printed as the same run is printed later.
func TestFollow(t *testing.T) {
	ctx := t.Context()
	kept, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	run, err := kept.Create("0123456789abcdef0123456789abcdef01234567")
	if err != nil {
		t.Fatal(err)
	}
	root := store.NewTree(kept, nil)
	n, err := fs.Walk(ctx, root, "ci/"+run.ID())
	if err != nil {
		t.Fatal(err)
	}
	dir := n.(fs.Dir)

	var live stream
	done := make(chan error)
	go func() {
		s := Run{Out: live.writer("1 "), Err: live.writer("2 ")}
		_, err := s.Follow(ctx, dir)
		done <- err
	}()
	for _, step := range ci.Steps {
		run.Enter(step)
		if step == "post-test" {
			run.Leave(step, "skipped", 0)
			continue
		}
		if step == "clone" {
			fmt.Fprintln(run.Stderr(), "9ci: a remark")
		}
		fmt.Fprintln(run.Stdout(), step, "out")
		fmt.Fprint(run.Stderr(), step, " half")
		run.Leave(step, "passed", 0)
	}
	if err := run.Seal(ctx, "passed", 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	show := func(s Run) (out, err string) {
		t.Helper()
		var o, e bytes.Buffer
		s.Out, s.Err = &o, &e
		if s.Progress != nil {
			s.Progress.file, s.Err = &e, s.Progress
		}
		if st, err := s.Follow(ctx, dir); err != nil || st.State != "passed" {
			t.Fatalf("Follow = %v, %v", st, err)
		}
		return o.String(), e.String()
	}
	out, errs := show(Run{})
	var liveOut, liveErr strings.Builder
	for _, w := range live.out {
		b := &liveOut
		if w[0] == '2' {
			b = &liveErr
		}
		b.WriteString(strings.ReplaceAll(w[2:], "|", "\n"))
	}
	if liveOut.String() != out || liveErr.String() != errs {
		t.Errorf("live, it showed\n%q\n%q\nand later\n%q\n%q", liveOut.String(), liveErr.String(), out, errs)
	}
	if out != "test out\n" {
		t.Errorf("standard output is %q, want the test's alone", out)
	}
	if want := "boot out\nboot half\n9ci: a remark\nclone out\n"; !strings.HasPrefix(errs, want) {
		t.Errorf("standard error is %q, want %q...", errs, want)
	}
	if out, errs := show(Run{Quiet: true}); out != "test out\n" || errs != "test half" {
		t.Errorf("-q shows %q and %q", out, errs)
	}
	_, screen, _ := terminal()
	_, errs = show(Run{Progress: screen})
	want := `boot            passed 0\.0s
clone           passed 0\.0s
9ci: a remark
prepare-runtime passed 0\.0s
base-image      passed 0\.0s
test half
test            passed 0\.0s
artifacts       passed 0\.0s
`
	if !regexp.MustCompile("^" + want + "$").MatchString(errs) {
		t.Errorf("a terminal shows %q, want %q", errs, want)
	}
}

// What goes on is shown in place, with its time, and never within the test's output.
func TestStatus(t *testing.T) {
	out, err, text := terminal()
	err.Status("boot 1s")
	err.Status("boot 1s")
	err.Status("boot 2s")
	err.Printf("boot passed\n")
	err.Status("test\n\x1b[2J")
	fmt.Fprint(out, "ok\n")
	err.Status("test 2s")
	fmt.Fprint(out.Raw(), "\x1b[31mraw\n")
	err.Status("in colour")
	err.Printf("words\n")
	fmt.Fprint(out, "half")
	err.Status("within a line")
	fmt.Fprint(out, " a line\n")
	err.Status(strings.Repeat("x", 80)) // too long
	err.Status(strings.Repeat("x", 79))
	fmt.Fprint(out, "")
	err.Status("")
	err.Status("test 3s")
	err.settle()
	err.Status("boot 1s")
	const el = "\r\x1b[K"
	want := "boot 1s" + el + "boot 2s" + el + "boot passed\n" +
		`test\n\x1b[2J` + el + "ok\ntest 2s" + el + "\x1b[31mraw\n\x1b[mwords\n" +
		"half a line\n" + strings.Repeat("x", 79) + el + "test 3s" + el + "boot 1s"
	if text.String() != want {
		t.Errorf("the terminal got\n%q, want\n%q", text, want)
	}

	// A terminal that cannot erase a line, and a file, show nothing.
	text.Reset()
	err.columns = nil
	err.Status("boot 2s")
	(&Writer{file: text, surface: new(surface)}).Status("boot 2s")
	if want := ""; text.String() != want {
		t.Errorf("they got %q, want %q", text, want)
	}
}
