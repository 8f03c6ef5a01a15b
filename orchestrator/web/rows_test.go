package web

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestSpans(t *testing.T) {
	for text, want := range map[string]string{
		"plain":                            "[{ plain}]",
		"a\x1b[31mred\x1b[0m b":            "[{ a} {f1 red} {  b}]",
		"\x1b[1;32;44mx\x1b[mp":            "[{f2 b4 bold x} { p}]",
		"\x1b[38;5;196mx\x1b[39my":         "[{f9 x} { y}]",
		"\x1b[38;2;0;0;255mx":              "[{f12 x}]",
		"\x1b[38:5:2mx":                    "[{f2 x}]",
		"\x1b[7mx\x1b[27my":                "[{inv x} { y}]",
		"a\x1b]0;title\x07b":               "[{ ab}]",
		"a\x1b]8;;http://evil\x1b\\b":      "[{ ab}]",
		"a\x1b]no end":                     "[{ a}]",
		"a\x1b[2Jb\x1b[1;1Hc":              "[{ abc}]",
		"a\x1bPq...\x1b\\b\x1b(Bc\x1bcd":   "[{ abcd}]",
		"a\u009b31mb\u009d0;x\u009cc":      "[{ a} {f1 bc}]",
		"10%\r50%\r100%\r":                 "[{ 100%}]",
		"a\x00\x08\x7fb\tc":                "[{ ab\tc}]",
		"if \u202e evil \u2066":            "[{ if \ufffd evil \ufffd}]",
		"\xff\xfe":                         "[{ \ufffd\ufffd}]",
		"\x1b[?25lx\x1b[>4;2my":            "[{ xy}]",
		"\x1b[99999999999999999999999999m": "[]",
		"\x1b[38;5mx\x1b[48mx\x1b[38;9my":  "[{f0 xx} { y}]",
		"":                                 "[]",
		"\x1b":                             "[]",
		"x\x1b[3":                          "[{ x}]",
		"x\x1b\x1b[31my":                   "[{ x} {f1 y}]",
	} {
		if got := fmt.Sprint(spans(text)); got != want {
			t.Errorf("spans(%q) = %s, want %s", text, got, want)
		}
	}
	long := spans(strings.Repeat("x", 10000))
	if len(long) != 2 || len(long[0].Text) != maxShown || long[1].Text != " … 5904 more bytes" {
		t.Errorf("a long line: %.200v", long)
	}
	if n := len(spans(strings.Repeat("\x1b[31mx\x1b[0my", 4000))); n > maxSpans+2 {
		t.Errorf("%d spans", n)
	}
}

func FuzzSpans(f *testing.F) {
	f.Add("a\x1b[31mred\x1b]0;t\x07\u009b1m\xc2")
	f.Fuzz(func(t *testing.T, s string) {
		n := 0
		for _, x := range spans(s) {
			n += len(x.Text)
			if !utf8.ValidString(x.Text) || strings.ContainsFunc(x.Text, func(r rune) bool { return r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }) {
				t.Fatalf("spans(%q) has %q", s, x.Text)
			}
			if strings.Trim(x.Class, "abcdefgiklmnorstuv 0123456789") != "" {
				t.Fatalf("the class %q", x.Class)
			}
		}
		if n > maxShown+40 {
			t.Fatalf("%d bytes", n)
		}
	})
}
