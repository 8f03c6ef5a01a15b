package store

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"9ci/fs/ci"
)

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
		if sums, err := ci.ParseManifest(b); err == nil && !bytes.Equal(ci.FormatManifest(sums), b) {
			t.Errorf("parseManifest accepts %q", b)
		}
		if tree, err := ci.ParseMtree(b); err == nil && !bytes.Equal(ci.FormatMtree(tree), b) {
			t.Errorf("parseMtree accepts %q", b)
		}
		if st, err := ci.ParseStatus(string(b)); err == nil {
			if again, err := ci.ParseStatus(st.String()); err != nil || again != st {
				t.Errorf("ParseStatus(%q) = %v, and of that %v, %v", b, st, again, err)
			}
		}
		if l, err := ci.ParseLogLine(b); err == nil && !bytes.Contains(b, []byte("\n")) {
			again, err := ci.ParseLogLine(bytes.TrimSuffix(l.Append(nil), []byte("\n")))
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
		tree, err := ci.ReadArtifacts(root, true)
		if err == nil {
			_, err = ci.ParseMtree(ci.FormatMtree(tree))
		}
		if err != nil {
			t.Errorf("it cannot be sealed: %v", err)
		}
	})
}
