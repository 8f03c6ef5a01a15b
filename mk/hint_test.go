package mk_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"9ci/mk"
)

// hinted runs a mkfile and returns what mk said on its standard error output.
func hinted(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mkfile"), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	m, err := mk.Parse(t.Context(), mk.Config{Dir: dir, Env: []string{"PATH=" + os.Getenv("PATH")}, Exec: true, Keep: true, Stderr: &stderr})
	if err == nil {
		m.Run(t.Context())
	}
	return stderr.String()
}

// What is make's is called so, once, where mk fails.
func TestHint(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"CC := gcc\n", "syntax error; unknown attribute '=' (':=' is make's: write NAME=value)\n"},
		{"CC:=gcc\nexport X := y\n", "(':=' is make's: write NAME=value)\n"},
		{"export X := y\n", "(':=' is make's: write NAME=value)\n"},
		{"CC ::= gcc\nall: CC\n", "don't know how to make '=' in "},
		{"CC ::= gcc\nall: CC\n", "(':=' is make's: write NAME=value)\n"},
		{"CC ?= gcc\n", "multiple vars on left side of assignment ('?=' is make's: write NAME=`echo ${NAME:-value}`)\n"},
		{"X += $(Y)\n", "('+=' is make's: write NAME=$NAME value)\n"},
		{"X != date\n", "('!=' is make's: write NAME=`{command})\n"},
		{"X+=y\nall:\n\tfalse\n", " (mkfile:1: '+=' is make's: write NAME=$NAME value)\n"},
		{"X?=y\nall: nosuch\n", " (mkfile:1: '?=' is make's: write NAME=`echo ${NAME:-value}`)\n"},
		{"OBJ=$(SRC)\n", "missing variable name <(SRC)> ('$(NAME)' is make's: write $NAME, or `{command} for a function)\n"},
		{"all: $(OBJ)\n\tcc -o $@ $^\n", "('$(NAME)' is make's"},
		{"include x.mk\n", "expected one of :<= ('include' is make's: write <FILE)\n"},
		{"-include $(X).mk\n", "('-include' is make's: write <FILE)\n"},
		{"ifeq ($(A),b)\nX=1\nendif\n", "('ifeq' is make's: write <|COMMAND to include what a command prints)\n"},
		{"ifdef A\nendif\n", "('ifdef' is make's: "},
		{"export A=1\n", "('export' is make's: write NAME=value, which is exported)\n"},
		{"export A\n", "('export' is make's: "},
		{"define A =\nx\nendef\n", "('define' is make's: "},
		{".PHONY: all\nall:\n\ttrue\n", "no recipe to make '.PHONY' ('.PHONY' is make's: write TARGET:V: for a target that is no file)\n"},
		{"all: x\n.PHONY: all\nx:V:\n\ttrue\n", "no recipe to make 'all' ('.PHONY' is make's: "},
		{".SUFFIXES: .o .c\n", "('.SUFFIXES' is make's: "},
		{"all:\n\tcat $< >/dev/null\n", "('$<' is make's: write $prereq)\n"},
		{"all:\n\tcat \"$^\"\n", "('$^' is make's: write $prereq)\n"},
		{"all:\n\ttouch $@\n", "('$@' is make's: write $target)\n"},
		{"all:D:\n\ttouch $@\n", "('$@' is make's: write $target), deleting 'all'"},
		{"all:\n\t@echo hi\n", "('@' is make's: write TARGET:Q:)\n"},
		{"NOSUCH=x\nall:\n\t$(NOSUCH) -c x\n", "('$(NOSUCH)' is make's: write $NOSUCH)\n"},
		{"all:V: x\r\n\ttrue\r\n\r\nx:V:\r\n\tnosuch\r\n\ttrue\r\n", "(the lines of the recipe end with carriage returns: remove them)\n"},
	} {
		got := hinted(t, c.text)
		if !strings.Contains(got, c.want) || strings.Count(got, "make's")+strings.Count(got, "carriage") != 1 {
			t.Errorf("%q: mk said\n%swant %q in it, and one hint", c.text, got, c.want)
		}
	}
}

// A mkfile that is right, or wrong in another way, gets no hint.
func TestNoHint(t *testing.T) {
	for _, text := range []string{
		"CFLAGS=-DX=1\n",
		"X Y=1\n",
		"nothing\n",
		"A=$.\nall:\n\tfalse\n",
		"include:V: a\n\tfalse\n",
		"export = $.\n",
		"export:Z: a\n",
		"a:Z: b\n",
		"ifdef:V:\n\tfalse\nX='missing\n",
		"all:V:\n\tset -- a b; for i in \"$@\"; do false; done\n",
		"all:V:\n\tset a b\n\techo $@; false\n",
		"all:V:\n\tf() { false \"$@\"; }\n\tf a\n",
		"all:V:\n\tsh -c 'echo \"$@\"; false' x y\n",
		"all:V:\n\tawk '/x$^/ { print $< }' /nosuch\n",
		"all:V:\n\t# $@ and $< and $^ are make's\n\tfalse\n",
		"all:V:\n\techo \\$@; false\n",
		"all:V:\n\tsh -c 'cat; exit 1' <<E\n\t$<\n\tE\n",
		"pwd=x\nall:V:\n\tcd $(pwd); false\n",
		"all:V:\n\techo $(false) $((1+1)); false\n",
		"all:V:\n\tprintf 'a\r\n'; false\n",
		"MKSHELL=rc\nall:V: a\n",
	} {
		if got := hinted(t, text); strings.Contains(got, "make's") || strings.Contains(got, "carriage") || got == "" {
			t.Errorf("%q: mk said\n%s", text, got)
		}
	}
}
