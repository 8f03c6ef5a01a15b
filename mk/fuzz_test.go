package mk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/txtar"
)

// seeds adds the mkfiles of the test cases.
func seeds(f *testing.F) {
	names, _ := filepath.Glob("testdata/case/*.txt")
	for _, name := range names {
		a, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range a.Files {
			if file.Name == "mkfile" {
				f.Add(string(file.Data))
			}
		}
	}
}

// Whatever a mkfile has in it, it is read or refused, in time.
func FuzzParse(f *testing.F) {
	seeds(f)
	for _, s := range []string{"a=\\", "a:V:\\\r\nb", "`{'", "MKSHELL=rc\na='b''", "MKSHELL=rc\nb\\", "x:\xff", "a\x00b:c", "${", "$", "a:P:", "a:R:", "((*:R:", "A=${X:&=%}", "#\\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "/") {
			return // devices can be included
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "mkfile"), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		m, err := Parse(ctx, Config{Dir: dir, Env: []string{"X=a.c b.c", "E="}})
		if ctx.Err() != nil {
			t.Fatal("took too long")
		}
		m.Rules()
		m.Vars()
		m.HasRule("a.o")
		if err == nil && !hasPrograms(m) {
			m.Plan(ctx)
		}
	})
}

// hasPrograms tells whether a plan would run something: programs of P.
func hasPrograms(m *Mkfile) bool {
	for _, r := range m.Rules() {
		if r.Prog != "" {
			return true
		}
	}
	return false
}

// The expansion of a line ends, and words hold neither blanks that were not
// quoted nor, twice, what was in the variable.
func FuzzWords(f *testing.F) {
	for _, s := range []string{"a $X b", "${X:%.c=%.o}", "x$X$Y.z", "'a b'\"c\"\\d", "${X:a% b%=(%) c}", "${", "$", "'", "${Y", "${X:", "a\nb", "''", "${X:'=%}", "\xff$X\xff"} {
		f.Add(s, "a.c b.c", false)
		f.Add(s, "", true)
	}
	f.Fuzz(func(t *testing.T, s, x string, rc bool) {
		out, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		name := "sh"
		if rc {
			name = "rc"
		}
		m := &Mkfile{vars: make(map[string]*variable)}
		m.set(m.lookup("X"), strings.Fields(x))
		m.set(m.lookup("Y"), []string{x})
		p := &parser{Mkfile: m, out: newOutput(out, out), shell: newShell([]string{name})}
		p.cfg.Exec = true
		defer catch(&err)
		words := p.words(s)
		if len(words) == 0 {
			t.Errorf("words(%q) = none", s)
		}
		if !strings.ContainsAny(s, "$'\"\\") {
			for _, w := range words {
				if strings.ContainsAny(w, " \t\n") {
					t.Errorf("words(%q) has %q", s, w)
				}
			}
		}
	})
}

// Our matcher agrees with package regexp on what matches, where both know the
// expression, and always ends. The automaton agrees with the matcher on all.
func FuzzRegexp(f *testing.F) {
	for _, s := range []string{"a", "(a|b)*c", "[a-c]+", "(.*)/(.*)\\.o", "^a$", "(a*)*b", "a?b+|c", "[^a]", "(", "*", "[]", "((a))"} {
		f.Add(s, "abc/d.o")
	}
	// What regexp reads differently, and loops of loops, for which there may
	// not be enough threads.
	other := regexp.MustCompile(`[{}\\\n]|\[.*\[|\[\^?\]|\(\?|[*+?][*+?]|\)[*+]|\[\^?-|-.*-|[^\x00-\x7f]`)
	f.Fuzz(func(t *testing.T, expr, name string) {
		if len(expr) > 40 || len(name) > 40 || strings.ContainsRune(name, '\n') || strings.ContainsRune(expr+name, 0) {
			return
		}
		re, err := compile(expr)
		if err != nil {
			return
		}
		got := re.match(name)
		a := newAutomaton(re)
		for i := range 2 { // what it does not know, then what it remembers
			if may := a.mayMatch(name); may != (got != nil) && isASCII(name) || !may && got != nil {
				t.Errorf("%q may match %q: %v, want %v (time %d)", expr, name, may, got != nil, i+1)
			}
			for n := range len(name) {
				if a.mayMatch(name[n:]) == (re.match(name[n:]) == nil) && isASCII(name[n:]) {
					t.Errorf("%q may match %q: %v", expr, name[n:], a.mayMatch(name[n:]))
				}
			}
		}
		if other.MatchString(expr) || strings.ContainsAny(expr, "^$") && strings.ContainsAny(expr, "*+?") {
			return
		}
		std, err := regexp.Compile(expr)
		if err != nil {
			return
		}
		std.Longest()
		want := std.FindStringIndex(name)
		if (got == nil) != (want == nil) || want != nil && (got[0] != want[0] || got[1] != want[1]) {
			t.Errorf("%q in %q: %v, want %v", expr, name, got, want)
		}
	})
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// An expression with more states than an automaton keeps matches all the same, and
// one with more threads than the real matcher has room for is taken for a match.
func TestAutomatonLimits(t *testing.T) {
	re, err := compile("a" + strings.Repeat("(a|b)", 12) + "$")
	if err != nil {
		t.Fatal(err)
	}
	a := newAutomaton(re)
	for i := range 1 << 13 {
		name := strings.NewReplacer("0", "a", "1", "b").Replace(fmt.Sprintf("%013b", i))
		if may := a.mayMatch(name); !may && re.match(name) != nil {
			t.Fatalf("mayMatch(%q) = false, and it matches", name)
		}
	}
	if len(a.states) != maxStates {
		t.Errorf("%d states, want the limit of %d", len(a.states), maxStates)
	}
	if re, err = compile(strings.Repeat("(a*)*", 40) + "b"); err != nil {
		t.Fatal(err)
	}
	if got, may := re.match("aaac"), newAutomaton(re).mayMatch("aaac"); may != (got != nil) {
		t.Errorf("mayMatch = %v, match = %v", may, got)
	}
}
