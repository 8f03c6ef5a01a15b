package executor

import (
	"bytes"
	"strings"
	"testing"
)

// However the output is cut into writes, no secret gets through whole.
func TestMask(t *testing.T) {
	for _, tt := range []struct{ secrets, in, want string }{
		{"A=hunter2", "the password is hunter2, hunter", "the password is ***, hunter"},
		{"A=aab", "aaaaab", "aaa***"},
		{"A=ab B=abcd", "ab abc abcd abcde", "*** ***c *** ***e"},
		{"A=", "nothing", "nothing"},
		{"A=x", "xxx", "*********"},
	} {
		for size := 1; size <= len(tt.in); size++ {
			var out bytes.Buffer
			w := newMask(strings.Fields(tt.secrets)).writer(&out)
			for in := tt.in; in != ""; {
				n := min(size, len(in))
				w.Write([]byte(in[:n]))
				in = in[n:]
			}
			w.Flush()
			if out.String() != tt.want {
				t.Errorf("mask %s of %q in writes of %d = %q, want %q", tt.secrets, tt.in, size, out.String(), tt.want)
			}
		}
	}
}
