package fs

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
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

// Manifest, artifacts.mtree, status and log are accepted only as we write
// them.
func FuzzTexts(f *testing.F) {
	_, good := goodTar(f)
	for _, e := range readTar(f, good) {
		if len(e.data) < 4096 { // large ones make for slow fuzzing
			f.Add([]byte(e.data))
		}
	}
	f.Add([]byte(`\` + strings.Repeat("0", 64) + `  a\nb\\c` + "\n"))
	f.Add([]byte(" 0 0.007 2026-11-24T21:52:55Z\n"))
	f.Add([]byte("#mtree\n./a type=link mode=0777 time=-1.000000001 link=\\040\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if sums, err := parseManifest(b); err == nil && !bytes.Equal(formatManifest(sums), b) {
			t.Errorf("parseManifest accepts %q", b)
		}
		if tree, err := parseMtree(b); err == nil && !bytes.Equal(formatMtree(tree), b) {
			t.Errorf("parseMtree accepts %q", b)
		}
		if st, err := ParseStatus(string(b)); err == nil {
			if again, err := ParseStatus(st.String()); err != nil || again != st {
				t.Errorf("ParseStatus(%q) = %v, and of that %v, %v", b, st, again, err)
			}
		}
		if l, err := ParseLogLine(b); err == nil && !bytes.Contains(b, []byte("\n")) {
			again, err := ParseLogLine(bytes.TrimSuffix(l.append(nil), []byte("\n")))
			if err != nil || again.Stream != l.Stream || again.Full != l.Full || !bytes.Equal(again.Text, l.Text) {
				t.Errorf("ParseLogLine(%q) = %v, and of that %v, %v", b, l, again, err)
			}
		}
		var x index
		if r, err := x.parse(string(b)); err == nil {
			if again, err := x.parse(strings.TrimSuffix(string(r.append(nil)), "\n")); err != nil || *again != *r {
				t.Errorf("index.parse(%q) = %v, and of that %v, %v", b, r, again, err)
			}
		}
		ParseKeep(string(b))
		sigSigner(b)
	})
}

// What a machine hands over as artifacts is refused, or is what the sealed run
// has; nothing is written beside it.
func FuzzAddArtifacts(f *testing.F) {
	for _, e := range refusedArtifacts {
		if len(e.entries) < 10 {
			f.Add(headers(f, e.entries))
		}
	}
	src := f.TempDir() // small: large ones make for slow fuzzing
	os.MkdirAll(filepath.Join(src, "dir", "empty"), 0o750)
	os.Symlink("..", filepath.Join(src, "dir", "up"))
	os.WriteFile(filepath.Join(src, "sparse"), []byte("x"), 0o644)
	os.Truncate(filepath.Join(src, "sparse"), 1<<20)
	good, _ := io.ReadAll(tarOf(f, src))
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		size := int64(0)
		for r := tar.NewReader(bytes.NewReader(b)); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			if size += max(h.Size, 0); size > 64<<20 {
				t.Skip("holes take time to read")
			}
		}
		dir := filepath.Join(t.TempDir(), "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		defer removeAll(dir)
		err := unpack(t.Context(), dir, bytes.NewReader(b))
		if list, _ := os.ReadDir(filepath.Dir(dir)); len(list) != 1 {
			t.Fatalf("beside the artifacts are now %v", list)
		}
		if err != nil {
			return
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		tree, err := readArtifacts(root, true)
		if err == nil {
			_, err = parseMtree(formatMtree(tree))
		}
		if err != nil {
			t.Errorf("it cannot be sealed: %v", err)
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
		split := [2]lineSplitter{{stream: "stdout"}, {stream: "stderr"}}
		var log []byte
		said := 0
		rest := [2][]byte{out, errs}
		for i := 0; len(rest[0])+len(rest[1]) > 0; i++ {
			p := &rest[i%2]
			n := min(len(*p), 1+int(piece)*(i+1))
			var m int
			log, m = split[i%2].write(log, (*p)[:n], time.Unix(int64(i), 0))
			said += m
			*p = (*p)[n:]
			if piece%5 == 0 {
				log, m = split[i%2].flush(log, time.Unix(int64(i), 0))
				said += m
			}
		}
		for i := range split {
			var m int
			log, m = split[i].flush(log, time.Time{})
			said += m
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
		r := liveReader{src: bytes.NewReader(log)}
		for _, off := range []int{0, said / 2, said / 3, said - 1, said} {
			if off < 0 {
				continue
			}
			p := make([]byte, 1000+int(piece)*100)
			n, err := r.readAt(p, int64(off), int64(len(log)))
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
