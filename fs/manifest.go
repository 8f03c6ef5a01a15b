package fs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// maxManifest bounds the texts of a run that are read as a whole: manifest,
// artifacts.mtree, key and info.
const maxManifest = 64 << 20

// ourNames are the files of a sealed run that the manifest must name, besides
// what is below artifacts. Manifest and manifest.sig are not among them.
var ourNames = func() []string {
	names := []string{"artifacts.mtree", "info", "key", "log", "status", "stderr", "stdout"}
	for _, s := range Steps {
		names = append(names, "step/"+s+"/log", "step/"+s+"/status")
	}
	slices.Sort(names)
	return names
}()

// ourDirs are the directories of a sealed run, but those below artifacts. The
// run itself is ".".
var ourDirs = func() []string {
	names := []string{".", "artifacts", "step"}
	for _, s := range Steps {
		names = append(names, "step/"+s)
	}
	slices.Sort(names)
	return names
}()

// A sum is a line of a manifest.
type sum struct {
	name   string // slash-separated, relative to the run
	digest [32]byte
}

func sha256sum(b []byte) [32]byte { return sha256.Sum256(b) }

// formatManifest writes sums as sha256sum(1) does, its lines sorted, as sort(1)
// does where the locale is C.
func formatManifest(sums []sum) []byte {
	lines := make([]string, len(sums))
	for i, s := range sums {
		var b []byte
		name := s.name
		if strings.Contains(name, `\`) {
			b = append(b, '\\')
			name = strings.ReplaceAll(name, `\`, `\\`)
		}
		b = hex.AppendEncode(b, s.digest[:])
		b = append(append(append(b, "  "...), name...), '\n')
		lines[i] = string(b)
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, ""))
}

// parseManifest reads a manifest, whose names must be clean and each there
// once, and whose lines must be sorted.
func parseManifest(b []byte) ([]sum, error) {
	var sums []sum
	var last []byte
	seen := make(map[string]bool)
	for n := 1; len(b) > 0; n++ {
		bad := func(why string) ([]sum, error) {
			return nil, fmt.Errorf("manifest line %d: %s", n, why)
		}
		line, rest, ok := bytes.Cut(b, []byte("\n"))
		if !ok {
			return bad("it has no end")
		}
		b = rest
		text := string(line)
		escaped := strings.HasPrefix(text, `\`)
		if escaped {
			text = text[1:]
		}
		digits, name, ok := strings.Cut(text, "  ")
		d, err := parseDigest(digits)
		if !ok || err != nil {
			return bad("not a line of sha256sum")
		}
		if escaped {
			if name, ok = sumUnescape(name); !ok {
				return bad("not a line of sha256sum")
			}
		}
		if escaped != strings.Contains(name, `\`) {
			return bad("not as sha256sum writes it")
		}
		if err := checkPath(name); err != nil {
			return bad(err.Error())
		}
		if seen[name] {
			return bad(fmt.Sprintf("%q is there twice", name))
		}
		if bytes.Compare(last, line) >= 0 {
			return bad("it is out of order")
		}
		seen[name], last = true, line
		sums = append(sums, sum{name, d})
	}
	return sums, nil
}

// sumUnescape undoes how sha256sum(1) writes the name of a line that begins
// with a backslash. Of what it escapes only a backslash can be in a name.
func sumUnescape(s string) (string, bool) {
	rest := strings.ReplaceAll(s, `\\`, "")
	return strings.ReplaceAll(s, `\\`, `\`), !strings.Contains(rest, `\`)
}

// checkPath reports what is wrong with a slash-separated relative path of
// names that 9P can carry.
func checkPath(path string) error {
	if !utf8.ValidString(path) {
		return fmt.Errorf("the path %.200q is not UTF-8: 9P cannot carry it", path)
	}
	if !iofs.ValidPath(path) || path == "." {
		return fmt.Errorf("%.200q is not a clean relative path", path)
	}
	for name := range strings.SplitSeq(path, "/") {
		if err := checkName(name); err != nil {
			return err
		}
		if strings.ContainsFunc(name, unicode.IsControl) {
			return fmt.Errorf("the name %.200q has a control character in it: not every door can carry it", name)
		}
	}
	if len(path) > maxPath {
		return fmt.Errorf("path %.60q... is over %d bytes", path, maxPath)
	}
	return nil
}

// maxPath and maxName are Linux's PATH_MAX, less room for the store's own
// path, and NAME_MAX.
const (
	maxPath = 3072
	maxName = 255
)

// checkName reports what keeps 9P from carrying a name: it is a string of
// UTF-8 (intro(5)), and neither ".", ".." nor with a slash or a NUL in it.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("%q cannot be the name of a file", name)
	case !utf8.ValidString(name):
		return fmt.Errorf("the name %q is not UTF-8: 9P cannot carry it", name)
	case len(name) > maxName:
		return fmt.Errorf("the name %.60q... is over %d bytes", name, maxName)
	}
	return nil
}

// checkNames compares a manifest with what a sealed run has: our names, and
// artifacts' regular files.
func checkNames(sums []sum, tree []artifact) error {
	have := make(map[string][32]byte, len(sums))
	for _, s := range sums {
		have[s.name] = s.digest
	}
	for _, name := range ourNames {
		if _, ok := have[name]; !ok {
			return fmt.Errorf("manifest does not name %s", name)
		}
		delete(have, name)
	}
	for _, a := range tree {
		if !a.mode.IsRegular() {
			continue
		}
		name := "artifacts/" + a.name
		d, ok := have[name]
		if !ok {
			return fmt.Errorf("artifacts.mtree names %q, manifest does not", name)
		}
		if d != a.digest {
			return fmt.Errorf("manifest and artifacts.mtree have different digests of %q", name)
		}
		delete(have, name)
	}
	for name := range have {
		return fmt.Errorf("manifest names %q, which is no file of a run", name)
	}
	return nil
}

// hashFile returns the SHA-256 of a regular file in root.
func hashFile(root *os.Root, name string) (d [32]byte, size int64, err error) {
	f, err := openRegular(root, name)
	if err != nil {
		return d, 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	h.Sum(d[:0])
	return d, size, err
}

// openRegular opens a file of root for reading, and only if it is a regular
// one, and no link to one: opening a fifo would block, a device may do
// anything, and what a link leads to is not what is named.
func openRegular(root *os.Root, name string) (*os.File, error) {
	name = filepath.FromSlash(name)
	want, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !want.Mode().IsRegular() {
		return nil, &iofs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// An os.Root follows links within it, O_NOFOLLOW or not.
	got, err := f.Stat()
	if err == nil && !os.SameFile(want, got) {
		err = &iofs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

var errNotRegular = errors.New("not a regular file")
