package mk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

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
	if dir, _, _, err := try(t, t.Context(), "\x7fELF\x00`{touch ran}"); err == nil {
		t.Error("a program is a mkfile")
	} else if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("what a program has between backquotes ran")
	}
	for _, text := range []string{"a\x00b:\n", "A=1\nX=`{printf '\\000'}\n", "X='\x00'\n", "A\x00"} {
		_, _, stderr, err := try(t, t.Context(), text)
		if err == nil || !strings.Contains(stderr, "syntax error; NUL byte") {
			t.Errorf("Parse(%q) = %v, stderr %q, want NUL byte", text, err, stderr)
		}
	}
}

// Whatever keeps Parse from reading a mkfile, its error and its message name the
// file.
func TestParseErrors(t *testing.T) {
	long := strings.Repeat("x", 65<<20)
	for _, c := range []struct {
		name, text, file string // the mkfile, and what the error begins with
		files            []string
		is               error
	}{
		{"missing", "", "open other: ", []string{"other"}, iofs.ErrNotExist},
		{"missing second", "A=1\n", "open other: ", []string{"mkfile", "other"}, iofs.ErrNotExist},
		{"directory", "", "read dir: ", []string{"dir"}, syscall.EISDIR},
		{"included directory", "<dir\n", "read dir: ", nil, syscall.EISDIR},
		{"loop", "", "open loop: ", []string{"loop"}, syscall.ELOOP},
		{"syntax", "a\n", "mkfile:1: ", nil, nil},
		{"quote", "\n'", "mkfile:2: ", nil, nil},
		{"quoted word", "MKSHELL=rc\nMKSHELL=sh\nX='a\nb\n", "mkfile:3: ", nil, nil},
		{"regular expression", "'(':R:\n", "mkfile:1: ", nil, nil},
		{"included", "<inc\n", "inc:2: ", nil, nil},
		{"no include name", "A=1\n<\n", "mkfile:2: ", nil, nil},
		{"command", "<|exit 3\n", "mkfile:1: ", nil, nil},
		{"output of a command", "<|echo a:Y:\n", "echo a:Y::1: ", nil, nil},
		{"long line", long, "mkfile:1: ", nil, nil},
		{"NUL", "\n\x00", "mkfile:2: ", nil, nil},
		{"command too long", "A=" + long[:1<<20] + "\nB=`{x}\n", "mkfile:2: ", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{"mkfile": c.text, "inc": "A=1\nb\n"} {
				os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666)
			}
			os.Mkdir(filepath.Join(dir, "dir"), 0o777)
			os.Symlink("loop", filepath.Join(dir, "loop"))
			var stderr bytes.Buffer
			_, err := mk.Parse(t.Context(), mk.Config{Dir: dir, Files: c.files, Exec: true, Stderr: &stderr})
			if err == nil || !strings.HasPrefix(err.Error(), c.file) || !errors.Is(err, c.is) && c.is != nil {
				t.Errorf("Parse = %.200v, want an error with %q that is %v", err, c.file, c.is)
			}
			if !strings.Contains(stderr.String(), c.file) && c.name != "command" {
				t.Errorf("stderr %.200q, want %q in it", &stderr, c.file)
			}
		})
	}
}

// The mkfile nobody asked for need not exist, but what is there must be a mkfile.
func TestParseDefault(t *testing.T) {
	dir := t.TempDir()
	if _, err := mk.Parse(t.Context(), mk.Config{Dir: dir}); err != nil {
		t.Errorf("Parse in an empty directory: %v", err)
	}
	if _, err := mk.Parse(t.Context(), mk.Config{Dir: dir, Files: []string{"mkfile"}}); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("Parse of a file that is not there: %v", err)
	}
	os.Mkdir(filepath.Join(dir, "mkfile"), 0o777)
	if _, err := mk.Parse(t.Context(), mk.Config{Dir: dir}); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("Parse of a directory: %v", err)
	}
}

// The first mkfile may come from a reader; its name is for messages only.
func TestSrc(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"mkfile": "not this", "inc": "A=inc\n", "second": "B=second\n"} {
		os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666)
	}
	for _, c := range []struct {
		files []string
		text  string
		want  string
	}{
		{nil, "<inc\nB=$A\n", "[inc] [inc]"},
		{[]string{}, "<inc\nB=$A\n", "[inc] [inc]"},
		{[]string{"git:HEAD", "second"}, "A=x\n", "[x] [second]"},
		{[]string{"git:HEAD"}, "", "[] []"},
		{nil, "\nA\n", "mkfile:2: syntax error; expected one of :<="},
		{[]string{"git:HEAD"}, "A\n", "git:HEAD:1: syntax error; expected one of :<="},
	} {
		m, err := mk.Parse(t.Context(), mk.Config{Dir: dir, Files: c.files, Src: iotest.OneByteReader(strings.NewReader(c.text)), Env: []string{}})
		a, _ := m.Var("A")
		b, _ := m.Var("B")
		got := fmt.Sprint(a, " ", b)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("Parse(%q) as %q: %s, want %s", c.text, c.files, got, c.want)
		}
	}
	broken := errors.New("broken")
	r := io.MultiReader(strings.NewReader("A=1\nB"), iotest.ErrReader(broken))
	m, err := mk.Parse(t.Context(), mk.Config{Dir: dir, Files: []string{"git:HEAD"}, Src: r})
	if !errors.Is(err, broken) || err.Error() != "read git:HEAD: broken" {
		t.Errorf("Parse of a broken reader: %v", err)
	}
	if a, _ := m.Var("A"); fmt.Sprint(a) != "[1]" {
		t.Errorf("A = %q, want what was read before", a)
	}
}
