package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mkRun is an mk that runs, with its two outputs in one.
type mkRun struct {
	t   *testing.T
	cmd *exec.Cmd
	dir string
	out *bufio.Reader
}

// startMk starts cmd.
func startMk(t *testing.T, cmd *exec.Cmd) *mkRun {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cmd.Stdout, cmd.Stderr = w, w
	cmd.Env = append(cmd.Env, "GORACE=atexit_sleep_ms=0") // else a second each with -race
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); r.Close() })
	return &mkRun{t, cmd, cmd.Dir, bufio.NewReader(r)}
}

// line returns the next line that mk or a recipe prints.
func (m *mkRun) line() string {
	m.t.Helper()
	s, err := m.out.ReadString('\n')
	if err != nil {
		m.t.Fatalf("mk printed %q, and then: %v", s, err)
	}
	return strings.TrimRight(s, "\r\n")
}

// until reads lines up to one.
func (m *mkRun) until(line string) {
	m.t.Helper()
	for m.line() != line {
	}
}

// pid reads a line with a pid.
func (m *mkRun) pid() int {
	m.t.Helper()
	pid, err := strconv.Atoi(m.line())
	if err != nil {
		m.t.Fatal(err)
	}
	return pid
}

// end waits for mk and for the end of all that can print. It returns how mk ended,
// and what was printed.
func (m *mkRun) end() (syscall.WaitStatus, string) {
	m.t.Helper()
	var rest bytes.Buffer
	done := make(chan bool)
	go func() {
		m.out.WriteTo(&rest)
		close(done)
	}()
	m.cmd.Wait()
	<-done
	return m.cmd.ProcessState.Sys().(syscall.WaitStatus), rest.String()
}

// running tells whether a process has not ended.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.HasPrefix(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " Z")
}

// ends tells whether a process has ended or does so within a minute.
func ends(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err == unix.ESRCH
	}
	defer unix.Close(fd)
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000)
	return n == 1
}

// cleanerFlag makes the test binary a program that takes its time to clean up, and
// says which signals it gets.
const cleanerFlag = "--cleaner"

func clean() {
	c := make(chan os.Signal, 10)
	for _, sig := range signals[:4] {
		signal.Notify(c, sig)
	}
	cleaned := make(chan bool)
	fmt.Fprintln(os.Stderr, "ready")
	for first := true; ; first = false {
		select {
		case sig := <-c:
			fmt.Fprintln(os.Stderr, "got", unix.SignalName(sig.(syscall.Signal)))
		case <-cleaned:
			fmt.Fprintln(os.Stderr, "cleaned")
			os.Exit(0)
		}
		if first {
			go func() {
				exec.Command("sleep", ".3").Run()
				close(cleaned)
			}()
		}
	}
}

// cleanerDir returns a directory with a mkfile, in which the word CLEAN runs the
// cleaner.
func cleanerDir(t *testing.T, mkfile string) string {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return writeMkfile(t, strings.ReplaceAll(mkfile, "CLEAN", exe+" "+cleanerFlag))
}

// cleanedUp is what the cleaner is to print.
func cleanedUp(sig syscall.Signal) string { return "got " + unix.SignalName(sig) + "\ncleaned\n" }

// init1 returns mk as PID 1 of a namespace of its own.
func init1(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can make a PID namespace")
	}
	cmd := mkCmd(t, dir, args...)
	cmd.Args = append([]string{"sh", "-ec", `mount --make-rprivate /; mount -t proc proc /proc; exec "$@"`, "sh"}, append([]string{cmd.Path}, args...)...)
	cmd.Path = "/bin/sh"
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Setsid: true}
	return cmd
}

// As PID 1 mk reaps orphans, whatever it waits for: a process that was told to end
// and ends is gone.
func TestPID1Reaps(t *testing.T) {
	// A daemon, stopped as a test would do it.
	const daemon = `rm -f $n.pid; (setsid sh -c "echo \$\$ >$n.pid; exec sleep 1000" & ); while ! test -s $n.pid; do :; done; p=$(cat $n.pid); kill $p; while kill -0 $p 2>/dev/null; do :; done; echo gone`
	for _, c := range []struct{ name, text, want string }{
		{"daemon", "all:VQ:\n\tn=a; " + daemon + "\n", "gone\n"},
		{"thousand", "all:VQ:\n\ti=0; while test $i -lt 1000; do (: &); i=$((i+1)); done\n" +
			"\twhile grep -qs '^State:.Z' /proc/[0-9]*/status; do :; done; echo gone\n", "gone\n"},
		{"recipe's own status", "all:VQ:\n\t(sh -c 'exit 5' &); exit 3\n", "exit status=exit(3)"},
		{"backquote", "X=`{n=a; " + daemon + "}\nall:VQ:\n\techo $X\n", "gone\n"},
		{"include", "<|sh prog\nall:VQ:\n\techo $X\n", "gone\n"},
		{"program", "all:VQ: out\n\techo $target\nout:Psh prog;false: in\n\techo made\nin:VQ:\n\ttrue\n", "made\nX=gone\nall\n"},
		{"jobs", "NPROC=4\nall:V: a b c d\n%:VQ:\n\tn=$target; " + daemon + "\n", strings.Repeat("gone\n", 4)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := writeMkfile(t, c.text)
			os.WriteFile(filepath.Join(dir, "prog"), []byte("n=p; X=$("+daemon+"); echo X=$X\n"), 0o666)
			_, out := startMk(t, init1(t, dir)).end()
			if !strings.HasSuffix(out, c.want) && !(strings.HasPrefix(c.want, "exit") && strings.Contains(out, c.want)) {
				t.Errorf("mk printed %q, want %q at its end", out, c.want)
			}
		})
	}
}

// As PID 1, to which the kernel's defaults do not apply, mk ends as a shell says
// that a signal has ended it.
func TestPID1Ends(t *testing.T) {
	for _, sig := range signals[:4] {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			t.Parallel()
			m := startMk(t, init1(t, cleanerDir(t, "all:VQ:\n\tCLEAN; true\n")))
			m.until("ready")
			m.cmd.Process.Signal(sig)
			ws, out := m.end()
			if want := cleanedUp(sig); ws.ExitStatus() != 128+int(sig) || out != want {
				t.Errorf("mk ended with %#x and %q, want exit status %d and %q", ws, out, 128+int(sig), want)
			}
		})
	}
}

// Each program gets one signal, and mk waits for all, also for one whose shell
// dies at once; whatever the program is for.
func TestCleaning(t *testing.T) {
	for _, c := range []struct{ name, text string }{
		{"recipe", "all:VQ:\n\tCLEAN; true\n"},
		{"with exec", "all:VQ:\n\texec CLEAN\n"},
		{"jobs", "NPROC=2\nall:V: a b\na:VQ:\n\tCLEAN; true\nb:VQ:\n\tsleep 1000\n"},
		{"orphan", "all:VQ:\n\t(CLEAN &); sleep 1000\n"},
		{"session", "all:VQ:\n\tsetsid CLEAN; true\n"},
		{"mk", "all:VQ:\n\t/proc/$pid/exe inner; true\ninner:VQ:\n\tCLEAN; true\n"},
		{"mk with exec", "all:VQ:\n\texec /proc/$pid/exe inner\ninner:VQ:\n\texec CLEAN\n"},
		{"built-in shell", "MKSHELL=builtin\nall:VQ:\n\tCLEAN; true\n"},
		{"backquote", "X=`{CLEAN}\n"},
		{"include", "<|CLEAN\n"},
		{"program", "out:PCLEAN;true: in\n\ttrue\nin:VQ:\n\ttrue\n"},
	} {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP} {
			t.Run(c.name+" "+unix.SignalName(sig), func(t *testing.T) {
				t.Parallel()
				dir := cleanerDir(t, c.text)
				os.WriteFile(filepath.Join(dir, "out"), nil, 0o666)
				m := startMk(t, mkCmd(t, dir))
				m.until("ready")
				m.cmd.Process.Signal(sig)
				ws, out := m.end()
				if want := cleanedUp(sig); ws.Signal() != sig || out != want {
					t.Errorf("mk ended with %#x and %q, want %v and %q", ws, out, sig, want)
				}
			})
		}
	}
}

// What does not end in time is killed, with what it starts meanwhile.
func TestGrace(t *testing.T) {
	t.Parallel()
	m := startMk(t, mkCmd(t, writeMkfile(t, "all:VQ:\n\ttrap '' TERM; echo $$; while :; do sleep .1; done\n")))
	pid := m.pid()
	m.cmd.Process.Signal(syscall.SIGTERM)
	ws, out := m.end() // which is the end of every sleep too
	if ws.Signal() != syscall.SIGTERM || out != "" || running(pid) {
		t.Errorf("mk ended with %#x and %q, recipe runs: %v", ws, out, running(pid))
	}
}

// A second signal kills what the first has not ended. It is no second signal if it
// comes with the first, as from timeout(1).
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	dir := writeMkfile(t, "all:VQ:\n\ttrap 'echo got' TERM; while :; do sh -c 'echo ready; exec sleep 1000'; done\n")
	m := startMk(t, mkCmd(t, dir))
	m.until("ready")
	m.cmd.Process.Signal(syscall.SIGTERM)
	m.until("got")
	done := make(chan bool)
	go func() { // sooner or later it is late enough
		defer close(done)
		for m.cmd.Process.Signal(syscall.SIGTERM) == nil {
			unix.Poll(nil, 10)
		}
	}()
	if ws, out := m.end(); ws.Signal() != syscall.SIGTERM || strings.Trim(out, "ready\n") != "" {
		t.Errorf("mk ended with %#x and %q", ws, out)
	}
	<-done
}

// A reader that does not read keeps mk from ending only for a while.
func TestUnread(t *testing.T) {
	for name, args := range map[string][]string{"plan": {"-n"}, "run": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := mkCmd(t, writeMkfile(t, "all:V: `{seq 20000}\n%:V:\n\t: "+strings.Repeat("x", 1000)+"\n"), args...)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			cmd.Stdout = w
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			for n := 0; n < 60<<10; unix.Poll(nil, 10) { // of the pipe's 64 KiB
				if n, err = unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ); err != nil {
					t.Fatal(err)
				}
			}
			done := make(chan bool)
			go func() {
				defer close(done)
				for cmd.Process.Signal(syscall.SIGTERM) == nil {
					unix.Poll(nil, 10)
				}
			}()
			cmd.Wait()
			<-done
			if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != syscall.SIGTERM {
				t.Errorf("mk ended with %#x, want %v", ws, syscall.SIGTERM)
			}
		})
	}
}

// A recipe gets one signal from timeout(1) too, which sends it to mk first, and then
// to the group that it leads.
func TestTimeout(t *testing.T) {
	for name, text := range map[string]string{
		"shell dies":   "all:VQ:\n\tCLEAN; true\n",
		"shell cleans": "all:VQ:\n\texec CLEAN\n",
		"mk":           "all:VQ:\n\t/proc/$pid/exe inner; true\ninner:VQ:\n\tCLEAN; true\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := mkCmd(t, cleanerDir(t, text))
			path, err := exec.LookPath("timeout")
			if err != nil {
				t.Fatal(err)
			}
			cmd.Args = append([]string{"timeout", "1000"}, cmd.Path)
			cmd.Path = path
			m := startMk(t, cmd)
			m.until("ready")
			m.cmd.Process.Signal(syscall.SIGTERM) // which it takes for the end of the time
			if ws, out := m.end(); out != cleanedUp(syscall.SIGTERM) {
				t.Errorf("mk ended with %#x and %q, want %q", ws, out, cleanedUp(syscall.SIGTERM))
			}
		})
	}
}

// pty returns the two ends of a terminal.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// On a terminal a recipe gets a signal once, whether the terminal sends it to all
// or somebody to mk alone.
func TestTerminal(t *testing.T) {
	kill := func(sig syscall.Signal) func(m *mkRun, tty *os.File) {
		return func(m *mkRun, _ *os.File) { syscall.Kill(m.cmd.Process.Pid, sig) }
	}
	killGroup := func(sig syscall.Signal) func(m *mkRun, tty *os.File) {
		return func(m *mkRun, _ *os.File) { syscall.Kill(-m.cmd.Process.Pid, sig) }
	}
	typed := func(s string) func(m *mkRun, tty *os.File) {
		return func(_ *mkRun, tty *os.File) { tty.WriteString(s) }
	}
	for _, c := range []struct {
		name string
		sig  syscall.Signal
		send func(m *mkRun, tty *os.File)
	}{
		{"^C", syscall.SIGINT, typed("\x03")},
		{`^\`, syscall.SIGQUIT, typed("\x1c")},
		{"hangup", syscall.SIGHUP, func(_ *mkRun, tty *os.File) { tty.Close() }},
		{"kill -INT", syscall.SIGINT, kill(syscall.SIGINT)},
		{"kill -QUIT", syscall.SIGQUIT, kill(syscall.SIGQUIT)},
		{"kill -HUP", syscall.SIGHUP, kill(syscall.SIGHUP)},
		{"kill -TERM", syscall.SIGTERM, kill(syscall.SIGTERM)},
		{"kill %1", syscall.SIGTERM, killGroup(syscall.SIGTERM)},
	} {
		for name, text := range map[string]string{
			"shell dies":   "all:VQ:\n\tCLEAN; true\n",
			"shell cleans": "all:VQ:\n\texec CLEAN\n",
			"backquote":    "X=`{CLEAN}\n",
			"shell traps": "all:VQ:\n\tfor s in HUP INT QUIT TERM; do trap \"echo got SIG$s; echo cleaned; exit 3\" $s; done\n" +
				"\techo ready; sleep 1000 & wait\n",
		} {
			t.Run(c.name+" "+name, func(t *testing.T) {
				t.Parallel()
				master, slave := pty(t)
				cmd := mkCmd(t, cleanerDir(t, text))
				cmd.Stdin = slave
				cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
				m := startMk(t, cmd)
				slave.Close()
				m.until("ready")
				c.send(m, master)
				ws, out := m.end()
				out, _, _ = strings.Cut(out, "mk: ") // a failure, if mk saw that before the signal
				if want := cleanedUp(c.sig); ws.Signal() != c.sig || out != want {
					t.Errorf("mk ended with %#x and %q, want %v and %q", ws, out, c.sig, want)
				}
			})
		}
	}
}

// A signal that is ignored where mk starts, as under nohup(1), stays so, in
// recipes too.
func TestIgnored(t *testing.T) {
	const mkfile = "all:VQ:\n\tfor p in $pid $$; do kill -SIG $p; done; sh -c 'kill -SIG $$'; echo survived\n"
	for _, c := range []struct{ sig, script string }{
		{"HUP", `trap "" HUP; exec "$@"`},
		{"INT", `trap "" INT; exec "$@"`},
		{"TERM", `trap "" TERM; "$@"; exit`},
		{"INT", `"$@" & wait $!`}, // which ignores them without job control
		{"QUIT", `"$@" & wait $!`},
	} {
		t.Run(c.sig+" "+c.script, func(t *testing.T) {
			cmd := mkCmd(t, writeMkfile(t, strings.ReplaceAll(mkfile, "SIG", c.sig)))
			cmd.Args = append([]string{"sh", "-c", c.script, "sh"}, cmd.Args...)
			cmd.Path = "/bin/sh"
			if out, err := cmd.CombinedOutput(); err != nil || string(out) != "survived\n" {
				t.Errorf("mk = %q, %v", out, err)
			}
		})
	}
}

// A shell with job control ignores SIGTERM itself, but not in what it starts.
func TestJobControl(t *testing.T) {
	cmd := mkCmd(t, writeMkfile(t, "all:VQ:\n\tkill $pid; sleep 1000\n"))
	cmd.Args = append([]string{"sh", "-c", `trap "" TERM TSTP; (trap - TERM TSTP; exec "$@"); test $? = 143`, "sh"}, cmd.Args...)
	cmd.Path = "/bin/sh"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// An alarm lets recipes end and starts no more, as in the C mk.
func TestAlarm(t *testing.T) {
	var text strings.Builder
	text.WriteString("all:VQ: c999\n\techo all\nc0:VQ:\n\tkill -ALRM $pid; echo alarm\n")
	for i := range 999 {
		fmt.Fprintf(&text, "c%d:VQ: c%d\n\ttrue\n", i+1, i)
	}
	ws, out := startMk(t, mkCmd(t, writeMkfile(t, text.String()))).end()
	if ws.ExitStatus() != 1 || out != "alarm\nmk: alarm\n" {
		t.Errorf("mk ended with %#x and %q", ws, out)
	}
}

// A signal removes a target with attribute D if its recipe has changed it. A
// failure removes it all the same.
func TestDelete(t *testing.T) {
	for _, c := range []struct {
		name, recipe string
		before, left bool
	}{
		{"made", "echo half >$target", false, false},
		{"not made", ":", false, false},
		{"rewritten", "echo half >$target", true, false},
		{"touched", "touch $target", true, false},
		{"replaced", "cp -p $target x; mv x $target", true, false},
		{"not touched", "cat $target", true, true},
	} {
		for _, end := range []string{"signal", "failure"} {
			t.Run(c.name+" "+end, func(t *testing.T) {
				t.Parallel()
				sleep := "sleep 1000"
				if end == "failure" {
					sleep = "false"
				}
				dir := writeMkfile(t, "out:DQ: in\n\t"+c.recipe+"; echo ready; "+sleep+"\n")
				os.WriteFile(filepath.Join(dir, "in"), nil, 0o666)
				out := filepath.Join(dir, "out")
				if c.before {
					os.WriteFile(out, nil, 0o666)
					os.Chtimes(out, time.Unix(1e9, 0), time.Unix(1e9, 0))
				}
				m := startMk(t, mkCmd(t, dir))
				m.until("ready")
				if end == "signal" {
					m.cmd.Process.Signal(syscall.SIGTERM)
				}
				_, printed := m.end()
				_, err := os.Stat(out)
				if left := err == nil; left != (c.left && end == "signal") {
					t.Errorf("out is there: %v\n%s", left, printed)
				}
				said := strings.Contains(printed, "deleting 'out'")
				if want := end == "failure" || c.name != "not made" && !c.left; said != want {
					t.Errorf("mk printed %q, of deleting: %v, want %v", printed, said, want)
				}
			})
		}
	}
}

// What a recipe leaves in the background lives on when mk ends; a signal ends it,
// but not a daemon, which has a session of its own.
func TestLeft(t *testing.T) {
	for _, c := range []struct {
		name, recipe string
		signal       bool
		lives        bool
	}{
		{"end", "sleep 1000 >/dev/null 2>&1 & echo $!", false, true},
		{"signal", "sleep 1000 >/dev/null 2>&1 & echo $!", true, false},
		{"orphan", "(sleep 1000 >/dev/null 2>&1 & echo $!)", true, false},
		{"daemon", "(setsid sh -c 'echo $$ >pid; exec sleep 1000 >/dev/null 2>&1' &); until test -s pid; do :; done; cat pid", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := startMk(t, mkCmd(t, writeMkfile(t, "all:VQ: a\n\techo ready; test "+fmt.Sprint(c.signal)+" = false || sleep 1000\na:VQ:\n\t"+c.recipe+"\n")))
			pid := m.pid()
			m.until("ready")
			if c.signal {
				m.cmd.Process.Signal(syscall.SIGINT)
			}
			m.end()
			if lives := running(pid); lives != c.lives {
				t.Errorf("the process lives: %v, want %v", lives, c.lives)
			}
			syscall.Kill(pid, syscall.SIGKILL)
			if !ends(pid) {
				t.Error("it does not end")
			}
		})
	}
}

// A process that is stopped cleans up too.
func TestStopped(t *testing.T) {
	t.Parallel()
	m := startMk(t, mkCmd(t, writeMkfile(t, "all:VQ:\n\ttrap 'echo cleaned; exit' TERM; echo $$; kill -STOP $$; echo went on; sleep 1000\n")))
	pid := m.pid()
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(stat), ") T ") {
			break
		}
	}
	m.cmd.Process.Signal(syscall.SIGTERM)
	if ws, out := m.end(); ws.Signal() != syscall.SIGTERM || out != "cleaned\n" {
		t.Errorf("mk ended with %#x and %q", ws, out)
	}
}
