package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestMain makes the test binary mk itself where a test says so.
func TestMain(m *testing.M) {
	if os.Getenv("MK_TEST_MAIN") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// mkCmd returns mk as a command in dir, with nothing else in its environment.
func mkCmd(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Dir = dir
	cmd.Env = []string{"MK_TEST_MAIN=1", "PATH=" + os.Getenv("PATH")}
	return cmd
}

func writeMkfile(t *testing.T, text string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mkfile"), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The manual lists the flags that exist, and no other.
func TestManual(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^//\t-(\w)\t`).FindAllSubmatch(doc, -1) {
		got = append(got, string(m[1]))
	}
	slices.Sort(got)
	var want []string
	for letter := range maps.Keys(flags) {
		want = append(want, string(letter))
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("doc.go has flags %q, want %q", got, want)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-"}, {"-z"}, {"-f"}, {"-w"}, {"--help"}} {
		if _, _, ok := parseArgs(args); ok {
			t.Errorf("parseArgs(%q): ok, want a usage message", args)
		}
	}
}

func TestArgs(t *testing.T) {
	c, targets, ok := parseArgs([]string{"-nk", "-f", "a", "-fb", "c", "-wx", "-w", "y,z", "X=1", "t", "", "-n", "Y=2"})
	if !ok {
		t.Fatal("not ok")
	}
	if want := []string{"t", "-n"}; !slices.Equal(targets, want) {
		t.Errorf("targets %q, want %q", targets, want)
	}
	if want := []string{"a", "c"}; !slices.Equal(c.Files, want) {
		t.Errorf("Files %q, want %q", c.Files, want)
	}
	if want := "-nk -f a -fb c -wx -w X=1 Y=2"; c.Flags != want {
		t.Errorf("Flags %q, want %q", c.Flags, want)
	}
	if !c.NoExec || c.Keep || strings.TrimSpace(c.WhatIf) != "x y,z" {
		t.Errorf("NoExec %v, Keep %v, WhatIf %q", c.NoExec, c.Keep, c.WhatIf)
	}
}

// A failure that -k lets pass is one of mk all the same.
func TestKeep(t *testing.T) {
	dir := writeMkfile(t, "all:V: a b\na:VQ:\n\tfalse\nb:VQ:\n\techo $target\n")
	cmd := mkCmd(t, dir, "-k")
	out, err := cmd.Output()
	if code := cmd.ProcessState.ExitCode(); code != 1 || string(out) != "b\n" {
		t.Errorf("mk -k = %q, %v, want b and exit status 1", out, err)
	}
}

// The built-in shell runs what a recipe is likely to have.
func TestBuiltinShell(t *testing.T) {
	dir := writeMkfile(t, `
MKSHELL=builtin
X=a b
V=`+"`{echo from a backquote}"+`
all:VQ: out
	export Y="1 2"
	readonly W=$Y
	echo "$X" $V $target $prereq "$W"
	for i in $X; do echo $i; done
	(exit 3) || echo status $?
	echo {a,b} "{c,d}" | cat
	cat <<'E'
	{e,f} $X
	E
	f() { local z=7; echo f $1 $z; }
	f q
out:Q:
	echo made >$target
fail:VQ:
	echo a
	false
	echo b
syntax:VQ:
	echo before
	if
missing:VQ:
	nosuchcommand
`)
	for _, c := range []struct{ target, stdout, stderr string }{
		{"all", "a b from a backquote all out 1 2\na\nb\nstatus 3\n{a,b} {c,d}\n{e,f} $X\nf q 7\n", ""},
		{"fail", "a\n", "exit status=exit(1)"},
		{"syntax", "before\n", "exit status=exit(2)"},
		{"missing", "", "nosuchcommand: not found"},
	} {
		cmd := mkCmd(t, dir, c.target)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		if (err != nil) != (c.stderr != "") || stdout.String() != c.stdout || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%s: %v\nstdout %q, want %q\nstderr %q, want %q in it", c.target, err, stdout.String(), c.stdout, stderr.String(), c.stderr)
		}
	}
}

// In an empty root, where there is no sh, recipes run all the same, and -v
// says how.
func TestEmptyRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can chroot")
	}
	dir := writeMkfile(t, "all:VQ:\n\techo hello from $target; test ! -e /bin/sh\n")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, "mk"), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if fi, err := os.Stat(filepath.Join(dir, "mk")); err != nil || fi.Size() >= 6e6 {
		t.Errorf("mk is %d bytes, want less than 6,000,000 (%v)", fi.Size(), err)
	}
	cmd := &exec.Cmd{Path: "/mk", Args: []string{"/mk", "-v"}, Dir: "/", Env: []string{}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
	cmd.Stdin, _ = os.Open(os.DevNull)
	out, err := cmd.CombinedOutput()
	if want := "mk: using the built-in shell\nhello from all\n"; err != nil || string(out) != want {
		t.Errorf("mk -v = %q, %v, want %q", out, err, want)
	}
}

// A signal reaches what a recipe has started, a half-made target with
// attribute D goes, and mk dies of the signal; also where all of them get it,
// as from a terminal.
func TestInterrupt(t *testing.T) {
	for _, c := range []struct {
		sig syscall.Signal
		all bool
	}{
		{syscall.SIGINT, false}, {syscall.SIGTERM, false}, {syscall.SIGHUP, false}, {syscall.SIGQUIT, false},
		{syscall.SIGINT, true}, {syscall.SIGQUIT, true},
	} {
		t.Run(fmt.Sprintf("%v all=%v", c.sig, c.all), func(t *testing.T) { testInterrupt(t, c.sig, c.all) })
	}
}

func testInterrupt(t *testing.T, sig syscall.Signal, all bool) {
	dir := writeMkfile(t, "out:D:\n\techo half >$target; sh -c 'echo $$; exec sleep 1000'; true\n")
	cmd := mkCmd(t, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	b := make([]byte, 1000)
	for got := ""; strings.Count(got, "\n") < 2; { // the recipe and the pid of sleep
		n, err := r.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		got += string(b[:n])
	}
	pid := cmd.Process.Pid
	if all {
		pid = -pid
	}
	syscall.Kill(pid, sig)
	err = cmd.Wait()
	if n, err := r.Read(b); n > 0 || err == nil { // blocks as long as sleep lives
		t.Errorf("read %q after mk's end", b[:n])
	}
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != sig {
		t.Errorf("mk ended with %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "out")); err == nil {
		t.Error("out is still there")
	}
	if !strings.Contains(stderr.String(), "deleting 'out'") {
		t.Errorf("stderr %q", stderr.String())
	}
}

// A signal that is ignored where mk starts, as under nohup(1), stays so.
func TestIgnoredSignal(t *testing.T) {
	dir := writeMkfile(t, "all:VQ:\n\tkill -HUP $pid; echo survived\n")
	cmd := mkCmd(t, dir)
	cmd.Args = append([]string{"sh", "-c", "trap '' HUP; exec \"$@\"", "sh"}, cmd.Args...)
	cmd.Path = "/bin/sh"
	out, err := cmd.CombinedOutput()
	if want := "survived\n"; err != nil || string(out) != want {
		t.Errorf("mk = %q, %v, want %q", out, err, want)
	}
}

// Output that cannot be written is an error, also the last line, and ends mk before
// the next recipe.
func TestFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	dir := writeMkfile(t, "all:V: a b\na:Q:\n\ttouch a\nb: a\n\ttouch b\nmkfile:\n\ttouch never\n")
	const message = "mk: write standard output: No space left on device\n"
	for _, args := range [][]string{{"mkfile"}, {"-n"}, {"-t", "a"}, {"-dp", "a"}, {"-u", "a"}, {"-de", "a"}, {}} {
		cmd := mkCmd(t, dir, args...)
		var stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = full, &stderr
		err := cmd.Run()
		if cmd.ProcessState.ExitCode() != 1 || stderr.String() != message {
			t.Errorf("mk %q = %v, stderr %q, want exit status 1 and %q", args, err, stderr.String(), message)
		}
	}
	for name, want := range map[string]bool{"a": true, "b": false, "never": false} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", name, err == nil, want)
		}
	}
}

// Nobody reads what mk prints: it starts no recipe any more, and is not killed.
func TestBrokenPipe(t *testing.T) {
	dir := writeMkfile(t, "all:V: a b\na:Q:\n\ttouch a\nb: a\n\ttouch b\n")
	cmd := mkCmd(t, dir)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd.Stdout = w
	err = cmd.Run()
	w.Close()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.ExitStatus() != 1 {
		t.Errorf("mk ended with %v, want exit status 1", err)
	}
	for name, want := range map[string]bool{"a": true, "b": false} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", name, err == nil, want)
		}
	}
}
