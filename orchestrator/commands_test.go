package orchestrator

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"9ci/orchestrator/dial"
)

// Stock ssh lists, globs and finds, at the orchestrator and at an executor.
func TestOpenSSHPatterns(t *testing.T) {
	m := startMux(t)
	k, file := m.key(`namespace="`+hello+`"`, "alice@laptop")
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	tree.add("3f2a9c1d0b7e.2", testCommit, "failed")
	const artifacts = "ci/3f2a9c1d0b7e.1/artifacts/"
	for name, text := range map[string]string{"a.txt": "a\n", "b.txt": "b\n", ".hidden": "h\n", "x*y": "star\n", "dir/deep.txt": "d\n", "lines": numbered(1, 30)} {
		tree.files[artifacts+name] = text
	}
	tree.links[artifacts+"loop"] = "."
	ev := watchEvents(t, m.tree(m.dial(k), hello))
	m.export(m.dial(k), dial.Announce{Name: "box", Namespaces: []string{hello}}, tree.root())
	ev.await("/ci/3f2a9c1d0b7e.2")
	const run = "n/box/ci/3f2a9c1d0b7e.1"
	for _, test := range []struct {
		command, stdout, stderr string
		status                  int
	}{
		{"cat n/*/ci/*/stdout", "ok 3f2a9c1d0b7e.1\nok 3f2a9c1d0b7e.2\n", "", 0},
		{"cat " + run + "/artifacts/[!b].txt", "a\n", "", 0},
		{"cat " + run + "/artifacts/?.txt", "a\nb\n", "", 0},
		{"cat " + run + "/artifacts/x'*'*", "star\n", "", 0},
		{"cat '" + run + "/artifacts/?.txt'", "", "cat: " + run + "/artifacts/?.txt: file not found\n", 1},
		{"cat " + run + "/artifacts/*.none", "", "cat: " + run + "/artifacts/*.none: file not found\n", 1},
		{"cat " + run + `/artifacts/"x*y"`, "star\n", "", 0},
		{"ls -d " + run + "/artifacts/*.txt", run + "/artifacts/a.txt\n" + run + "/artifacts/b.txt\n", "", 0},
		{"ls " + run + "/artifacts/dir", "deep.txt\n", "", 0},
		{"ls -1a " + run + "/artifacts/dir", ".\n..\ndeep.txt\n", "", 0},
		{"ls -z", "", "ls: there is no flag -z; usage: ls [-1adl] [PATH...]\n", 2},
		{"find " + run + "/artifacts -name '*.txt'", strings.ReplaceAll("A/a.txt\nA/b.txt\nA/dir/deep.txt\n", "A", run+"/artifacts"), "", 0},
		{"find ci/3f2a9c1d0b7e/artifacts -type d", "ci/3f2a9c1d0b7e/artifacts\nci/3f2a9c1d0b7e/artifacts/dir\n", "", 0},
		{"find " + run + "/artifacts -maxdepth 1 -type l", run + "/artifacts/loop\n", "", 0},
		{"find . -maxdepth 1 -name stat*", "./status\n", "", 0},
		{"find none", "", "find: none: file not found\n", 1},
		{"find . -delete", "", "find: \"-delete\" wants a value, or is not known; usage: find [PATH...] [-name PATTERN] [-type f|d|l] [-maxdepth N]\n", 2},
		{"tail ci/3f2a9c1d0b7e/artifacts/lines", numbered(21, 30), "", 0},
		{"tail -n 2 " + run + "/artifacts/lines", numbered(29, 30), "", 0},
		{"tail -n0 " + run + "/artifacts/lines", "", "", 0},
		{"tail -n +29 " + run + "/artifacts/lines", numbered(29, 30), "", 0},
		{"tail -c 3 " + run + "/artifacts/lines", "30\n", "", 0},
		{"tail -5 " + run + "/artifacts/a.txt", "a\n", "", 0},
		{"tail -fn1 " + run + "/artifacts/lines", numbered(30, 30), "", 0},
		{"tail -n 1 " + run + "/artifacts/a.txt none", "==> " + run + "/artifacts/a.txt <==\na\n\n==> none <==\n", "tail: none: file not found\n", 1},
		{"tail -n x none", "", "tail: -n wants a number; usage: tail [-f] [-n N] [-c N] PATH...\n", 2},
		{"wait 3f2a9c1d0b7e", "passed 0 41.250 2026-11-24T21:00:00Z\n", "", 0},
		{"wait ci/" + testCommit, "passed 0 41.250 2026-11-24T21:00:00Z\n", "", 0},
		{"wait " + hello + "/ci/last", "failed 1 41.250 2026-11-24T21:00:00Z\n", "", 1}, // of one second: the one that came last
		{"wait head", "", "wait: head: \"head\" is known to an executor alone: want last, or seven or more digits of a commit, a tree or a score\n", 1},
		{"wait github.com/other/repo/ci/3f2a9c1", "", "wait: github.com/other/repo/ci/3f2a9c1: file not found\n", 1},
	} {
		stdout, stderr, status := m.run(file, test.command)
		if stdout != test.stdout || stderr != test.stderr || status != test.status {
			t.Errorf("ssh HOST %s:\nstdout %.200q, want %.200q\nstderr %q, want %q\nstatus %d, want %d",
				test.command, stdout, test.stdout, stderr, test.stderr, status, test.status)
		}
	}
	if stdout, _, _ := m.run(file, "ls -la "+run+"/artifacts"); !strings.HasPrefix(stdout, "dr-xr-xr-x ") || !strings.Contains(stdout, " .hidden\n") || !strings.Contains(stdout, " loop -> .\n") {
		t.Errorf("ls -la: %q", stdout)
	}
}

// numbered returns lines of the numbers from a to b.
func numbered(a, b int) string {
	var s strings.Builder
	for i := a; i <= b; i++ {
		fmt.Fprintln(&s, i)
	}
	return s.String()
}

// ssh HOST wait REV waits for the first run of a revision to come, and for one that
// is under way: until it has ended, and not for another.
func TestOpenSSHWaits(t *testing.T) {
	m := startMux(t)
	k, file := m.key(`namespace="`+hello+`"`, "alice@laptop")
	root := m.tree(m.dial(k), hello)
	ev := watchEvents(t, root)
	const other = "0123456789abcdef0123456789abcdef01234567"
	tree := newTestTree()
	ended := make(chan struct{})
	reached := make(chan struct{})
	reach := sync.OnceFunc(func() { close(reached) })
	tree.delay = func(ctx context.Context, path string) error {
		if path != "ci/3f2a9c1d0b7e.1/wait" {
			return nil
		}
		reach()
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.export(m.dial(k), dial.Announce{Name: "box", Namespaces: []string{hello}}, tree.root())
	ev.await("/n/box join")
	cmd := m.openssh(t.Context(), file, "127.0.0.1", "wait 3f2a9c1")
	out := new(strings.Builder)
	cmd.Stdout, cmd.Stderr = out, t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tree.add("0123456789ab.1", other, "passed")
	ev.await("/ci/0123456789ab.1")
	tree.add("3f2a9c1d0b7e.1", testCommit, "boot")
	<-reached
	tree.add("3f2a9c1d0b7e.1", testCommit, "failed")
	close(ended)
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 || out.String() != "failed 1 41.250 2026-11-24T21:00:00Z\n" {
		t.Errorf("wait: %v, %q", err, out)
	}
}

// tail -f prints what comes, and ends when the file changes no more. With -t its
// lines end in CR LF, and ^C ends it.
func TestOpenSSHFollows(t *testing.T) {
	m := startMux(t)
	k, file := m.key(`namespace="`+hello+`"`, "alice@laptop")
	tree := newTestTree()
	const stdout = "ci/3f2a9c1d0b7e.1/stdout"
	tree.grow(stdout, numbered(1, 20), true)
	ev := watchEvents(t, m.tree(m.dial(k), hello))
	m.export(m.dial(k), dial.Announce{Name: "box", Namespaces: []string{hello}}, tree.root())
	ev.await("/n/box join")
	start := func(args ...string) (*bufio.Reader, io.WriteCloser, func() int) {
		t.Helper()
		cmd := m.openssh(t.Context(), file, append(args, "127.0.0.1", "tail -f -n 1 n/box/"+stdout)...)
		p := startPipe(t, cmd)
		return bufio.NewReader(p), p, func() int { cmd.Wait(); return cmd.ProcessState.ExitCode() }
	}
	expect := func(r *bufio.Reader, want string) {
		t.Helper()
		if line, err := r.ReadString('\n'); line != want {
			t.Errorf("line %q, %v, want %q", line, err, want)
		}
	}
	plain, _, plainEnds := start()
	tty, in, ttyEnds := start("-tt")
	expect(plain, "20\n")
	expect(tty, "20\r\n")
	tree.grow(stdout, "more\n", true)
	expect(plain, "more\n")
	expect(tty, "more\r\n")
	io.WriteString(in, "q\x03")
	if status := ttyEnds(); status != 130 {
		t.Errorf("^C: status %d, want 130", status)
	}
	tree.grow(stdout, "last\n", false)
	expect(plain, "last\n")
	if status := plainEnds(); status != 0 {
		t.Errorf("the file is whole: status %d, want 0", status)
	}
	// A pty changes nothing else, and what is complained of has CR LF too.
	cmd := m.openssh(t.Context(), file, "-tt", "127.0.0.1", "cat none")
	if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 1 || string(out) != "cat: none: file not found\r\n" {
		t.Errorf("ssh -t HOST cat none: %q, %v", out, err)
	}
}
