package mk_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"9ci/mk"
)

// Rules, assignments and errors say on which line they begin.
func TestLines(t *testing.T) {
	const text = `# a comment

A=1
B=2 \
3 # and more \
4
C='a
b'
# this joins \
E=1
<inc
\
one: A \
	B
	echo one
# of the recipe
	echo

two three:V: # comment
D=` + "`{echo x\\\ny}" + `
%.o: %.c
	cc
`
	dir := t.TempDir()
	for name, text := range map[string]string{"mkfile": text, "inc": "\nI=1\n\ninc:V:\n\techo\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	m, err := mk.Parse(t.Context(), mk.Config{Dir: dir, Exec: true, Env: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range m.Vars() {
		if v.File != "" {
			got = append(got, fmt.Sprintf("%s %s:%d", v.Name, v.File, v.Line))
		}
	}
	for _, r := range m.Rules() {
		got = append(got, fmt.Sprintf("%s %s:%d", r.Target, r.File, r.Line))
	}
	want := "A mkfile:3, B mkfile:4, C mkfile:7, D mkfile:20, E mkfile:10, I inc:2, " +
		"inc inc:4, one mkfile:13, two mkfile:19, three mkfile:19, %.o mkfile:22"
	if got := strings.Join(got, ", "); got != want {
		t.Errorf("lines:\n%s\nwant\n%s", got, want)
	}
	for _, c := range []struct {
		line int
		text string
	}{
		{1, "what"},
		{3, "\n# c\nwhat"},
		{4, "# joins \\\n\\\n\\\nwhat\n"},
		{2, "A=1\nB \\\nC\\\n=2\n"},
		{2, "A=1\n=2\n"},
		{3, "a:\n\techo\nb:X: c\n"},
		{4, "a:\n\techo\n# recipe\nb:PQ\n"},
		{2, "A=1\n<\nB=1\n"},
		{2, "A=1\n<|\n"},
		{4, "a:V: \\\n\tb\n\techo\n'(':R: \\\nx\n\techo\n"},
		{3, "A=1\nB=\\\n'x\ny\n"}, // the quote's line
		{2, "\nB=`{x\n"},
		{3, "\n\n<|exit 1\n"},
	} {
		_, _, _, err := try(t, t.Context(), c.text)
		var e *mk.SyntaxError
		if !errors.As(err, &e) || e.File != "mkfile" || e.Line != c.line {
			t.Errorf("Parse(%q) = %v, want an error in line %d", c.text, err, c.line)
		}
	}
}

// The bytes of a recipe reach its shell, and those of names and variables
// everything, as they are.
func TestBytes(t *testing.T) {
	for _, recipe := range []string{
		"cat <<'E'\ncaf\xe9 \xff\xfe \xe2\x82 \xf0\n\r\rE\nE\n",
		"cat <<'E'\n" + strings.Repeat("\xe2\x82\xac", 100_000) + "\nE\n",
		"cat <<'E'\nend\r\n\\ \t \nE\n",
		"printf '\xe2\x82'", // the file ends within a rune
		"cat <<'E'\na\x00b\nE\n",
	} {
		text := "MKSHELL=cat\nall:VQE:\n\t" + strings.ReplaceAll(recipe, "\n", "\n\t")
		text = strings.TrimSuffix(text, "\t")
		if _, stdout, stderr, err := try(t, t.Context(), text); err != nil || stdout != recipe {
			t.Errorf("recipe %.60q came out as %.60q: %v, %q", recipe, stdout, err, stderr)
		}
	}
	dir, stdout, stderr, err := try(t, t.Context(), "X=caf\xe9\nY=`{printf 'a\xff'}\n$X$Y:Q:\n\ttouch \"$target\"; echo \"$X $target\"\n")
	if want := "caf\xe9 caf\xe9a\xff\n"; err != nil || stdout != want {
		t.Errorf("stdout %q, want %q: %v, %q", stdout, want, err, stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "caf\xe9a\xff")); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"a\x00b:\n", "A=1\nX=`{printf '\\000'}\n", "X='\x00'\n", "A\x00"} {
		_, _, stderr, err := try(t, t.Context(), text)
		if err == nil || !strings.Contains(stderr, "syntax error; NUL byte") {
			t.Errorf("Parse(%q) = %v, stderr %q, want NUL byte", text, err, stderr)
		}
	}
}
