package mk_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The benchmarks run our mk beside 9base's, GNU make and ninja, those that
// there are, on the same files. Each is a whole process; MB is the memory it
// needed at most, where that is more than this one's; p50-ns is the median of
// the times whose mean is ns/op, which what else the machine does moves less.

// built is our mk, made once, and copied as mk install does: like the peers it
// then is in the page cache in one piece, and not as the linker has left it.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "mk")
	if err != nil {
		return "", err
	}
	linked := filepath.Join(dir, "linked")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", linked, "9ci/cmd/mk")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %s", err, out)
	}
	name := filepath.Join(dir, "mk")
	if out, err := exec.Command("cp", linked, name).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %s", err, out)
	}
	return name, os.Remove(linked)
})

// A tool is a command that makes the files of a directory.
type tool struct {
	name string
	path string
	args []string
}

func tools(b *testing.B) []tool {
	ours, err := built()
	if err != nil {
		b.Fatal(err)
	}
	list := []tool{{"mk", ours, nil}}
	theirs := os.Getenv("MKPEER")
	if theirs == "" {
		theirs = "/usr/lib/plan9/bin/mk"
	}
	// The real one does not know -v.
	if out, _ := exec.Command(theirs, "-v", "-f", os.DevNull).CombinedOutput(); bytes.HasPrefix(out, []byte("Usage: mk ")) {
		list = append(list, tool{"9base", theirs, nil})
	}
	if path, err := exec.LookPath("make"); err == nil {
		list = append(list, tool{"make", path, []string{"-rR"}})
	}
	if path, err := exec.LookPath("ninja"); err == nil {
		list = append(list, tool{"ninja", path, nil})
	}
	return list
}

// run runs the tool b.N times in dir. Before is called before each.
func (tl tool) run(b *testing.B, dir string, before func(), args ...string) {
	b.Helper()
	var most int64
	var took []time.Duration
	ours := rss(b)
	for b.Loop() {
		if before != nil {
			b.StopTimer()
			before()
			b.StartTimer()
		}
		t, kib := tl.once(b, dir, args...)
		took = append(took, t)
		most = max(most, kib)
	}
	b.ReportMetric(median(took), "p50-ns")
	if most > max(ours, rss(b)) { // else it is ours, that of before exec(2)
		b.ReportMetric(float64(most)/1024, "MB")
	}
}

// once runs the tool, and returns what it took: time, and memory in KiB.
func (tl tool) once(b *testing.B, dir string, args ...string) (time.Duration, int64) {
	cmd := exec.Command(tl.path, append(tl.args[:len(tl.args):len(tl.args)], args...)...)
	cmd.Dir = dir
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%.500s", tl.name, err, out)
	}
	return time.Since(start), cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
}

// median returns the median of times in nanoseconds.
func median(times []time.Duration) float64 {
	slices.Sort(times)
	return float64(times[len(times)/2])
}

// rss is the most memory this process has needed, in KiB.
func rss(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Maxrss
}

// project is a directory with rules in the languages of all tools.
type project struct {
	dir             string
	mk, make, ninja strings.Builder
}

func newProject(b *testing.B) *project {
	p := &project{dir: b.TempDir()}
	// A generator's outputs are judged by their times alone, as by mk.
	p.ninja.WriteString("rule sh\n  command = $cmd\n  generator = 1\n")
	return p
}

// rule adds a rule for all tools. Without a recipe it is only a name.
func (p *project) rule(target, prereqs, recipe string, virtual bool) {
	attr := ""
	if virtual {
		attr = "V:"
		fmt.Fprintf(&p.make, ".PHONY: %s\n", target)
	}
	fmt.Fprintf(&p.mk, "%s:%s %s\n", target, attr, prereqs)
	fmt.Fprintf(&p.make, "%s: %s\n", target, prereqs)
	if recipe == "" {
		fmt.Fprintf(&p.ninja, "build %s: phony %s\n", target, prereqs)
		return
	}
	fmt.Fprintf(&p.mk, "\t%s\n", recipe)
	fmt.Fprintf(&p.make, "\t%s\n", recipe)
	fmt.Fprintf(&p.ninja, "build %s: sh %s\n  cmd = %s\n", target, prereqs, recipe)
}

// file adds a file that was modified so many seconds after the epoch.
func (p *project) file(b *testing.B, name string, seconds int) {
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		b.Fatal(err)
	}
	t := time.Unix(epoch+int64(seconds), 0)
	os.Chtimes(path, t, t)
}

func (p *project) write(b *testing.B) {
	for name, text := range map[string]*strings.Builder{"mkfile": &p.mk, "Makefile": &p.make, "build.ninja": &p.ninja} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text.String()), 0o666); err != nil {
			b.Fatal(err)
		}
	}
}

// A build in which nothing is to be done, of flat graphs and of a chain.
func BenchmarkNull(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint("flat", n), func(b *testing.B) {
			p := newProject(b)
			p.rule("all", strings.Join(names("t", n), " "), "true", false)
			for i := range n {
				s, t := fmt.Sprint("s", i), fmt.Sprint("t", i)
				p.file(b, s, 0)
				p.file(b, t, 10)
				p.rule(t, s, "touch "+t, false)
			}
			p.file(b, "all", 20)
			p.null(b, n <= 10_000 || os.Getenv("MKSLOW") != "") // else minutes
		})
	}
	b.Run("chain10000", func(b *testing.B) {
		p := newProject(b)
		const n = 10_000
		for i := range n {
			c := fmt.Sprint("c", i)
			p.rule(c, fmt.Sprint("c", i+1), "touch "+c, false)
			p.file(b, c, 2*(n-i))
		}
		p.file(b, fmt.Sprint("c", n), 0)
		p.null(b, false) // it crashes
	})
}

// null times the tools, 9base's mk only where it can.
func (p *project) null(b *testing.B, with9base bool) {
	p.write(b)
	for _, tl := range tools(b) {
		if tl.name != "9base" || with9base {
			b.Run(tl.name, func(b *testing.B) { tl.run(b, p.dir, nil) })
		}
	}
}

// Start to end of one recipe. Mk should need no more than 1.5 of 9base's time.
func BenchmarkStart(b *testing.B) {
	p := newProject(b)
	p.rule("all", "", ": do nothing", true)
	p.write(b)
	all := tools(b)
	for _, tl := range all {
		b.Run(tl.name, func(b *testing.B) { tl.run(b, p.dir, nil) })
	}
	p.inTurn(b, all)
}

// inTurn runs mk and 9base's in turn, so that both see the same machine, and
// reports how many of its times ours takes.
func (p *project) inTurn(b *testing.B, all []tool, args ...string) {
	if len(all) < 2 || all[1].name != "9base" {
		return
	}
	b.Run("inturn", func(b *testing.B) {
		var ours, theirs []time.Duration
		for b.Loop() {
			t, _ := all[0].once(b, p.dir, args...)
			ours = append(ours, t)
			t, _ = all[1].once(b, p.dir, args...)
			theirs = append(theirs, t)
		}
		b.ReportMetric(median(ours)/median(theirs), "ratio")
	})
}

// Each of 4000 names is tried with 30 regular-expression rules, the last of
// which makes it. With each kind of them, mk should need no more time than 9base's.
func BenchmarkRegexp(b *testing.B) {
	for _, c := range []struct{ name, pattern string }{
		{"anchored", `^(.*)_%d\.o$`},
		{"suffix", `(.*)_%d\.o`},
		{"class", `([a-z]+[0-9]+)_%d\.(o|a)$`},
	} {
		b.Run(c.name, func(b *testing.B) {
			p := newProject(b)
			const n, rules = 4000, 30
			for i := range rules {
				fmt.Fprintf(&p.mk, "'"+c.pattern+"':R: '\\1.c'\n\techo $target\n", i)
			}
			targets := make([]string, n)
			for i := range n {
				targets[i] = fmt.Sprintf("target%d_%d.o", i, rules-1)
			}
			fmt.Fprintf(&p.mk, "all:V: %s\n'^target[0-9]+\\.c$':RV:\n\ttrue\n'^target$':RV:\n\ttrue\n", strings.Join(targets, " "))
			p.write(b)
			all := tools(b)[:1]
			if more := tools(b); len(more) > 1 && more[1].name == "9base" {
				all = more[:2]
			}
			for _, tl := range all {
				b.Run(tl.name, func(b *testing.B) { tl.run(b, p.dir, nil, "-n", "all") })
			}
			p.inTurn(b, all, "-n", "all")
		})
	}
}

// Ten thousand recipes that a shell has to run, two at a time.
func BenchmarkJobs(b *testing.B) {
	p := newProject(b)
	const n = 10_000
	p.rule("all", strings.Join(names("j", n), " "), "", true)
	for i := range n {
		j := fmt.Sprint("j", i)
		p.rule(j, "", ": >"+j, false)
	}
	p.write(b)
	clean := func() {
		for i := range n {
			os.Remove(filepath.Join(p.dir, fmt.Sprint("j", i)))
		}
	}
	for _, tl := range tools(b) {
		b.Run(tl.name, func(b *testing.B) {
			switch tl.name {
			case "make", "ninja":
				tl.run(b, p.dir, clean, "-j2")
			default:
				tl.run(b, p.dir, clean, "NPROC=2")
			}
		})
	}
}
