package mk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"9ci/mk"
)

// try reads and runs a mkfile in a directory of its own.
func try(t *testing.T, ctx context.Context, text string, targets ...string) (dir, stdout, stderr string, err error) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mkfile"), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	m, err := mk.Parse(ctx, mk.Config{Dir: dir, Exec: true, Stdout: &out, Stderr: &errs})
	if err == nil {
		err = m.Run(ctx, targets...)
	}
	return dir, out.String(), errs.String(), err
}

// What is too much ends with a message that says what it was, soon and
// without all memory.
func TestTooMuch(t *testing.T) {
	var chain strings.Builder
	for i := range 250_000 {
		fmt.Fprintf(&chain, "c%d: c%d\n", i, i+1)
	}
	for _, c := range []struct{ name, text, stderr string }{
		{"output", "X=`{while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done | cat}\n", "mkfile:1: syntax error; output of a command longer than"},
		{"line", "X=" + strings.Repeat("x", 65<<20) + "\n", "mkfile:1: syntax error; longer than"},
		{"includes", "<mkfile\n<mkfile\n", "more than 100000 includes"},
		{"nesting", "<|cat mkfile\n", "cat mkfile:1: syntax error; includes nest more than 1000 deep"},
		{"mixed nesting", "<mkfile\n<|cat mkfile\n", "warning: skipping include file mkfile: includes nest more than 1000 deep\nmk: mkfile:2: syntax error; includes nest more than 1000 deep"},
		{"depth", chain.String(), "graph is more than 200000 rules deep at target c200000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, stderr, err := try(t, t.Context(), c.text)
			if err == nil || !strings.Contains(stderr, c.stderr) {
				t.Errorf("%v, stderr %.300q, want %q in it", err, stderr, c.stderr)
			}
		})
	}
}

// longest is how long the value of a variable with a name of one letter may be
// where it is exported: Linux's MAX_ARG_STRLEN less "X=" and the NUL.
var longest = 32*os.Getpagesize() - 3

// An environment or command that the system does not take as it is is an error that
// says why and what to do, and nothing is run with less.
func TestTooLong(t *testing.T) {
	many := strings.Join(names("t", 100_000), " ") // 688,889 bytes
	part := strings.Repeat("x", 100_000)
	var sum strings.Builder // all together more than the 6 MiB that Linux ever takes
	for i := range 90 {
		fmt.Fprintf(&sum, "V%d=%s\n", i, part)
	}
	sum.WriteString("W=" + part + "y\n")
	fits := func(name string) int { return longest + 1 - len(name) }
	for _, c := range []struct{ name, text, stderr string }{
		{"variable", "X=" + strings.Repeat("x", longest+1) + "\nall:VD:\n\ttouch ran\n",
			fmt.Sprintf("mk: all: $X is %d bytes long, the system takes %d; with attribute U it is not exported: X=U=...\n", longest+1, longest)},
		{"without -e", "X=" + strings.Repeat("x", longest+1) + "\nall:VE:\n\ttouch ran\n", "$X is"},
		{"words", "Y=1\nOBJS=" + many + "\nall:V:\n\ttouch ran\n",
			fmt.Sprintf("mk: all: $OBJS is 688889 bytes long, the system takes %d; with attribute U it is not exported: OBJS=U=...\n", fits("OBJS"))},
		{"prereqs", "all:V: " + many + "\n\ttouch ran\n" + many + ":VN: z\nz:VQ:\n\ttrue\n",
			fmt.Sprintf("mk: all: $prereq is 688889 bytes long, the system takes %d; a virtual target without a recipe may have any number of prerequisites: depend on one\n", fits("prereq"))},
		{"targets", many + ":V:\n\ttouch ran\n", "mk: t0: $alltarget is 688889 bytes long"},
		{"sum", sum.String() + "all:V:\n\ttouch ran\n",
			"more than the system takes; its longest variable is $W with 100001; with attribute U it is not exported: W=U=...\n"},
		{"backquote", "\nX=" + many + "\nY=a`{touch ran}\n", "mk: mkfile:3: syntax error; $X is 688889 bytes long"},
		{"include", "X=" + many + "\n<|touch ran\n", "mk: mkfile:2: syntax error; $X is 688889 bytes long"},
		{"include command", "<|touch ran " + many + "\n", "mk: mkfile:1: syntax error; the command is 688899 bytes long, the system takes"},
		{"program", "X=" + many + "\nall:Ptouch ran: in\n\ttouch ran\nin:VN: mkfile\n", "mk: program of all: $X is 688889 bytes long"},
		{"program command", "all:Ptouch ran " + part + part + ": in\n\ttouch ran\nin:VN: mkfile\n", "mk: program of all: the command is 200022 bytes long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, _, stderr, err := try(t, t.Context(), c.text)
			if err == nil || !strings.Contains(stderr, c.stderr) {
				t.Errorf("%.300v, stderr %.300q, want %q in it", err, stderr, c.stderr)
			}
			if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
				t.Error("it ran")
			}
		})
	}
}

// A target whose recipe could not be run stays as it is, and with Keep the others
// are made.
func TestTooLongKeep(t *testing.T) {
	dir := t.TempDir()
	many := strings.Join(names("t", 100_000), " ")
	os.WriteFile(filepath.Join(dir, "mkfile"), []byte("all:V: a b\na:D: "+many+" in\n\techo new >a\n"+many+":VN: in\nb:Q: in\n\techo new >b\n"), 0o666)
	for name, at := range map[string]int64{"a": epoch, "in": epoch + 1} {
		os.WriteFile(filepath.Join(dir, name), []byte("old\n"), 0o666)
		os.Chtimes(filepath.Join(dir, name), time.Unix(at, 0), time.Unix(at, 0))
	}
	var stderr bytes.Buffer
	m, err := mk.Parse(t.Context(), mk.Config{Dir: dir, Keep: true, Stderr: &stderr})
	if err != nil {
		t.Fatal(err)
	}
	err = m.Run(t.Context())
	if !errors.Is(err, syscall.E2BIG) || !strings.HasPrefix(stderr.String(), "mk: a: $prereq is 688892 bytes long") {
		t.Errorf("Run = %.300v, stderr %.300q, want that $prereq is too long", err, &stderr)
	}
	for name, want := range map[string]string{"a": "old\n", "b": "new\n"} {
		if got, _ := os.ReadFile(filepath.Join(dir, name)); string(got) != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// What is merely much works.
func TestMuch(t *testing.T) {
	many := strings.Join(names("t", 100_000), " ")
	many = "list:V: " + many + "\n" + many + ":VN: z\nz:VQ:\n\techo z\n"
	var same strings.Builder
	same.WriteString("all:VQ:\n\techo $prereq\n")
	for i := range 2000 {
		fmt.Fprintf(&same, "all: p%d\n", i)
	}
	same.WriteString("p%:VQ:\n\ttrue\n")
	layers := "l0:V: l1 m1\n"
	for i := 1; i < 60; i++ {
		layers += fmt.Sprintf("l%d m%d:V: l%d m%d\n", i, i, i+1, i+1)
	}
	layers += "l60 m60:VQ:\n\techo $target\n"
	for _, c := range []struct{ name, text, stdout string }{
		{"line", "X=U=" + strings.Repeat("word ", 2_000_000) + "\nall:VQ:\n\techo ok\n", "ok\n"},
		{"value", "X=" + strings.Repeat("x", longest-1) + "\nall:VQ:\n\techo $X | wc -c\n", fmt.Sprintln(longest)},
		{"recipe", "all:VQ:\n" + strings.Repeat("\t: a line that does nothing\n", 100_000) + "\techo end\n", "end\n"},
		{"include loop", "<mkfile\nall:VQ:\n\techo $target\n", "all\n"},
		{"targets", many, "z\n"},
		{"targets below", "all:VQ: list\n\techo $prereq\n" + many, "z\nlist\n"},
		{"rules for one target", same.String(), ""},
		{"layers", layers, "l60 m60\n"},
		{"layers", strings.Replace(layers, "l60 m60:", "l60:", 1) + "m60:VQ:\n\ttrue\n", "l60\n"},
		{"unread recipe", "all:VQ:\n\texit 0\n" + strings.Repeat("\tnot read\n", 100_000), ""},
		{"name", strings.Repeat("n", 5000) + ":VQ: " + strings.Repeat("%", 3000) + "x\n\techo ok\n%x:V:\n\ttrue\n", "ok\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, stdout, stderr, err := try(t, t.Context(), c.text)
			if err != nil || c.stdout != "" && !strings.HasSuffix(stdout, c.stdout) {
				t.Errorf("%v, stdout %.300q, want %q\nstderr %.300q", err, stdout, c.stdout, stderr)
			}
		})
	}
}

func names(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprint(prefix, i)
	}
	return list
}

// When a run is cancelled all that its recipes started ends, and Run returns
// the cause. Half-made targets go where they have attribute D.
func TestCancel(t *testing.T) {
	for _, c := range []struct{ name, text string }{
		{"recipe", "out:DQ:\n\techo half >$target; sleep 1000 & echo $! >pid; echo ready >fifo; wait\n"},
		{"jobs", "NPROC=2\nall:V: out other\n\ttrue\nout:DQ:\n\techo half >$target; sleep 1000 & echo $! >pid; echo ready >fifo; wait\nother:Q:\n\techo half >$target; sleep 1000\n"},
		{"backquote", "X=`{sleep 1000 & echo $! >pid; echo ready >fifo; wait}\n"},
		{"program", "out:Psleep 1000; true: in\n\ttrue\nin:VQ:\n\techo ready >fifo\n"},
		{"include", "<|sleep 1000 & echo $! >pid; echo ready >fifo; wait\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.name == "include" {
				c.text = strings.NewReplacer(">", "\\>", ";", "\\;", "&", "\\&", "$!", "'$!'").Replace(c.text)
			}
			dir := t.TempDir()
			os.WriteFile(filepath.Join(dir, "mkfile"), []byte(c.text), 0o666)
			if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o666); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			cause := errors.New("enough")
			go func() {
				os.ReadFile(filepath.Join(dir, "fifo"))
				cancel(cause)
			}()
			var out bytes.Buffer
			m, err := mk.Parse(ctx, mk.Config{Dir: dir, Exec: true, Stdout: &out, Stderr: &out})
			if err == nil {
				err = m.Run(ctx)
			}
			if err != cause {
				t.Errorf("error %v, want %v\n%s", err, cause, &out)
			}
			if _, err := os.Stat(filepath.Join(dir, "out")); err == nil {
				t.Error("out is still there")
			}
			var pid int
			if b, err := os.ReadFile(filepath.Join(dir, "pid")); err == nil {
				fmt.Sscan(string(b), &pid)
			}
			if pid != 0 && !ends(pid) {
				t.Error("sleep still runs")
			}
		})
	}
}

// ends tells whether a process has ended or does so within ten seconds.
func ends(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err == unix.ESRCH
	}
	defer unix.Close(fd)
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
	return n == 1
}

// A process that a recipe leaves in the background and that holds its output
// does not hold up Run for long.
func TestBackground(t *testing.T) {
	start := time.Now()
	_, stdout, _, err := try(t, t.Context(), "all:VQ:\n\tsleep 1000 & echo $!\n")
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("Run took %v", d)
	}
	var pid int
	fmt.Sscan(stdout, &pid)
	syscall.Kill(pid, syscall.SIGKILL)
}

// Mkfiles may be parsed at once, and one may be run, planned and asked at once.
// No goroutine is left behind.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "mkfile"), []byte(`
NPROC=3
X=`+"`{echo a b}"+`
<|echo Y\=c
all:V: $X $Y rx p lib.a(m)
	echo all
a b c:VQ:
	echo $target
'r(.)':RVQ: $X
	echo $stem1
p:VPfalse: a
	echo $prereq
lib.a(m):N: a
`), 0o666)
	before := runtime.NumGoroutine()
	parse := func(out io.Writer) *mk.Mkfile {
		m, err := mk.Parse(t.Context(), mk.Config{Dir: dir, Exec: true, Stdout: out, Stderr: out})
		if err != nil {
			t.Error(err)
		}
		return m
	}
	run := func(m *mk.Mkfile) {
		if err := m.Run(t.Context(), "all"); err != nil {
			t.Error(err)
		}
	}
	var out lines
	m := parse(&out)
	const n = 4
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			var out lines
			run(parse(&out))
			if got := out.count("all"); got != 2 { // with the recipe
				t.Errorf("output %q, want all twice", &out.Buffer)
			}
		})
		wg.Go(func() { run(m) })
		wg.Go(func() {
			jobs, err := m.Plan(t.Context())
			if err != nil || len(jobs) != 4 || jobs[3].Recipe != "echo all\n" {
				t.Errorf("Plan() = %+v, %v, want 4 jobs", jobs, err)
			}
		})
		wg.Go(func() {
			words, known := m.Var("X")
			if got := fmt.Sprint(words, known, m.HasRule("rx"), m.Default(), m.Matching("a%"), len(m.Rules())); got != "[a b] true true [all] [all a] 7" {
				t.Errorf("the mkfile says %s", got)
			}
			m.Vars()
		})
	}
	wg.Wait()
	if got := out.count("all"); got != 2*n {
		t.Errorf("output %q, want all %d times", &out.Buffer, 2*n)
	}
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > before+1 {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}

// lines is a buffer that several runs may write to.
type lines struct {
	sync.Mutex
	bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	return l.Buffer.Write(b)
}

// count returns how many lines end with the word s.
func (l *lines) count(s string) (n int) {
	for line := range strings.Lines(l.String()) {
		if strings.HasSuffix(line, s+"\n") {
			n++
		}
	}
	return n
}

// A SyntaxError says where.
func TestSyntaxError(t *testing.T) {
	_, _, stderr, err := try(t, t.Context(), "A=1\nB=2\nwhat\n")
	var e *mk.SyntaxError
	if !errors.As(err, &e) || e.File != "mkfile" || e.Line != 3 {
		t.Errorf("error %#v", err)
	}
	if want := "mk: mkfile:3: syntax error; expected one of :<=\n"; stderr != want {
		t.Errorf("stderr %q, want %q", stderr, want)
	}
}

// Errors tell what went wrong.
func TestErrors(t *testing.T) {
	if _, _, _, err := try(t, t.Context(), "A=1\n"); !errors.Is(err, mk.ErrNoTarget) {
		t.Errorf("no target: %v", err)
	}
	if _, _, _, err := try(t, t.Context(), "a: b\n\ttrue\n"); !errors.Is(err, mk.ErrNoRule) {
		t.Errorf("no rule: %v", err)
	}
	var e *mk.ExitError
	if _, _, _, err := try(t, t.Context(), "a:V:\n\texit 3\n"); !errors.As(err, &e) || e.Target != "a" || e.Status != "exit(3)" {
		t.Errorf("exit: %v", err)
	}
}

// With Keep the error is that of all that failed, and of nothing else.
func TestKeep(t *testing.T) {
	for _, c := range []struct {
		text    string
		targets []string
		want    string
	}{
		{"a:V: b c d\nb:V:\n\texit 3\nc:V:\n\ttrue\nd: e\n\ttrue\n", nil, "don't know how to make 'e' in $DIR\nb: exit status=exit(3)"},
		{"a:V:\n\texit 3\n", []string{"a", "nothing"}, "don't know how to make 'nothing' in $DIR\na: exit status=exit(3)"},
		{"a b:V:\n\texit 3\n", []string{"nothing"}, "don't know how to make 'nothing' in $DIR"},
		{"NPROC=2\na:V: b c\nb:V:\n\texit 3\nc:V:\n\ttrue\n", nil, "b: exit status=exit(3)"},
		{"a:VE:\n\tfalse; true\n", nil, "<nil>"},
	} {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "mkfile"), []byte(c.text), 0o666)
		var stdout, stderr bytes.Buffer
		m, err := mk.Parse(t.Context(), mk.Config{Dir: dir, Exec: true, Keep: true, Stdout: &stdout, Stderr: &stderr})
		if err != nil {
			t.Fatal(err)
		}
		err = m.Run(t.Context(), c.targets...)
		if got := strings.ReplaceAll(fmt.Sprint(err), dir, "$DIR"); got != c.want {
			t.Errorf("Run(%q) of %q = %q, want %q\nstderr %q", c.targets, c.text, got, c.want, &stderr)
		}
		if strings.Contains(stdout.String(), "up to date") {
			t.Errorf("Run(%q) of %q says %q", c.targets, c.text, &stdout)
		}
	}
}

// An error of a caller's writer is one of Run.
func TestWriterFails(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "mkfile"), []byte("a:VQ:\n\techo a\nb:VQ:\n\techo b >&2\n"), 0o666)
	for _, c := range []struct {
		target string
		stdout io.Writer
		want   error
	}{{"a", closed{}, io.ErrClosedPipe}, {"b", nil, nil}} {
		m, err := mk.Parse(t.Context(), mk.Config{Dir: dir, Stdout: c.stdout, Stderr: closed{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Run(t.Context(), c.target); !errors.Is(err, c.want) {
			t.Errorf("Run(%q) = %v, want %v", c.target, err, c.want)
		}
	}
}

// closed is a writer that takes nothing.
type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// A target that one job makes is not part of another, whose rule names it too: it
// is made when its own job has ended.
func TestSharedTarget(t *testing.T) {
	for _, c := range []struct{ name, rule, attr string }{
		{"explicit", "a.c:DQ: x", ""},
		{"regexp", "'a\\.c':RVDQ: x", "n"},
		{"redefined", "a.c:DQ: x\n\t:\na.c:DQ: x", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			text := "NPROC=2\nall:VQ: a.c b\n\tcat a.c\n" +
				c.rule + "\n\techo half >$target; cat fifo; echo whole >$target\n" +
				"%.o %.c:DQ" + c.attr + ": y\n\techo $target of $alltarget; touch a.o\n" +
				"b:VQ: a.o\n\techo go >fifo\n"
			for name, text := range map[string]string{"mkfile": text, "x": "", "y": ""} {
				os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666)
			}
			if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o666); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			m, err := mk.Parse(t.Context(), mk.Config{Dir: dir, Exec: true, Stdout: &out, Stderr: &out})
			if err == nil {
				err = m.Run(t.Context())
			}
			if want := "a.o of a.o a.c\ngo\nwhole\n"; err != nil || out.String() != want {
				t.Errorf("%v, output %q, want %q", err, &out, want)
			}
		})
	}
}

// A name and a regular expression that look the same are two rules' targets.
func TestSameTarget(t *testing.T) {
	more := ""
	for i := range 50 {
		more += fmt.Sprintf("a:V: z%d\nz%d:V:\n\t:\n", i, i)
	}
	for _, text := range []string{
		"a:VQ: x\n\techo name\na:RVQ: x\n\techo $target\n",
		"a:RVQ: x\n\techo $target\na:VQ: x\n\techo name\n",
		more + "a:VQ: x\n\techo name\na:RVQ: x\n\techo $target\n",
	} {
		_, stdout, stderr, err := try(t, t.Context(), text+"x:VQ:\n\t:\n", "a", "ba")
		if err != nil || !strings.Contains(stdout, "name\n") || !strings.Contains(stdout, "ba\n") {
			t.Errorf("stdout %q, want name and ba: %v, %q", stdout, err, stderr)
		}
	}
}

// Members are found and touched in all forms of archives, with short names and
// with long ones.
func TestMembers(t *testing.T) {
	header := func(name string, size int) string {
		return fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, epoch+1, 0, 0, "644", size)
	}
	long := strings.Repeat("m", 3000)
	for _, c := range []struct{ kind, name, ar string }{
		{"plain", "a.o", header("a.o", 4) + "text"},
		{"BSD", long, header("#1/3000", 3004) + long + "text"},
		{"GNU", "a.o", header("a.o/", 4) + "text"},
		{"long GNU", long, fmt.Sprintf("%-48s%-10d`\n", "//", 3002) + long + "/\n" + header("/0", 4) + "text"},
	} {
		t.Run(c.kind, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{
				"lib.a":  "!<arch>\n" + header("first", 3) + "odd\n" + c.ar,
				"in":     "",
				"mkfile": "'lib.a(" + c.name + ")': in\n\ttouch ran\n",
			} {
				os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666)
				os.Chtimes(filepath.Join(dir, name), time.Unix(epoch, 0), time.Unix(epoch, 0))
			}
			m, err := mk.Parse(t.Context(), mk.Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			now := time.Unix(epoch+2, 0)
			for _, want := range []int{0, 1, 0} {
				if jobs, err := m.Plan(t.Context()); err != nil || len(jobs) != want {
					t.Errorf("Plan() = %d jobs, %v, want %d", len(jobs), err, want)
				}
				if want == 0 {
					os.Chtimes(filepath.Join(dir, "in"), now, now)
					continue
				}
				m, _ := mk.Parse(t.Context(), mk.Config{Dir: dir, Touch: true})
				if err := m.Run(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// No rule is for the goals as a whole, and a name that mk has words for is a name.
func TestGoals(t *testing.T) {
	for _, c := range []struct{ name, text, stdout string }{
		{"meta", "%:VQ:\n\techo $target\n", "a\nb\n"},
		{"regexp", "'.*':RVQ:\n\techo $target\n", "a\nb\n"},
		{"name", "'command line arguments':VQ:\n\techo no\na b:V:\n\t: $target\n", ": a b\n"},
		{"goal", "a:VQ: 'command line arguments'\n\techo $target $prereq\n'command line arguments' b:VQ:\n\techo $target\n",
			"command line arguments b\na command line arguments\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, stdout, stderr, err := try(t, t.Context(), c.text, "a", "b")
			if err != nil || stdout != c.stdout {
				t.Errorf("stdout %q, want %q: %v, %q", stdout, c.stdout, err, stderr)
			}
		})
	}
}

// A & excludes dots and slashes, and quotes in a name mean nothing to it.
func TestAmpersand(t *testing.T) {
	_, stdout, stderr, err := try(t, t.Context(), "&:VQ:\n\techo \"$target\"\n", "it's")
	if want := "it's\n"; err != nil || stdout != want || stderr != "" {
		t.Errorf("stdout %q, want %q: %v, stderr %q", stdout, want, err, stderr)
	}
	if _, _, _, err := try(t, t.Context(), "&:VQ:\n\techo \"$target\"\n", "'a.b'"); !errors.Is(err, mk.ErrNoRule) {
		t.Errorf("Run(%q) = %v, want %v", "'a.b'", err, mk.ErrNoRule)
	}
	m, err := mk.Parse(t.Context(), mk.Config{Dir: t.TempDir(), Vars: []string{"X=1"}})
	if err != nil {
		t.Fatal(err)
	}
	if m.HasRule("it's") || len(m.Matching("&")) > 0 {
		t.Error("a rule in an empty mkfile")
	}
}

// Without Exec nothing runs, and what depends on a command is not known.
func TestUnknown(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "mkfile"), []byte(`
A=`+"`{touch ran}"+`
B=x$A y
C=z
D=${A:%=%.o}
t`+"`{touch ran}"+` u:V: $A v
	true
`+"`{echo w:V:}"+`
<|touch ran
<$A
<inc
%.o: $A
	true
`), 0o666)
	os.WriteFile(filepath.Join(dir, "inc"), []byte("E=e\nv:V:\n"), 0o666)
	m, err := mk.Parse(t.Context(), mk.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("a command ran")
	}
	if m.Complete() {
		t.Error("Complete() = true")
	}
	for _, c := range []struct {
		name  string
		words string
		known bool
	}{{"A", "[]", false}, {"B", "[y]", false}, {"C", "[z]", true}, {"D", "[]", false}, {"E", "[e]", true}, {"nothing", "[]", true}} {
		words, known := m.Var(c.name)
		if fmt.Sprint(words) != c.words || known != c.known {
			t.Errorf("Var(%q) = %v, %v, want %s, %v", c.name, words, known, c.words, c.known)
		}
	}
	if got, want := fmt.Sprint(m.Targets()), "[u v]"; got != want {
		t.Errorf("Targets() = %v, want %v", got, want)
	}
	for _, r := range m.Rules() {
		if r.Target == "u" && (r.File != "mkfile" || r.Line != 6 || fmt.Sprint(r.Prereqs) != "[v]" || r.Attr != "V") {
			t.Errorf("rule %+v", r)
		}
	}
	for _, v := range m.Vars() {
		if v.Name == "C" && (v.File != "mkfile" || v.Line != 4 || !v.Exported) {
			t.Errorf("variable %+v", v)
		}
	}
}

// A command that goes on writing when its output turned out to be no mkfile
// does not hold up the error.
func TestIncludeEndless(t *testing.T) {
	_, _, stderr, err := try(t, t.Context(), "<|echo nonsense\\; yes\n")
	if want := "mk: echo nonsense; yes:1: syntax error; expected one of :<=\n"; err == nil || stderr != want {
		t.Errorf("%v, stderr %q, want %q", err, stderr, want)
	}
}

// Other code of the program may have children of its own, for which mk does not
// wait, not even while recipes leave orphans.
func TestChildrenOfOthers(t *testing.T) {
	cmd := exec.Command("sh", "-c", "exit 7")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, _, stderr, err := try(t, t.Context(), "NPROC=2\nall:VQ: a b\n%:VQ:\n\t(true &); true\n", "a", "b"); err != nil {
		t.Errorf("%v\n%s", err, stderr)
	}
	var e *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &e) || e.ExitCode() != 7 {
		t.Errorf("Wait: %v, want exit status 7", err)
	}
}
