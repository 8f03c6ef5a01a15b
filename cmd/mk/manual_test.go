package main

import (
	"go/ast"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// manual returns the package's comment, as text and parsed.
func manual(t *testing.T) (string, *comment.Doc) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	text := (&ast.CommentGroup{List: f.Doc.List}).Text()
	return text, new(comment.Parser).Parse(text)
}

// code returns the blocks of code below a heading.
func code(doc *comment.Doc, heading string) (blocks []string) {
	in := false
	for _, b := range doc.Content {
		switch b := b.(type) {
		case *comment.Heading:
			in = len(b.Text) == 1 && b.Text[0] == comment.Plain(heading)
		case *comment.Code:
			if in {
				blocks = append(blocks, b.Text)
			}
		}
	}
	return blocks
}

// The manual and the usage list the flags that exist, in the same order, and no
// other.
func TestManual(t *testing.T) {
	text, _ := manual(t)
	help, err := mkCmd(t, t.TempDir(), "-h").Output()
	if err != nil {
		t.Error("mk -h:", err)
	}
	var want []string
	for _, f := range flags {
		want = append(want, f.name())
	}
	for where, text := range map[string]string{"doc.go": text, "mk -h": string(help)} {
		var got []string
		for _, m := range regexp.MustCompile(`(?m)^\t(-\w( \w+|\[\w+\])?)(?:\t|  |$)`).FindAllStringSubmatch(text, -1) {
			got = append(got, m[1])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s has flags %q, want %q", where, got, want)
		}
	}
}

// The manual lists the variables that recipes get from mk, those that mk reads, and no
// other.
func TestManualVariables(t *testing.T) {
	_, doc := manual(t)
	var got []string
	for _, block := range code(doc, "Variables") {
		for _, m := range regexp.MustCompile(`(?m)^(\w+)(-\w+)?\t`).FindAllStringSubmatch(block, -1) {
			if m[2] == "" {
				got = append(got, m[1])
				continue
			}
			for i := range 10 { // stem0-stem9
				got = append(got, strings.TrimSuffix(m[1], "0")+strconv.Itoa(i))
			}
		}
	}
	want := make(map[string]bool)
	out, err := mkCmd(t, writeMkfile(t, "all:VQ:\n\tenv\n")).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^(\w+)=`).FindAllStringSubmatch(string(out), -1) {
		if m[1] != "PATH" && m[1] != "PWD" && m[1] != "MK_TEST_MAIN" && m[1] != "_" && m[1] != "OLDPWD" && m[1] != "SHLVL" { // the test's and the shell's
			want[m[1]] = true
		}
	}
	sources, _ := filepath.Glob("../../mk/*.go")
	for _, name := range sources {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\.first\("(\w+)"\)`).FindAllStringSubmatch(string(src), -1) {
			want[m[1]] = true
		}
	}
	for _, name := range got {
		if !want[name] {
			t.Errorf("the manual has %s, which mk neither sets nor reads", name)
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("the manual lacks %s", name)
	}
}

// tools are what the manual's examples call, as scripts.
var tools = map[string]string{
	"cc": `
out=a.out
for a; do case $a in *.c) out=${a##*/}; out=${out%.c}.o;; esac; done
while [ $# -gt 0 ]; do
	case $1 in
	-o) out=$2; shift;;
	*.c|*.o) [ -e $1 ];;
	esac
	shift
done
>$out
`,
	"yacc": `
[ "$*" = "-d gram.y" ]
cp gram.y y.tab.c
grep %token gram.y >y.tab.h
`,
	"go": `
>$3
`,
}

// Every example of the manual does what the manual says. The steps of each are scripts
// for sh in its directory, with what they print.
func TestManualExamples(t *testing.T) {
	type step struct{ script, want string }
	const ( // what mk may find
		old   = "touch -d '-2 hours' *.*\n"
		newer = "touch -c -d '-1 hour' *.o *.tab.*\n"
		cmp   = "cmp -s x.tab.h y.tab.h || cp y.tab.h x.tab.h\n"
	)
	steps := [][]step{
		{ // a program
			{"touch main.c parse.c parse.h\n" + old + "mk", "cc -O2 -Wall -c main.c\ncc -O2 -Wall -c parse.c\ncc -o prog main.o parse.o\n"},
			{newer + "mk", "mk: 'prog' is up to date\n"},
			{"touch parse.c\nmk 'CFLAGS=-O0 -g'", "cc -O0 -g -c parse.c\ncc -o prog main.o parse.o\n"},
			{"mk clean; ls", "rm -f prog main.o parse.o\nmain.c\nmkfile\nparse.c\nparse.h\n"},
		},
		{ // a library
			{"touch abs.c div.c\n" + old + "mk", "cc -c abs.c\ncc -c div.c\nar r libm.a abs.o div.o\n"},
			{newer + "touch -d '+1 second' libm.a\nmk", "mk: 'libm.a' is up to date\n"},
			{"touch abs.c; mk abs.o; touch -d '+5 seconds' abs.o\nmk", "cc -c abs.c\nar r libm.a abs.o\n"},
		},
		{ // two files of one recipe
			{"touch lex.c; echo %token A >gram.y\n" + old + "mk", "yacc -d gram.y\n" + cmp + "cc -c lex.c\n"},
			{newer + "touch lex.o; echo rule >>gram.y\nmk", "yacc -d gram.y\n" + cmp},
			{old + newer + "touch lex.o; echo %token B >>gram.y\nmk", "yacc -d gram.y\n" + cmp + "cc -c lex.c\n"},
		},
		{ // a tree in another directory
			{"mkdir -p src/net; touch src/net/dial.c\nmk", "mkdir -p bin/net\ncc -c -o bin/net/dial.o src/net/dial.c\n"},
		},
		{ // tests
			{"echo echo a is fine >a_test.sh; echo 'echo b is not; exit 1' >b_test.sh\nmk -ko 2>errors | sort; grep -c exit.1 errors", "a is fine\na passed\nb is not\n1\n"},
		},
		{ // settings
			{"mk | sed s/`uname`/OS/g; ls -d prog* | wc -l", "go build -o prog-OS\n1\n"},
			{"mk GO=nosuchgo 2>&1 | grep -c 'nosuchgo: not found'; GO=go mk | grep -c '^go build'", "1\n1\n"},
		},
	}
	_, doc := manual(t)
	examples := code(doc, "Examples")
	if len(examples) != len(steps) {
		t.Fatalf("the manual has %d examples, want %d", len(examples), len(steps))
	}
	bin := t.TempDir()
	tools["mk"] = "MK_TEST_MAIN=1 exec " + os.Args[0] + " \"$@\"\n"
	for name, script := range tools {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh -e\n"+script), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for i, text := range examples {
		t.Run(strconv.Itoa(i+1), func(t *testing.T) {
			dir := writeMkfile(t, text)
			for _, s := range steps[i] {
				cmd := exec.Command("sh", "-c", s.script)
				cmd.Dir = dir
				cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "LC_ALL=C"}
				var stderr strings.Builder
				cmd.Stderr = &stderr
				if out, err := cmd.Output(); err != nil || string(out) != s.want {
					t.Errorf("%s\n%v, printed\n%swant\n%s%s", s.script, err, out, s.want, &stderr)
				}
			}
		})
	}
}
