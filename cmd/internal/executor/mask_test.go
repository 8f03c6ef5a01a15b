package executor

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// masked writes in to a mask's writer in pieces of size bytes.
func masked(m *mask, in string, size int) string {
	var out bytes.Buffer
	w := m.writer(&out)
	for in != "" {
		n := min(size, len(in))
		io.WriteString(w, in[:n])
		in = in[n:]
	}
	w.Flush()
	return out.String()
}

// However the output is cut into writes, no secret gets through.
func TestMask(t *testing.T) {
	const pem = "-----BEGIN KEY-----\nMC4CAQAwBQYDK2Vw\nshort\n-----END KEY-----\n"
	long := strings.Repeat("0123456789abcdef", 10)
	wrapped := func(s, end string) string { // as base64(1) and openssl(1) do
		s = base64.StdEncoding.EncodeToString([]byte(s))
		var b strings.Builder
		for len(s) > 76 {
			b.WriteString(s[:76] + end)
			s = s[76:]
		}
		return b.String() + s + end
	}
	for _, tt := range []struct {
		secrets  []string
		in, want string
	}{
		{[]string{"A=hunter2hunter2"}, "the password is hunter2hunter2, hunter2", "the password is ***, hunter2"},
		// An output that was cut off ends in a part of a secret.
		{[]string{"A=hunter2hunter2"}, "hunter2hunter", "***"},
		{[]string{"A=hunter2hunter2"}, "hunter2hunter2, hunter2h", "***, ***"},
		{[]string{"A=hunter2hunter2"}, "hunter2h, aHVudGVyM", "hunter2h, ***"},
		{[]string{"A=hunter2hunter2hunter2"}, "hunter2hunter2hunter2hunter2h", "***"},
		{[]string{"A=aab"}, "aaaaab", "aaa***"},
		{[]string{"A=ab", "B=abcd"}, "ab abc abcd abcde", "*** ***c *** ***e"},
		{[]string{"A=", "B"}, "nothing", "nothing"},
		{[]string{"A=x"}, "xxx", "*********"},
		{[]string{"A=abab"}, "abababab ab", "*** ab"},
		{[]string{"A=abcdef", "B=cdefgh", "C=gh"}, "abcdefgh, cdefg, gh", "***, cdefg, ***"},
		{[]string{"A=a=b=c"}, "a=b=c", "***"},
		// Several lines: all of it, as a terminal has it, and any of them.
		{[]string{"A=" + pem}, "<" + pem + ">", "<***>"},
		{[]string{"A=" + pem}, strings.TrimSpace(pem) + "!", "***!"},
		{[]string{"A=" + pem}, strings.ReplaceAll(pem, "\n", "\r\n"), "***\r\n"},
		{[]string{"A=" + pem}, "+ MC4CAQAwBQYDK2Vw\n+ short\n", "+ ***\n+ short\n"},
		// base64: alone, with a newline, behind other bytes, before others, for URLs.
		{[]string{"A=hunter2hunter2"}, "aHVudGVyMmh1bnRlcjI= aHVudGVyMmh1bnRlcjIK", "*** ***"},
		{[]string{"A=hunter2hunter2"}, base64.StdEncoding.EncodeToString([]byte("xhunter2hunter2")), "eG***"},
		{[]string{"A=hunter2hunter2"}, base64.StdEncoding.EncodeToString([]byte("xyhunter2hunter2")), "eHl***"},
		{[]string{"A=hunter2hunter2"}, base64.StdEncoding.EncodeToString([]byte("u:hunter2hunter2 and more")), "dTp***iBhbmQgbW9yZQ=="},
		{[]string{"A=~~~???~~~???"}, base64.URLEncoding.EncodeToString([]byte("~~~???~~~???")), "***"},
		{[]string{"A=" + long}, wrapped(long, "\n") + "-", "***\n-"},
		{[]string{"A=" + long}, "x " + wrapped(long, "\r\n") + "-", "x ***\r\n-"},
		{[]string{"A=" + long}, wrapped("twelve bytes"+long, "\n") + "-", "dHdlbHZlIGJ5dGVz***\n-"},
		{[]string{"A=x\n\n\n\n\n\n\n", "B=\n\n\n\n\n\n\n\n\n"}, "x\n\nx", "x\n\nx"},
		{[]string{"A=hunter2hunter2"}, "aHVudGVyMmh1\n\n\nbnRlcjI=", "aHVudGVyMmh1\n\n\nbnRlcjI="},
	} {
		m := newMask(tt.secrets)
		for size := 1; size <= len(tt.in); size++ {
			if got := masked(m, tt.in, size); got != tt.want {
				t.Errorf("mask %q of %q in writes of %d = %q, want %q", tt.secrets, tt.in, size, got, tt.want)
				break
			}
		}
		if got := m.text(tt.in); got != tt.want {
			t.Errorf("text of %q = %q, want %q", tt.in, got, tt.want)
		}
	}
}

// What cannot be part of a secret any more is written at once.
func TestMaskDelaysNothing(t *testing.T) {
	var out bytes.Buffer
	w := newMask([]string{"A=hunter2hunter2", "B=0123456789"}).writer(&out)
	for _, step := range []struct{ in, want string }{
		{"password: ", "password: "},
		{"hunt", ""},
		{"ed\n", "hunted\n"},
		{"hunter2hunter2", "***"},
		{"0123456789abc", "***abc"},
		{strings.Repeat("\n", 100) + "MDEy" + strings.Repeat("\n", 100), strings.Repeat("\n", 100) + "MDEy" + strings.Repeat("\n", 100)},
	} {
		out.Reset()
		io.WriteString(w, step.in)
		if out.String() != step.want {
			t.Errorf("after %q came %q, want %q", step.in, out.String(), step.want)
		}
	}
}

// An error of what is written to comes out.
func TestMaskError(t *testing.T) {
	w := newMask([]string{"A=hunter2hunter2"}).writer(&output{limit: 3})
	if _, err := io.WriteString(w, "hello"); err == nil {
		t.Error("Write: no error")
	}
}

// No output, however it is split, has a secret in it, in any of its forms, and
// none loses anything else.
func FuzzMask(f *testing.F) {
	f.Add("hunter2hunter2", "another one", "say hunter2", uint8(3), uint64(1))
	f.Add("line one\nline two\n", "aaaaaaaa", "aaaaaaaaaaaaa", uint8(1), uint64(2))
	f.Add("abababab", "babababa", "ab", uint8(9), uint64(3))
	f.Fuzz(func(t *testing.T, a, b, filler string, size uint8, seed uint64) {
		secrets := []string{a, b}
		for _, s := range secrets {
			// *** is what is written, and may make what it replaces.
			if strings.Contains(s, "*") || len(s) < minSecret {
				t.Skip()
			}
		}
		filler = strings.ReplaceAll(filler, "*", "")
		rnd := rand.New(rand.NewPCG(seed, 0))
		var in strings.Builder
		for range 20 {
			s := secrets[rnd.IntN(2)]
			switch cut := rnd.IntN(len(s)); rnd.IntN(6) {
			case 0:
				in.WriteString(s)
			case 1:
				in.WriteString(s[:cut])
			case 2:
				in.WriteString(s[cut:])
			case 3:
				in.WriteString(base64.StdEncoding.EncodeToString([]byte("xyz"[:rnd.IntN(4)] + s + "xyz"[:rnd.IntN(4)])))
			case 4:
				in.WriteString(filler)
			case 5:
				in.WriteString("\n")
			}
		}
		m := newMask([]string{"A=" + a, "B=" + b})
		got := masked(m, in.String(), 1+int(size))
		for _, s := range secrets {
			if strings.Contains(got, s) {
				t.Errorf("mask of %q = %q, which has %q", in.String(), got, s)
			}
			for _, form := range base64Forms(s) {
				if strings.Contains(got, form) {
					t.Errorf("mask of %q = %q, which has %q, in base64 %q", in.String(), got, s, form)
				}
			}
		}
		if whole := masked(m, in.String(), in.Len()+1); whole != got {
			t.Errorf("mask of %q in pieces of %d = %q, at once %q", in.String(), 1+int(size), got, whole)
		}
		if want := slowMask(secrets, in.String()); got != want {
			t.Errorf("mask of %q = %q, want %q", in.String(), got, want)
		}
	})
}

// slowMask is the same by looking for each form at each place.
func slowMask(secrets []string, in string) string {
	var plain, coded []string
	for _, s := range secrets {
		p, c := forms(s)
		plain, coded = append(plain, p...), append(coded, c...)
	}
	type span struct{ from, to int }
	var spans []span
	for i := range len(in) {
		longest := 0
		for _, p := range plain {
			if strings.HasPrefix(in[i:], p) {
				longest = max(longest, len(p))
			} else if rest := in[i:]; len(rest) >= minSecret && strings.HasPrefix(p, rest) {
				longest = len(rest) // the output was cut off
			}
		}
		if in[i] != '\n' && in[i] != '\r' {
			for _, p := range coded {
				at, breaks, all := i, 0, len(p)
				for p != "" && at < len(in) && breaks <= 2 {
					switch c := in[at]; {
					case c == '\n' || c == '\r':
						breaks++
					case c == p[0]:
						p, breaks = p[1:], 0
					default:
						breaks = 99
						continue
					}
					at++
				}
				if p == "" || at == len(in) && breaks <= 2 && all-len(p) >= minSecret {
					longest = max(longest, at-i)
				}
			}
		}
		if longest > 0 {
			spans = append(spans, span{i, i + longest})
		}
	}
	var out strings.Builder
	at := 0
	for i := 0; i < len(spans); {
		s := spans[i]
		for i++; i < len(spans) && spans[i].from < s.to; i++ {
			s.to = max(s.to, spans[i].to)
		}
		out.WriteString(in[at:s.from] + "***")
		at = s.to
	}
	return out.String() + in[at:]
}

// A log of a build, as it comes from a machine, with 20 secrets.
func BenchmarkMask(b *testing.B) {
	var secrets []string
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 20 {
		v := make([]byte, 30)
		for j := range v {
			v[j] = byte(rnd.IntN(256))
		}
		secrets = append(secrets, fmt.Sprintf("S%d=%s", i, base64.RawURLEncoding.EncodeToString(v)))
	}
	var text bytes.Buffer
	for i := 0; text.Len() < 1<<20; i++ {
		fmt.Fprintf(&text, "cc -O2 -Wall -Iinclude -c -o build/src/module%d.o src/module%d.c # took %d ms\n", i, i, i%97)
	}
	coded := []byte(base64.StdEncoding.EncodeToString(text.Bytes()))[:1<<20]
	for _, bb := range []struct {
		name string
		n    int
		text []byte
	}{{"text", 20, text.Bytes()[:1<<20]}, {"base64", 20, coded}, {"text, 1 secret", 1, text.Bytes()[:1<<20]}, {"none", 0, coded}} {
		b.Run(bb.name, func(b *testing.B) {
			w := newMask(secrets[:bb.n]).writer(io.Discard)
			b.SetBytes(1 << 20)
			for b.Loop() {
				for p := bb.text; len(p) > 0; p = p[32<<10:] {
					w.Write(p[:32<<10])
				}
			}
		})
	}
}
