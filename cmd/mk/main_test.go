package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestMain makes the test binary mk itself where a test says so.
func TestMain(m *testing.M) {
	if os.Getenv("MK_TEST_MAIN") != "" && (len(os.Args) < 2 || os.Args[1] != cleanerFlag) {
		main()
		os.Exit(0)
	}
	if len(os.Args) > 1 && os.Args[1] == cleanerFlag {
		clean()
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

// A command line that is wrong gets told what is, and the usage.
func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-"}, "mk: unknown flag -\nUsage: mk "},
		{[]string{"-n", "-z", "x"}, "mk: unknown flag -z\nUsage: mk "},
		{[]string{"--keep-going"}, "mk: unknown flag --keep-going\nUsage: mk "},
		{[]string{"-f"}, "mk: flag -f without its mkfile\nUsage: mk "},
		{[]string{"-w"}, "mk: flag -w without its names\nUsage: mk "},
		{[]string{"-C"}, "mk: flag -C without its dir\nUsage: mk "},
	} {
		cmd := mkCmd(t, t.TempDir(), c.args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if cmd.ProcessState.ExitCode() != 1 || len(out) > 0 || !strings.HasPrefix(stderr.String(), c.want) || !strings.Contains(stderr.String(), "\t-h ") {
			t.Errorf("mk %q: %v\nstdout %q\nstderr %q, want %q and the flags", c.args, err, out, stderr.String(), c.want)
		}
	}
	for _, args := range [][]string{{"-h"}, {"--help"}, {"-n", "-h", "-z"}} {
		if out, err := mkCmd(t, t.TempDir(), args...).CombinedOutput(); err != nil || !bytes.HasPrefix(out, []byte("Usage: mk ")) {
			t.Errorf("mk %q: %v, printed %q", args, err, out)
		}
	}
}

// Mk goes to the directory of -C first, as cd does; what it starts does not again.
func TestDirectory(t *testing.T) {
	dir := writeMkfile(t, "no\n")
	sub := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(sub, 0o777); err != nil {
		t.Fatal(err)
	}
	text := "P=$PWD\nall:VQ:\n\techo $P `pwd` [$MKFLAGS]\n"
	if err := os.WriteFile(filepath.Join(sub, "other"), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	real, err := filepath.EvalSymlinks(sub)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-C", "a/b"}, {"-Ca/b"}, {"-C", "a", "-Cb"}, {"-C", sub}} {
		out, err := mkCmd(t, dir, append(args, "-f", "other")...).CombinedOutput()
		if want := real + " " + real + " [-f other]\n"; err != nil || string(out) != want {
			t.Errorf("mk %q: %v, printed %q, want %q", args, err, out, want)
		}
	}
	for name, want := range map[string]string{
		"nosuch": "mk: chdir nosuch: no such file or directory\n",
		"mkfile": "mk: chdir mkfile: not a directory\n",
	} {
		if out, err := mkCmd(t, dir, "-C", name).CombinedOutput(); err == nil || string(out) != want {
			t.Errorf("mk -C %s: %v, printed %q, want %q", name, err, out, want)
		}
	}
}

func TestArgs(t *testing.T) {
	c, targets, err := parseArgs([]string{"-nk", "-f", "a", "-fb", "c", "-wx", "-w", "y,z", "X=1", "t", "", "-n", "Y=2"})
	if err != nil {
		t.Fatal(err)
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
trap:VQ:
	trap 'echo bye $?' EXIT
	exec 3>&1
	echo to 3 >&3
	exit 4
lacks:VQ:
	echo before
	ulimit -n 10 || true
syntax:VQ:
	echo before
	if
missing:VQ:
	nosuchcommand
`)
	for _, c := range []struct{ target, stdout, stderr string }{
		{"all", "a b from a backquote all out 1 2\na\nb\nstatus 3\n{a,b} {c,d}\n{e,f} $X\nf q 7\n", ""},
		{"fail", "a\n", "exit status=exit(1)"},
		{"trap", "to 3\nbye 4\n", "exit status=exit(4)"},
		{"lacks", "before\n", "sh: 2: the built-in shell has no ulimit: it needs a real sh, see MKSHELL in mk(1)\n"},
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
