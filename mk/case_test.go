package mk_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"9ci/mk"
)

var rewrite = flag.Bool("update", false, "rewrite the plans and outputs in testdata/case")

// A mkCase is an archive of testdata/case. Its comment tells the story. In
// it, a line "arg ARG" adds to the command line, "env NAME=VALUE" to the
// environment, "time NAME SECONDS" says when a file was modified, "need NAME"
// names a command without which the case is skipped, "peer differs" says that
// 9base's mk does something else, "peer counts" that it only gives the line after
// the right one, "peer succeeds" that it only exits with 0. Its files are put in an empty directory, but for plan,
// stdout, stderr, made and exit, which are what comes out.
type mkCase struct {
	*txtar.Archive
	args  []string
	env   []string
	times map[string]int64
	peer  string
}

// results are the files of an archive that are output, in order.
var results = []string{"plan", "stdout", "stderr", "made", "exit"}

// outcome is what came out, by the names of results.
type outcome map[string]string

// epoch is when files were modified unless a case says otherwise.
const epoch = 1_000_000_000

func readCase(t *testing.T, name string) *mkCase {
	a, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	c := &mkCase{Archive: a, times: make(map[string]int64)}
	for line := range strings.Lines(string(a.Comment)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "arg":
			c.args = append(c.args, rest)
		case "env":
			c.env = append(c.env, rest)
		case "time":
			var file string
			var n int64
			fmt.Sscan(rest, &file, &n)
			c.times[file] = n
		case "need":
			if _, err := exec.LookPath(rest); err != nil {
				t.Skip(err)
			}
		case "peer":
			c.peer = rest
		}
	}
	return c
}

func isResult(name string) bool {
	for _, r := range results {
		if r == name {
			return true
		}
	}
	return false
}

// dir puts the case's files in an empty directory.
func (c *mkCase) dir(t *testing.T) string {
	dir := t.TempDir()
	for _, f := range c.Files {
		if isResult(f.Name) {
			continue
		}
		name := filepath.Join(dir, f.Name)
		os.MkdirAll(filepath.Dir(name), 0o777)
		if err := os.WriteFile(name, f.Data, 0o666); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(epoch+c.times[f.Name], 0)
		os.Chtimes(name, at, at)
	}
	return dir
}

func (c *mkCase) environ() []string {
	return append([]string{"PATH=" + os.Getenv("PATH")}, c.env...)
}

// config is the case's command line, as far as these tests need it.
func (c *mkCase) config(dir string) (cfg mk.Config, targets []string) {
	cfg = mk.Config{Dir: dir, Env: c.environ(), Exec: true}
	for _, arg := range c.args {
		switch {
		case strings.Contains(arg, "=") && arg[0] != '-':
			cfg.Vars = append(cfg.Vars, arg)
		case arg[0] != '-':
			targets = append(targets, arg)
		case arg[1] == 'a':
			cfg.All = true
		case arg[1] == 'e':
			cfg.Explain = true
		case arg[1] == 'i':
			cfg.Missing = true
		case arg[1] == 'k':
			cfg.Keep = true
		case arg[1] == 'n':
			cfg.NoExec = true
		case arg[1] == 's':
			cfg.Sequence = true
		case arg[1] == 't':
			cfg.Touch = true
		case arg[1] == 'w':
			cfg.WhatIf = arg[2:]
		}
	}
	cfg.Flags = strings.Join(cfg.Vars, " ")
	cfg.Args = targets
	return cfg, targets
}

// run runs the case with this package.
func (c *mkCase) run(t *testing.T) outcome {
	dir := c.dir(t)
	cfg, targets := c.config(dir)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	plan := plan(ctx, cfg, targets)
	dir = c.dir(t)
	cfg.Dir = dir
	var stdout, stderr bytes.Buffer
	cfg.Stdout, cfg.Stderr = &stdout, &stderr
	m, err := mk.Parse(ctx, cfg)
	if err == nil {
		err = m.Run(ctx, targets...)
	}
	o := result(dir, &stdout, &stderr, err)
	o["plan"] = plan
	return o
}

// result is what mk left behind in dir.
func result(dir string, stdout, stderr *bytes.Buffer, err error) outcome {
	exit := "0\n"
	if err != nil {
		exit = "1\n"
	}
	return outcome{
		"stdout": strings.ReplaceAll(stdout.String(), dir, "$DIR"),
		"stderr": strings.ReplaceAll(stderr.String(), dir, "$DIR"),
		"made":   made(dir),
		"exit":   exit,
	}
}

// plan lists the jobs to be run: position, targets <- prereqs (the newer
// ones).
func plan(ctx context.Context, cfg mk.Config, targets []string) string {
	m, err := mk.Parse(ctx, cfg)
	if err != nil {
		return ""
	}
	jobs, err := m.Plan(ctx, targets...)
	var b strings.Builder
	for _, j := range jobs {
		fmt.Fprintf(&b, "%s:%d: %s <- %s (%s)\n", j.File, j.Line,
			strings.Join(j.Targets, " "), strings.Join(j.Prereqs, " "), strings.Join(j.New, " "))
	}
	if err != nil {
		fmt.Fprintln(&b, "error:", strings.ReplaceAll(err.Error(), cfg.Dir, "$DIR"))
	}
	return b.String()
}

// made lists the files that are new.
func made(dir string) string {
	var b strings.Builder
	filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil && info.ModTime().After(time.Unix(epoch+1e6, 0)) {
			rel, _ := filepath.Rel(dir, name)
			fmt.Fprintln(&b, rel)
		}
		return nil
	})
	return b.String()
}

func forEachCase(t *testing.T, f func(t *testing.T, name string)) {
	names, _ := filepath.Glob("testdata/case/*.txt")
	if len(names) == 0 {
		t.Fatal("no cases")
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			t.Parallel()
			f(t, name)
		})
	}
}

// Every case comes out as its archive says.
func TestCases(t *testing.T) {
	forEachCase(t, func(t *testing.T, name string) {
		c := readCase(t, name)
		got := c.run(t)
		if *rewrite {
			c.update(t, name, got)
			return
		}
		want := make(outcome)
		for _, f := range c.Files {
			want[f.Name] = string(f.Data)
		}
		for _, r := range results {
			if s := got[r]; s != want[r] && s+"\n" != want[r] {
				t.Errorf("%s:\n%s\nwant:\n%s", r, s, want[r])
			}
		}
	})
}

func (c *mkCase) update(t *testing.T, name string, o outcome) {
	var files []txtar.File
	for _, f := range c.Files {
		if !isResult(f.Name) {
			files = append(files, f)
		}
	}
	for _, r := range results {
		if o[r] != "" {
			files = append(files, txtar.File{Name: r, Data: []byte(o[r])})
		}
	}
	c.Archive.Files = files
	if err := os.WriteFile(name, txtar.Format(c.Archive), 0o666); err != nil {
		t.Fatal(err)
	}
}

// lineBefore subtracts one from the lines that a message gives.
func lineBefore(s string) string {
	return regexp.MustCompile(`mkfile:\d+|inc:\d+`).ReplaceAllStringFunc(s, func(at string) string {
		file, line, _ := strings.Cut(at, ":")
		n, _ := strconv.Atoi(line)
		return fmt.Sprintf("%s:%d", file, n-1)
	})
}

// peer returns the path of the mk to compare with: $MKPEER, else 9base's. It
// skips the test where that is one of ours, or none.
func peer(tb testing.TB) string {
	name := os.Getenv("MKPEER")
	if name == "" {
		name = "/usr/lib/plan9/bin/mk"
	}
	if _, err := os.Stat(name); err != nil {
		tb.Skipf("no mk to compare with, 9base's or $MKPEER: %v", err)
	}
	out, _ := exec.Command(name, "-v", "-f", os.DevNull).CombinedOutput()
	if !bytes.HasPrefix(out, []byte("Usage: mk ")) { // the real one does not know -v
		tb.Skipf("%s is our own", name)
	}
	return name
}

// 9base's mk does the same in every case that does not say otherwise.
func TestPeer(t *testing.T) {
	mk := peer(t)
	forEachCase(t, func(t *testing.T, name string) {
		c := readCase(t, name)
		if c.peer == "differs" {
			t.Skip("the peer differs here, see the case")
		}
		dir := c.dir(t)
		cmd := exec.Command(mk, c.args...)
		cmd.Dir = dir
		cmd.Env = c.environ()
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		theirs := result(dir, &stdout, &stderr, err)
		switch c.peer {
		case "counts":
			theirs["stderr"] = lineBefore(theirs["stderr"])
		case "succeeds":
			theirs["exit"] = "1\n"
		}
		ours := c.run(t)
		for _, r := range results[1:] {
			if ours[r] != theirs[r] {
				t.Errorf("%s: ours\n%s\ntheirs\n%s", r, ours[r], theirs[r])
			}
		}
	})
}
