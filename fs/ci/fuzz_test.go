package ci

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// What ParseAttrs accepts, Text writes so that it reads the same again.
func FuzzParseAttrs(f *testing.F) {
	for _, s := range []string{"", "a=b\n", "a=b", "a=''\nb='it''s'\n", "a='x y' z\n", "a=\n", "=b\n", "a=b\na=c\n", "a='x", "a=x'y'z\n", "\n", "a='\x00'\n", "a-b_c='ü'\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAttrs(b)
		if err != nil {
			return
		}
		again, err := ParseAttrs(a.Text())
		if err != nil || !slices.Equal(a, again) {
			t.Errorf("ParseAttrs(%q) = %q, and of its Text %q, %v", b, a, again, err)
		}
	})
}

// A list of any words is recovered from its quoted form.
func FuzzQuoteWords(f *testing.F) {
	f.Add("a", "", "it's")
	f.Add("x y", "'", "''")
	f.Add("A=b", "\t", "ü$")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		words := []string{a, b, c}
		got, err := SplitWords(QuoteWords(words))
		if err != nil || !slices.Equal(got, words) {
			t.Errorf("SplitWords(QuoteWords(%q)) = %q, %v", words, got, err)
		}
	})
}

// An offer that ParseOffer takes is one line that reads the same again.
func FuzzParseOffer(f *testing.F) {
	for _, s := range []string{
		"/n/box/ci/3f2a9c1d0b7e.1 passed 41.250 " + strings.Repeat("0a", 32) + " SHA256:x box.example:22\n",
		"/n/box.7+2/ci/3f2a9c1d0b7e.1 queued - - - -",
		"/n/box/ci/3f2a9c1d0b7e.1 failed 1.000 - 'alice 1' 'it''s:1'",
		"/n/box/ci/3f2a9c1d0b7e.1 failed 1.000 - '' -",
		"/n/../ci/3f2a9c1d0b7e.1 passed 1.000 - - -",
		"find: not UTF-8",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, err := ParseOffer(s)
		if err != nil {
			return
		}
		line := o.String()
		if again, err := ParseOffer(line); err != nil || again != o {
			t.Errorf("ParseOffer(%q) = %+v, and of its line %q %+v, %v", s, o, line, again, err)
		}
		if strings.ContainsAny(line, "\n\r") || !strings.HasPrefix(line, "/n/") || strings.Contains(line, "/../") {
			t.Errorf("ParseOffer(%q).String() = %q", s, line)
		}
	})
}

// Whatever is written to the two streams, in pieces of any size, is recovered
// from the log, byte for byte; live says it in the log's order, at any offset.
func FuzzLog(f *testing.F) {
	f.Add([]byte("one\ntwo"), []byte("err\n\n"), uint8(3))
	f.Add([]byte("\n"), []byte(""), uint8(1))
	f.Add(bytes.Repeat([]byte("long "), 8000), []byte("\r\n\x00\xff"), uint8(250))
	f.Add(bytes.Repeat([]byte{'x'}, maxLogText), append(bytes.Repeat([]byte{'y'}, maxLogText), '\n'), uint8(0))
	f.Fuzz(func(t *testing.T, out, errs []byte, piece uint8) {
		split := [2]Splitter{{Stream: "stdout"}, {Stream: "stderr"}}
		var log []byte
		said := 0
		rest := [2][]byte{out, errs}
		for i := 0; len(rest[0])+len(rest[1]) > 0; i++ {
			p := &rest[i%2]
			n := min(len(*p), 1+int(piece)*(i+1))
			var m int
			log, m = split[i%2].Write(log, (*p)[:n], time.Unix(int64(i), 0))
			said += m
			*p = (*p)[n:]
			if piece%5 == 0 {
				log, m = split[i%2].Flush(log, time.Unix(int64(i), 0))
				said += m
			}
		}
		for i := range split {
			var m int
			log, m = split[i].Flush(log, time.Time{})
			said += m
		}
		for line := range bytes.Lines(log) {
			line = line[:len(line)-1]
			whole, err := ParseLogLine(line)
			cut, cerr := cutLogLine(line)
			if whole.Time = cut.Time; err != nil || cerr != nil || !reflect.DeepEqual(cut, whole) {
				t.Fatalf("cutLogLine(%q) = %+v, %v, want %+v, %v", line, cut, cerr, whole, err)
			}
		}
		var gotOut, gotErr, live bytes.Buffer
		if err := CopyLog(&gotOut, &gotErr, bytes.NewReader(log)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(gotOut.Bytes(), out) || !bytes.Equal(gotErr.Bytes(), errs) {
			t.Errorf("the streams are not recovered")
		}
		CopyLog(&live, &live, bytes.NewReader(log))
		if live.Len() != said {
			t.Errorf("the log says %d bytes, counted were %d", live.Len(), said)
		}
		r := LiveReader{Src: bytes.NewReader(log)}
		for _, off := range []int{0, said / 2, said / 3, said - 1, said} {
			if off < 0 {
				continue
			}
			p := make([]byte, 1000+int(piece)*100)
			n, err := r.ReadAt(p, int64(off), int64(len(log)))
			if want := live.Bytes()[off:]; err != nil || !bytes.Equal(p[:n], want[:min(len(want), len(p))]) {
				t.Errorf("live at %d of %d = %d bytes, %v: not the bytes", off, said, n, err)
			}
		}
	})
}

// Times in a tar are those of the files, before 1970 too.
func TestPaxTime(t *testing.T) {
	for _, tt := range []struct {
		sec, nsec int64
		want      string
	}{
		{0, 0, "0"}, {1, 500000000, "1.5"}, {1700000000, 123456789, "1700000000.123456789"},
		{-1, 500000000, "-0.5"}, {-2, 250000000, "-1.75"}, {-3, 0, "-3"}, {5, 10, "5.00000001"},
	} {
		if got := paxTime(time.Unix(tt.sec, tt.nsec)); got != tt.want {
			t.Errorf("paxTime(%d, %d) = %s, want %s", tt.sec, tt.nsec, got, tt.want)
		}
	}
	if got := string(appendPax(nil, "mtime", "1.5")); got != "13 mtime=1.5\n" {
		t.Errorf("appendPax = %q", got)
	}
}

// An event that ParseMuxEvent takes names an executor that can be walked to.
func FuzzParseMuxEvent(f *testing.F) {
	for _, s := range []string{"/n/box join 2026-11-24T21:04:05Z", "/n/box.7+2/ci/3f2a9c1d0b7e.1 passed 0 1.000 2026-11-24T21:04:05Z", "/n/../ci/x", "n/box leave -"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseMuxEvent(s)
		if err != nil {
			return
		}
		if e.Executor == "" || e.Executor == ".." || strings.ContainsAny(e.Executor, "/ \n\x00\x1b") || (e.What == "") != IsID(e.ID) {
			t.Errorf("ParseMuxEvent(%q) = %+v", s, e)
		}
	})
}
