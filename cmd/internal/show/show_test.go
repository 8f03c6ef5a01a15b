package show

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// terminal returns standard output and error on one terminal, and what comes
// out there.
func terminal() (out, err *Writer, text *bytes.Buffer) {
	text = new(bytes.Buffer)
	s := new(surface)
	columns := func() int { return 80 }
	return &Writer{file: text, tty: true, columns: columns, surface: s}, &Writer{file: text, tty: true, columns: columns, surface: s}, text
}

func TestContent(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"plain\ttext\r\n\u00e9\u4e16 \u05d0\u200f\U0001f600", "plain\ttext\r\n\u00e9\u4e16 \u05d0\u200f\U0001f600"},
		{"\x1b[1;31mred\x1b[0m \x1b[38:2:1:2:3mtrue\x1b[m", "\x1b[1;31mred\x1b[0m \x1b[38:2:1:2:3mtrue\x1b[m"},
		{"a\x1b[2J\x1b[10;10Hb\x1b[?25lc\x1b[>4;2md\x1b[6n\x1b[?1m\x1b[ m", "abcd"},
		{"a\x1b]0;title\x07b\x1b]52;c;ZXZpbA==\x1b\\c", "abc"},
		{"a\x1bPq#0\x1b[31m\x1b\\b\x1bcc\x1b(0d\x1b#8e\x1b7f\x1b^x\x1b\\g\x1b_x\u009ch", "abcdefgh"},
		{"a\a\x00\x05\x7f\v\f\x0e\x0fb", "ab"},
		{"a\x1b[31", "a"},
		{"a\x1b[" + strings.Repeat("1;", 40) + "mb", "ab"},

		// A control ends a sequence, and no text is lost with it.
		{"a\x1b[31\nb\x1b\nc\x1b(\nd\x1b[\u4e16", "a\nb\nc\nd\u4e16"},
		{"a\x1b[3\x1b[31mb\x1b\x1b[mc", "a\x1b[31mb\x1b[mc"},
		{"a\x1b]0;no end\nb\x1bPq\x18c\x1bPq\x1b\x1b\\d", "a\nbcd"},

		// C1, as characters and as bytes that are not UTF-8.
		{"a\u009b2Jb\u009b31mc\u009d52;c;ZXZpbA==\ad\u0090q\u009ce\u0085\u0080\u008cf\u009cg\u009fh", "abcdefg"},
		{"a\x9b2Jb\x9d0;t\x07\x84\xc2", "a\ufffd2Jb\ufffd0;t\ufffd\ufffd"},
		{"caf\xe9 \xc2\x07\x9b2J \xc0\x9b \xe0\x82\x9b \xed\xa0\x80", "caf\ufffd \ufffd\ufffd2J \ufffd\ufffd \ufffd\ufffd\ufffd \ufffd\ufffd\ufffd"},
	} {
		for size := 1; size <= len(tt.in); size++ {
			out, _, text := terminal()
			for in := []byte(tt.in); len(in) > 0; {
				n := min(size, len(in))
				if m, err := out.Write(in[:n]); m != n || err != nil {
					t.Fatalf("Write = %d, %v, want %d, nil", m, err, n)
				}
				in = in[n:]
			}
			if got := text.String() + string(out.filter.end(nil)); got != tt.want {
				t.Errorf("%q in writes of %d came out as %q, want %q", tt.in, size, got, tt.want)
			}
		}
	}
}

// Words begin a line, in the terminal's own colours, whatever content did.
func TestWords(t *testing.T) {
	out, err, text := terminal()
	fmt.Fprint(out, "\x1b[8mhidden")
	err.Printf("9ci: %s\n", "a\x1b[2J\r\u009b\xff\u202eb\tc\nd'\"\\")
	fmt.Fprint(out, "\x1b[")
	err.Printf("%s %v\n", "again\n", errors.New("e\nf"))
	fmt.Fprint(out, "31mred\x1b[0;0m\n")
	err.Printf("last\n")
	want := "\x1b[8mhidden\x1b[m\n9ci: a\\x1b[2J\\r\\u009b\\xff\\u202eb\tc\\nd'\"\\\nagain\\n e\\nf\n\x1b[31mred\x1b[0;0m\nlast\n"
	if text.String() != want {
		t.Errorf("the terminal got %q, want %q", text, want)
	}

	// What is no terminal gets what is written, and words begin a line there too.
	var file bytes.Buffer
	w := &Writer{file: &file, surface: new(surface)}
	in := "\x1b[2J\u009b\xff\a"
	fmt.Fprint(w, in)
	w.Printf("%s", in)
	fmt.Fprint(w.Words(), w.Name(in))
	if want := in + "\n" + in + in; file.String() != want {
		t.Errorf("the file got %q, want %q", &file, want)
	}
}

func TestName(t *testing.T) {
	out, _, _ := terminal()
	for name, want := range map[string]string{
		"mkfile": "mkfile", "\u4e16\u00e9": "\u4e16\u00e9", "-rf": "-rf", "it's": "it's",
		"": `""`, "a b": `"a b"`, `a\nb`: `"a\\nb"`, "a\nb": `"a\nb"`, `"a"`: `"\"a\""`,
		"a\x1b[31mb": `"a\x1b[31mb"`, "a\xffb": `"a\xffb"`, "a\u202etxt.exe": `"a\u202etxt.exe"`, "\ufffd": "\ufffd",
	} {
		if got := out.Name(name); got != want {
			t.Errorf("Name(%q) = %s, want %s", name, got, want)
		}
	}
}

// Close tells of the first write that failed, by whichever way, also if later ones
// did not.
func TestCloseTells(t *testing.T) {
	o, e := Out, Err
	defer func() { Out, Err = o, e }()
	no := errors.New("the disk is full")
	for name, print := range map[string]func(w *Writer){
		"content": func(w *Writer) { w.Write([]byte("x")) },
		"raw":     func(w *Writer) { w.Raw().Write([]byte("x")) },
		"words":   func(w *Writer) { w.Printf("x") },
	} {
		for _, tty := range []bool{false, true} {
			full := failing{no}
			Out = &Writer{file: &output{f: &full}, tty: tty, surface: new(surface)}
			Err = &Writer{file: &output{f: new(bytes.Buffer)}, tty: tty, surface: new(surface)}
			if err := Close(); err != nil {
				t.Errorf("Close before %s = %v", name, err)
			}
			print(Out)
			full.err = nil
			print(Out)
			print(Err)
			if err := Close(); err != no {
				t.Errorf("Close after %s = %v, want %v", name, err, no)
			}
		}
	}
}

type failing struct{ err error }

func (f *failing) Write(p []byte) (int, error) { return len(p), f.err }

// A message stands alone at the margin, and Close ends what content began.
func TestMessage(t *testing.T) {
	o, e, s := Out, Err, &screen
	defer func() { Out, Err = o, e; s.inLine, s.inked = false, nil }()
	text := new(bytes.Buffer)
	Out, Err = &Writer{file: text, tty: true, surface: s}, &Writer{file: text, tty: true, surface: s}
	Message("9ci", "no\nreplayed from home\r\n\n")
	fmt.Fprint(Out, "\x1b[31m\xe4\xb8")
	Close()
	Close()
	want := "9ci: no\n\treplayed from home\\r\n\x1b[31m\ufffd\ufffd\x1b[m"
	if text.String() != want {
		t.Errorf("the terminal got %q, want %q", text, want)
	}
}

var (
	sgr     = regexp.MustCompile("\x1b\\[[0-9:;]*m")
	control = regexp.MustCompile("[\x00-\x07\x0b\x0c\x0e-\x1f\x7f\u0080-\u009f]")
)

// Whatever comes in, and however it is cut, a terminal gets text and SGR alone.
// Text comes out as it was.
func FuzzContent(f *testing.F) {
	for _, s := range []string{"\x1b[31m\u00e9\n", "\x1b]52;c;ZXZpbA==\x1b\\", "\u009b2J\x9b", "\x1bPq\x1b[0m\u009c", "\xe4\x1b[m\xb8\xad"} {
		f.Add([]byte(s), uint8(1))
	}
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		whole := new(filter)
		got := whole.append(nil, in)
		if text := sgr.ReplaceAll(got, nil); !utf8.Valid(text) || control.Match(text) {
			t.Errorf("%q came out as %q", in, got)
		}
		if again := new(filter).append(nil, got); !bytes.Equal(again, got) {
			t.Errorf("%q came out as %q, and that as %q", in, got, again)
		}
		got = whole.end(got)
		if !utf8.Valid(got) {
			t.Errorf("%q came out as %q", in, got)
		}
		if utf8.Valid(in) && !control.Match(in) && !bytes.Equal(got, in) {
			t.Errorf("the text %q came out as %q", in, got)
		}
		cut := new(filter)
		var out []byte
		for rest := in; len(rest) > 0; {
			n := min(int(size)+1, len(rest))
			out = cut.append(out, rest[:n])
			rest = rest[n:]
		}
		if out = cut.end(out); !bytes.Equal(out, got) {
			t.Errorf("%q cut in %d came out as %q, whole as %q", in, int(size)+1, out, got)
		}
		if words := appendWords(nil, in); !utf8.Valid(words) || bytes.ContainsAny(words, "\b\r") || control.Match(words) {
			t.Errorf("%q came out as the words %q", in, words)
		}
	})
}
