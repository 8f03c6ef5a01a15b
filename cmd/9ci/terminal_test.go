package main

import (
	"bytes"
	"testing"
)

func TestSanitizer(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"plain\ttext\r\n\u00e9\u4e16", "plain\ttext\r\n\u00e9\u4e16"},
		{"\x1b[1;31mred\x1b[0m \x1b[38:2:1:2:3mtrue\x1b[m", "\x1b[1;31mred\x1b[0m \x1b[38:2:1:2:3mtrue\x1b[m"},
		{"a\x1b[2J\x1b[10;10Hb\x1b[?25lc\x1b[>4;2md\x1b[6n", "abcd"},
		{"a\x1b]0;title\x07b\x1b]52;c;ZXZpbA==\x1b\\c", "abc"},
		{"a\x1bPq#0\x1b[31m\x1b\\b\x1bcc\x1b(0d", "abcd"},
		{"a\a\x00\x05\x7fb", "ab"},
		{"a\x1b[31", "a"},
	} {
		for size := 1; size <= len(tt.in); size++ {
			var out bytes.Buffer
			s := &sanitizer{w: &out}
			for in := []byte(tt.in); len(in) > 0; {
				n := min(size, len(in))
				if m, err := s.Write(in[:n]); m != n || err != nil {
					t.Fatalf("Write = %d, %v, want %d, nil", m, err, n)
				}
				in = in[n:]
			}
			if out.String() != tt.want {
				t.Errorf("%q in writes of %d came out as %q, want %q", tt.in, size, out.String(), tt.want)
			}
		}
	}
}
