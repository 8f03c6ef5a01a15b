package mk_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"9ci/mk"
)

// collect runs a mkfile with -o, two jobs at a time, and fifos called f and g. Both
// streams go to out if errs is nil.
func collect(t *testing.T, ctx context.Context, text string, out, errs io.Writer, env ...string) error {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"f", "g"} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "mkfile"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if errs == nil {
		errs = out
	}
	m, err := mk.Parse(ctx, mk.Config{
		Dir:     dir,
		Env:     append([]string{"PATH=" + os.Getenv("PATH"), "NPROC=2"}, env...),
		Exec:    true,
		Collect: true,
		Stdout:  out,
		Stderr:  errs,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m.Run(ctx)
}

// Jobs that print in turns are printed one after the other, each in its own order.
func TestCollect(t *testing.T) {
	var out bytes.Buffer
	err := collect(t, t.Context(), `
all:V: a b
a:V:
	echo a1
	echo >f
	read x <g || true
	echo a2 >&2
	echo a3 >/dev/stderr
	echo a4
b:VQ:
	read x <f || true
	echo b1
	echo >g
`, &out, nil)
	a := "echo a1\necho >f\nread x <g || true\necho a2 >&2\necho a3 >/dev/stderr\necho a4\na1\na2\na3\na4\n"
	if got := out.String(); err != nil || got != a+"b1\n" && got != "b1\n"+a {
		t.Errorf("%v, printed\n%s", err, got)
	}
}

// Each stream comes out where it belongs, however much it is, also where no
// file can be had for it.
func TestCollectMuch(t *testing.T) {
	const text = `
all:VQ:
	i=0
	while [ $i -lt 20000 ]; do
		echo out $i; echo err $i >&2
		i=$((i+1))
	done
`
	for _, tmp := range []string{t.TempDir(), "/nosuch"} {
		var out, errs bytes.Buffer
		if err := collect(t, t.Context(), text, &out, &errs, "TMPDIR="+tmp); err != nil {
			t.Error(err)
		}
		stderr := errs.String()
		if _, rest, ok := strings.Cut(stderr, "mk: output is no longer collected: open /nosuch/"); ok != (tmp == "/nosuch") {
			t.Errorf("TMPDIR=%s: stderr begins %.200q", tmp, stderr)
		} else if ok {
			_, stderr, _ = strings.Cut(rest, "\n")
		}
		if n := strings.Count(out.String(), "out "); n != 20000 || strings.Count(out.String(), "\n") != n || !strings.HasSuffix(out.String(), "out 19999\n") {
			t.Errorf("TMPDIR=%s: %d lines on stdout", tmp, n)
		}
		if n := strings.Count(stderr, "err "); n != 20000 || strings.Count(stderr, "\n") != n {
			t.Errorf("TMPDIR=%s: %d lines on stderr", tmp, n)
		}
		if names, _ := os.ReadDir(tmp); len(names) > 0 {
			t.Errorf("%s is left", names[0])
		}
	}
}

// A failure is told behind what the recipe said, and the job that still ran is
// printed too.
func TestCollectFails(t *testing.T) {
	var out bytes.Buffer
	err := collect(t, t.Context(), `
all:V: a b
a:VQ:
	echo a
	echo >f
	exit 3
b:VQ:
	read x <f || true
	echo b
`, &out, nil)
	const a = "a\nmk: echo a echo ...  : exit status=exit(3)\n"
	if got := out.String(); err == nil || got != a+"b\n" && got != "b\n"+a {
		t.Errorf("%v, printed %q, want %q and b", err, got, a)
	}
}

// An interrupt prints what there is.
func TestCollectInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	go func() {
		r.Read(make([]byte, 1))
		cancel()
	}()
	var out bytes.Buffer
	err = collect(t, ctx, "all:VQ:\n\techo begun\n\techo >/proc/$pid/fd/$W\n\texec sleep 1000\n", &out, nil, "W="+fd(w))
	if err != context.Canceled || !strings.HasPrefix(out.String(), "begun\n") {
		t.Errorf("%v, printed %q", err, out.String())
	}
}

// What a process in the background prints after its recipe's end is not lost, and
// nobody waits for the process.
func TestCollectBackground(t *testing.T) {
	var out bytes.Buffer
	err := collect(t, t.Context(), `
all:VQ: a
	echo >f
	read x <g || true
	echo all
a:VQ:
	(read x <f; echo late; echo >g) &
	echo a
`, &out, nil)
	if got := out.String(); err != nil || got != "a\nlate\nall\n" && got != "a\nall\nlate\n" {
		t.Errorf("%v, printed %q", err, got)
	}
}

// fd returns the number of f's descriptor.
func fd(f *os.File) string { return strconv.Itoa(int(f.Fd())) }

// Output is collected if -o or MKOUTPUT says so, and more than one job may run.
func TestCollects(t *testing.T) {
	for _, c := range []struct {
		vars string
		flag bool
		want bool
	}{
		{"NPROC=2", false, false},
		{"NPROC=2", true, true},
		{"NPROC=1", true, false},
		{"NPROC=2\nMKOUTPUT=job", false, true},
		{"NPROC=2\nMKOUTPUT=1", false, true},
		{"NPROC=2\nMKOUTPUT=0", false, false},
		{"NPROC=2\nMKOUTPUT=", false, false},
		{"MKOUTPUT=job", false, false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "mkfile"), []byte(c.vars+"\nall:VQ:\n\tif [ -p /dev/stdout ]; then echo collected; else echo direct; fi\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := os.Create(filepath.Join(dir, "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		m, err := mk.Parse(t.Context(), mk.Config{Dir: dir, Env: []string{"PATH=" + os.Getenv("PATH")}, Exec: true, Collect: c.flag, Stdout: out})
		if err == nil {
			err = m.Run(t.Context())
		}
		got, _ := os.ReadFile(out.Name())
		if want := map[bool]string{true: "collected\n", false: "direct\n"}[c.want]; err != nil || string(got) != want {
			t.Errorf("%q, -o %v: %v, printed %q, want %q", c.vars, c.flag, err, got, want)
		}
	}
}
