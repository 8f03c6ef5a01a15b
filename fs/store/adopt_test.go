package store

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"9ci/fs/ci"
)

// An entry of a tar that tests change.
type tarEntry struct {
	tar.Header
	data string
}

func readTar(t testing.TB, b []byte) (entries []tarEntry) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, tarEntry{*h, string(data)})
	}
}

func writeTar(t testing.TB, entries []tarEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Typeflag == tar.TypeReg && e.Size == 0 {
			e.Size = int64(len(e.data))
		}
		e.Format = tar.FormatPAX
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.data)
	}
	w.Flush()
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

func goodTar(t testing.TB) (id string, b []byte) {
	t.Helper()
	s := newStore(t)
	id = writeRun(t, s, commitA, treeA, "passed", 0)
	var buf bytes.Buffer
	if err := s.WriteTar(context.Background(), &buf, id); err != nil {
		t.Fatal(err)
	}
	return id, buf.Bytes()
}

// find returns the entry of that name in the run.
func find(t testing.TB, entries []tarEntry, name string) *tarEntry {
	t.Helper()
	for i := range entries {
		if strings.HasSuffix(entries[i].Name, "/"+name) {
			return &entries[i]
		}
	}
	t.Fatalf("the tar has no %s", name)
	return nil
}

// resign makes the manifest say what the entries hold: the maker lies too.
func resign(t testing.TB, entries []tarEntry) {
	t.Helper()
	var sums []ci.Sum
	for _, e := range entries {
		_, name, _ := strings.Cut(e.Name, "/")
		if e.Typeflag == tar.TypeReg && name != "manifest" && name != "manifest.sig" {
			sums = append(sums, ci.Sum{Name: name, Digest: sha256.Sum256([]byte(e.data))})
		}
	}
	m := find(t, entries, "manifest")
	m.data = string(ci.FormatManifest(sums))
	m.Size = 0
}

func replace(t testing.TB, entries []tarEntry, name, old, new string) {
	t.Helper()
	e := find(t, entries, name)
	if !strings.Contains(e.data, old) {
		t.Fatalf("%s has no %q: %q", name, old, e.data)
	}
	e.data, e.Size = strings.ReplaceAll(e.data, old, new), 0
}

// What peers can do to a tar: each is refused with a reason, and leaves
// nothing.
var hostile = []struct {
	name string
	do   func(t testing.TB, e []tarEntry) []tarEntry
	want string
}{
	{"flipped bit", func(t testing.TB, e []tarEntry) []tarEntry {
		replace(t, e, "stdout", "out", "0ut")
		return e
	}, `"stdout" is not what the manifest says`},
	{"flipped artifact", func(t testing.TB, e []tarEntry) []tarEntry {
		replace(t, e, "artifacts/size", "42", "43")
		return e
	}, `"artifacts/size" is not what the manifest says`},
	{"flipped info", func(t testing.TB, e []tarEntry) []tarEntry {
		replace(t, e, "info", "example.org", "evil.example")
		return e
	}, "info is not what the manifest says"},
	{"extra file", func(t testing.TB, e []tarEntry) []tarEntry {
		x := *find(t, e, "stdout")
		x.Name = strings.Replace(x.Name, "stdout", "extra", 1)
		return append(e, x)
	}, `"extra" is no file of a run`},
	{"extra file that the manifest names", func(t testing.TB, e []tarEntry) []tarEntry {
		x := *find(t, e, "stdout")
		x.Name = strings.Replace(x.Name, "stdout", "extra", 1)
		e = append(e, x)
		resign(t, e)
		return e
	}, `manifest names "extra", which is no file of a run`},
	{"service of no name", func(t testing.TB, e []tarEntry) []tarEntry {
		x := *find(t, e, "step/test/log")
		x.Name = strings.Replace(x.Name, "step/test", "service/x.y", 1)
		e = append(e, x)
		resign(t, e)
		return e
	}, `manifest names "service/x.y/log", which is no file of a run`},
	{"other file of a service", func(t testing.TB, e []tarEntry) []tarEntry {
		x := *find(t, e, "step/test/log")
		x.Name = strings.Replace(x.Name, "step/test/log", "service/db/status", 1)
		e = append(e, x)
		resign(t, e)
		return e
	}, `manifest names "service/db/status", which is no file of a run`},
	{"service without its directory", func(t testing.TB, e []tarEntry) []tarEntry {
		x := *find(t, e, "step/test/log")
		x.Name = strings.Replace(x.Name, "step/test", "service/db", 1)
		e = append(e, x)
		resign(t, e)
		return e
	}, `the tar has no directory "service`},
	{"service with no log", func(t testing.TB, e []tarEntry) []tarEntry {
		x, d := *find(t, e, "stdout"), *find(t, e, "step/test/")
		x.Name = strings.Replace(x.Name, "stdout", "service/db/log", 1)
		for _, dir := range []string{"service/", "service/db/"} {
			d.Name = strings.Split(e[0].Name, "/")[0] + "/" + dir
			e = append(e, d)
		}
		e = append(e, x)
		resign(t, e)
		return e
	}, `service/db/log: log line 1`},
	{"more services than there may be", func(t testing.TB, e []tarEntry) []tarEntry {
		for i := range ci.MaxServices + 1 {
			x := *find(t, e, "step/test/log")
			x.Name = strings.Replace(x.Name, "step/test", fmt.Sprint("service/s", i), 1)
			e = append(e, x)
		}
		resign(t, e)
		return e
	}, "it has 17 services, and a run may have 16"},
	{"extra artifact", func(t testing.TB, e []tarEntry) []tarEntry {
		x := *find(t, e, "artifacts/size")
		x.Name += "2"
		return append(e, x)
	}, `artifacts.mtree does not name "artifacts/size2"`},
	{"twice", func(t testing.TB, e []tarEntry) []tarEntry {
		return append(e, *find(t, e, "stdout"))
	}, `"stdout" is no file of a run, or it came twice`},
	{"artifact twice", func(t testing.TB, e []tarEntry) []tarEntry {
		return append(e, *find(t, e, "artifacts/size"))
	}, `came twice`},
	{"missing file", func(t testing.TB, e []tarEntry) []tarEntry {
		find(t, e, "stderr").Name = "gone"
		return e
	}, `the entry "gone" is not in`},
	{"cut short", func(t testing.TB, e []tarEntry) []tarEntry { return e[:12] }, "the tar has no"},
	{"nothing", func(t testing.TB, e []tarEntry) []tarEntry { return nil }, "the tar ends early"},
	{"traversal", func(t testing.TB, e []tarEntry) []tarEntry {
		x := *find(t, e, "stdout")
		x.Name = strings.Replace(x.Name, "stdout", "../../evil", 1)
		return append(e, x)
	}, "evil"},
	{"absolute", func(t testing.TB, e []tarEntry) []tarEntry {
		find(t, e, "stdout").Name = "/etc/passwd"
		return e
	}, "/etc/passwd"},
	{"another run", func(t testing.TB, e []tarEntry) []tarEntry {
		find(t, e, "stdout").Name = "aaaabbbbcccc.1/stdout"
		return e
	}, "aaaabbbbcccc.1/stdout"},
	{"mtree traversal", func(t testing.TB, e []tarEntry) []tarEntry {
		replace(t, e, "artifacts.mtree", "./size", "./../../size")
		find(t, e, "artifacts/size").Name = strings.Split(e[0].Name, "/")[0] + "/artifacts/../../size"
		resign(t, e)
		return e
	}, "manifest line"},
	{"artifacts beyond all", func(t testing.TB, e []tarEntry) []tarEntry {
		replace(t, e, "artifacts.mtree", " size=3 ", " size=99999999999 ")
		resign(t, e)
		return e
	}, `with the 99999999999 bytes of "size" the artifacts are over`},
	{"control character", func(t testing.TB, e []tarEntry) []tarEntry {
		replace(t, e, "artifacts.mtree", "./size ", "./size\\012 ")
		resign(t, e)
		return e
	}, "has a control character in it"},
	{"mtree absolute", func(t testing.TB, e []tarEntry) []tarEntry {
		replace(t, e, "artifacts.mtree", "./bin ", ".//bin ")
		resign(t, e)
		return e
	}, "not a clean relative path"},
	{"mtree below a link", func(t testing.TB, e []tarEntry) []tarEntry {
		replace(t, e, "artifacts.mtree", "./size", "./out/size")
		x := find(t, e, "artifacts/size")
		x.Name = strings.Replace(x.Name, "size", "out/size", 1)
		resign(t, e)
		return e
	}, "is in no directory"},
	{"mtree device", func(t testing.TB, e []tarEntry) []tarEntry {
		replace(t, e, "artifacts.mtree", "./bin/empty\\040dir type=dir", "./bin/empty\\040dir type=char")
		resign(t, e)
		return e
	}, `is of type "char"`},
	{"device", func(t testing.TB, e []tarEntry) []tarEntry {
		x := find(t, e, "artifacts/size")
		x.Typeflag, x.data, x.Size, x.Devmajor, x.Devminor = tar.TypeChar, "", 0, 1, 3
		return e
	}, `has type '3', want '0'`},
	{"fifo", func(t testing.TB, e []tarEntry) []tarEntry {
		x := find(t, e, "stdout")
		x.Typeflag, x.data, x.Size = tar.TypeFifo, "", 0
		return e
	}, `has type '6', want '0'`},
	{"hard link", func(t testing.TB, e []tarEntry) []tarEntry {
		x := find(t, e, "artifacts/size")
		x.Typeflag, x.data, x.Size, x.Linkname = tar.TypeLink, "", 0, "/etc/shadow"
		return e
	}, `has type '1', want '0'`},
	{"link for a file", func(t testing.TB, e []tarEntry) []tarEntry {
		x := find(t, e, "stdout")
		x.Typeflag, x.data, x.Size, x.Linkname = tar.TypeSymlink, "", 0, "/etc/passwd"
		return e
	}, `has type '2', want '0'`},
	{"link for a directory", func(t testing.TB, e []tarEntry) []tarEntry {
		x := find(t, e, "artifacts/bin/")
		x.Typeflag, x.Name, x.Linkname = tar.TypeSymlink, strings.TrimSuffix(x.Name, "/"), "/tmp"
		return e
	}, `has type '2', want '5'`},
	{"another target", func(t testing.TB, e []tarEntry) []tarEntry {
		find(t, e, "artifacts/link").Linkname = "/etc/passwd"
		return e
	}, `has target "/etc/passwd", want "bin/hello"`},
	{"wrong mode", func(t testing.TB, e []tarEntry) []tarEntry {
		find(t, e, "artifacts/bin/hello").Mode = 0o4755
		return e
	}, "has mode 04755, want 0755"},
	{"writable", func(t testing.TB, e []tarEntry) []tarEntry {
		find(t, e, "stdout").Mode = 0o644
		return e
	}, "has mode 0644, want 0444"},
	{"wrong time", func(t testing.TB, e []tarEntry) []tarEntry {
		find(t, e, "artifacts/size").ModTime = time.Unix(1, 0)
		return e
	}, "has time 1970-01-01 00:00:01"},
	{"wrong owner", func(t testing.TB, e []tarEntry) []tarEntry {
		find(t, e, "stdout").Uid = 1000
		return e
	}, "has owner 1000"},
	{"wrong size", func(t testing.TB, e []tarEntry) []tarEntry {
		x := find(t, e, "artifacts/size")
		x.data, x.Size = x.data+"more", 0
		return e
	}, "has size 7, want 3"},
	{"attributes", func(t testing.TB, e []tarEntry) []tarEntry {
		find(t, e, "stdout").PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "x"}
		return e
	}, `has the pax record "SCHILY.xattr.security.capability"`},
	{"manifest not first", func(t testing.TB, e []tarEntry) []tarEntry {
		return append([]tarEntry{*find(t, e, "stdout")}, e...)
	}, "not ID/manifest"},
	{"no id", func(t testing.TB, e []tarEntry) []tarEntry {
		for i := range e {
			e[i].Name = "run/" + strings.SplitAfterN(e[i].Name, "/", 2)[1]
		}
		return e
	}, "not ID/manifest"},
	{"id of another commit", func(t testing.TB, e []tarEntry) []tarEntry {
		for i := range e {
			e[i].Name = "aaaabbbbcccc.1/" + strings.SplitAfterN(e[i].Name, "/", 2)[1]
		}
		replace(t, e, "info", "id=3f2a9c1d0b7e.1", "id=aaaabbbbcccc.1")
		resign(t, e)
		return e
	}, "is not a run of commit"},
	{"unfinished", func(t testing.TB, e []tarEntry) []tarEntry {
		replace(t, e, "status", "passed", "queued")
		resign(t, e)
		return e
	}, "status"},
	{"manifest unsorted", func(t testing.TB, e []tarEntry) []tarEntry {
		m := find(t, e, "manifest")
		l := strings.SplitAfter(m.data, "\n")
		l[0], l[1] = l[1], l[0]
		m.data = strings.Join(l, "")
		return e
	}, "out of order"},
	{"manifest empty", func(t testing.TB, e []tarEntry) []tarEntry {
		m := find(t, e, "manifest")
		m.data, m.Size = "", 0
		return e
	}, "info is not what the manifest says"},
	{"log damaged", func(t testing.TB, e []tarEntry) []tarEntry {
		replace(t, e, "log", "stdout F", "stdin F")
		resign(t, e)
		return e
	}, "not a line of a CRI log"},
	{"key unsorted", func(t testing.TB, e []tarEntry) []tarEntry {
		replace(t, e, "key", "version=1\n", "")
		x := find(t, e, "key")
		x.data, x.Size = "version=1\n"+x.data, 0
		resign(t, e)
		return e
	}, "key is not sorted"},
	{"name no UTF-8", func(t testing.TB, e []tarEntry) []tarEntry {
		replace(t, e, "artifacts.mtree", `./Gr\303\274\303\237e`, `./Gr\303e`)
		x := find(t, e, "artifacts/Grüße")
		x.Name, x.Format = strings.Replace(x.Name, "Grüße", "Gr\xc3e", 1), tar.FormatGNU
		resign(t, e)
		x.Name = strings.Replace(x.Name, "Gr\xc3e", "Gre", 1)
		return e
	}, "is not UTF-8"},
}

func TestAdoptRefuses(t *testing.T) {
	_, good := goodTar(t)
	s := newStore(t)
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			_, err := s.Adopt(t.Context(), bytes.NewReader(writeTar(t, h.do(t, readTar(t, good)))), nil)
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), h.want) {
				t.Errorf("Adopt = %v, want it refused with %q", err, h.want)
			}
			wantRuns(t, s)
		})
	}
	raw := func(name string, b []byte, want string) {
		t.Run(name, func(t *testing.T) {
			_, err := s.Adopt(t.Context(), bytes.NewReader(b), nil)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Adopt = %v, want %q", err, want)
			}
			wantRuns(t, s)
		})
	}
	raw("no tar", []byte(strings.Repeat("no tar at all ", 200)), "invalid tar header")
	raw("half", good[:len(good)/2], "the tar ends in")
	raw("half a header", good[:700], "")
	raw("half a pax header", good[:bytes.Index(good, []byte("PaxHeader"))+600], "")
	huge := bytes.Clone(good)
	copy(huge[124:], "77777777777") // manifest of 8 GiB
	fixSum(huge)
	raw("huge manifest", huge, "manifest is over")
	pax := bytes.Clone(good[:512]) // a pax header of 16 MiB
	pax[156] = 'x'
	copy(pax[124:], "00100000000")
	fixSum(pax)
	raw("huge pax header", append(append(pax, make([]byte, 16<<20)...), good...), "refused: ")
	sparse := bytes.Clone(good)
	sparse[156] = 'S'
	fixSum(sparse)
	raw("sparse", sparse, "refused: ")
	s.MaxOutput = 100
	raw("too much output", good, "are over 100 bytes")
	s.MaxOutput = 0
	if _, err := s.Adopt(t.Context(), bytes.NewReader(good), func(_, sig []byte, info ci.Attrs) (string, error) {
		if sig != nil || info.Get("repo") != "example.org/a/b" {
			t.Errorf("verify got sig %q, info %q", sig, info)
		}
		return "", errors.New("nobody we know")
	}); err == nil || !strings.Contains(err.Error(), "nobody we know") {
		t.Errorf("Adopt = %v, want verify's error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Adopt(ctx, bytes.NewReader(good), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Adopt = %v, want %v", err, context.Canceled)
	}
	wantRuns(t, s)
}

// fixSum makes the first header's checksum right again.
func fixSum(b []byte) {
	copy(b[148:156], "        ")
	n := 0
	for _, c := range b[:512] {
		n += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", n))
}

// An adopted run is the maker's, byte for byte, wherever it came from last. It
// keeps its id unless that is taken, and is never adopted twice.
func TestAdopt(t *testing.T) {
	maker := newStore(t)
	id := writeRun(t, maker, commitA, treeA, "passed", 0)
	var first bytes.Buffer
	if err := maker.WriteTar(t.Context(), &first, id); err != nil {
		t.Fatal(err)
	}
	second, third := newStore(t), newStore(t)
	if own := writeRun(t, third, commitA, treeA, "failed", 1); own != id {
		t.Fatalf("the first runs are %s and %s", own, id)
	}
	from := first.Bytes()
	for _, s := range []*Store{second, third} {
		e, err := s.Adopt(t.Context(), bytes.NewReader(from), func([]byte, []byte, ci.Attrs) (string, error) { return "alice smith", nil })
		if err != nil {
			t.Fatal(err)
		}
		if s == second && e.ID != id || s == third && e.ID == id {
			t.Errorf("it was adopted as %s", e.ID)
		}
		if e.Signer != "alice smith" || e.Tree != treeA || e.State != "passed" {
			t.Errorf("Adopt = %+v", e)
		}
		verifyRun(t, s, e.ID)
		var b bytes.Buffer
		if err := s.WriteTar(t.Context(), &b, e.ID); err != nil || !bytes.Equal(b.Bytes(), first.Bytes()) {
			t.Errorf("the tar of %s differs from its maker's: %v", e.ID, err)
		}
		from = b.Bytes()
		again, err := s.Adopt(t.Context(), bytes.NewReader(from), nil)
		if err != nil || again.ID != e.ID {
			t.Errorf("Adopt again = %s, %v, want %s", again.ID, err, e.ID)
		}
		best, err := s.Lookup(commitA)
		if err != nil || best.ID != e.ID {
			t.Errorf("Lookup = %s, %v, want the run that passed, %s", best.ID, err, e.ID)
		}
		if byScore, err := s.Lookup(e.Score); err != nil || byScore.ID != e.ID {
			t.Errorf("Lookup of the score = %s, %v, want %s", byScore.ID, err, e.ID)
		}
	}
	// An own run after an adoption skips its name.
	r, err := second.Create(commitA)
	if err != nil || r.ID() == id {
		t.Errorf("Create = %v, %v", r, err)
	}
}

// A tar in any form is refused or gives a run that verifies; nothing is left
// of what was refused.
func FuzzAdopt(f *testing.F) {
	_, good := goodTar(f)
	f.Add(good)
	for _, h := range hostile {
		f.Add(writeTar(f, h.do(f, readTar(f, good))))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Open(filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256(b))))
		if err != nil {
			t.Fatal(err)
		}
		defer removeAll(s.dir)
		defer s.Close()
		e, err := s.Adopt(t.Context(), bytes.NewReader(b), nil)
		if err != nil {
			if names, _ := os.ReadDir(s.RunDir()); len(names) > 0 {
				t.Errorf("%v is left after %v", names, err)
			}
			return
		}
		verifyRun(t, s, e.ID)
	})
}
