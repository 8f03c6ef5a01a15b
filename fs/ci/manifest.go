package ci

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	iofs "io/fs"
	"slices"
	"strings"
	"unicode/utf8"

	"9ci/fs"
)

// MaxText bounds, in bytes, the texts of a run that are read as a whole:
// manifest, artifacts.mtree, key and info.
const MaxText = 64 << 20

// An Entry is what the directory of a run lists.
type Entry struct {
	Name   string
	Always bool // an unfinished run has it too
	Summed bool // it is a file that the manifest of a sealed run names
	May    bool // not every run has it: manifest.sig if somebody signed, service if the test had services
}

// Entries are all that the directory of a run lists, sorted.
var Entries = []Entry{
	{Name: "artifacts", Always: true},
	{Name: "artifacts.mtree", Summed: true},
	{Name: "ctl", Always: true},
	{Name: "info", Always: true, Summed: true},
	{Name: "key", Always: true, Summed: true},
	{Name: "log", Always: true, Summed: true},
	{Name: "manifest"},
	{Name: "manifest.sig", May: true},
	{Name: "service", Always: true, May: true},
	{Name: "status", Always: true, Summed: true},
	{Name: "stderr", Always: true, Summed: true},
	{Name: "stdout", Always: true, Summed: true},
	{Name: "step", Always: true},
}

// Files returns the files that the manifest of a sealed run with these services must
// name, sorted, besides those below artifacts. Manifest and manifest.sig are not
// among them.
func Files(services []string) []string {
	var names []string
	for _, e := range Entries {
		if e.Summed {
			names = append(names, e.Name)
		}
	}
	for _, s := range Steps {
		names = append(names, "step/"+s+"/log", "step/"+s+"/status")
	}
	for _, s := range services {
		names = append(names, ServiceLog(s))
	}
	slices.Sort(names)
	return names
}

// Dirs returns the directories of a sealed run with these services, sorted, but
// those below artifacts. The run itself is ".".
func Dirs(services []string) []string {
	names := []string{".", "artifacts", "step"}
	for _, s := range Steps {
		names = append(names, "step/"+s)
	}
	if len(services) > 0 {
		names = append(names, "service")
	}
	for _, s := range services {
		names = append(names, "service/"+s)
	}
	slices.Sort(names)
	return names
}

// A Sum is a line of a manifest.
type Sum struct {
	Name   string // slash-separated, relative to the run
	Digest [32]byte
}

// FormatManifest writes sums as sha256sum(1) does, the lines sorted as sort(1)
// does in the locale C.
func FormatManifest(sums []Sum) []byte {
	lines := make([]string, len(sums))
	for i, s := range sums {
		lines[i] = string(s.append(nil))
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, ""))
}

// append appends the line of s, with its newline, to b.
func (s Sum) append(b []byte) []byte {
	name := s.Name
	if strings.Contains(name, `\`) {
		b = append(b, '\\')
		name = strings.ReplaceAll(name, `\`, `\\`)
	}
	b = hex.AppendEncode(b, s.Digest[:])
	return append(append(append(b, "  "...), name...), '\n')
}

// Lists reports whether a manifest has the line of a file of that name and
// content. It checks no other line.
func Lists(manifest []byte, name string, content []byte) bool {
	line := Sum{name, sha256.Sum256(content)}.append(nil)
	return bytes.HasPrefix(manifest, line) || bytes.Contains(manifest, append([]byte("\n"), line...))
}

// ParseManifest reads what FormatManifest wrote, and nothing else: names are
// clean, as CheckPath has it, and each is there once.
func ParseManifest(b []byte) ([]Sum, error) {
	var sums []Sum
	var last []byte
	seen := make(map[string]bool)
	for n := 1; len(b) > 0; n++ {
		bad := func(why string) ([]Sum, error) {
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
		d, err := ParseDigest(digits)
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
		if err := CheckPath(name); err != nil {
			return bad(err.Error())
		}
		if seen[name] {
			return bad(fmt.Sprintf("%q is there twice", name))
		}
		if bytes.Compare(last, line) >= 0 {
			return bad("it is out of order")
		}
		seen[name], last = true, line
		sums = append(sums, Sum{name, d})
	}
	return sums, nil
}

// sumUnescape undoes how sha256sum(1) writes the name of a line that begins
// with a backslash. Of what it escapes only a backslash can be in a name.
func sumUnescape(s string) (string, bool) {
	rest := strings.ReplaceAll(s, `\\`, "")
	return strings.ReplaceAll(s, `\\`, `\`), !strings.Contains(rest, `\`)
}

// CheckPath reports what keeps a run from having a file of that slash-separated
// path: it is relative and clean, its names are such as fs.CheckPlain takes,
// and it is at most 3072 bytes long.
func CheckPath(path string) error {
	if !utf8.ValidString(path) {
		return fmt.Errorf("the path %.200q is not UTF-8: 9P cannot carry it", path)
	}
	if !iofs.ValidPath(path) || path == "." {
		return fmt.Errorf("%.200q is not a clean relative path", path)
	}
	for name := range strings.SplitSeq(path, "/") {
		if err := fs.CheckPlain(name); err != nil {
			return err
		}
	}
	if len(path) > maxPath {
		return fmt.Errorf("path %.60q... is over %d bytes", path, maxPath)
	}
	return nil
}

// maxPath is Linux's PATH_MAX, less room for the path of a store.
const maxPath = 3072

// CheckNames compares a manifest with what a sealed run has: Files, and the
// regular files of tree.
func CheckNames(sums []Sum, tree []Artifact) error {
	services, err := Services(sums)
	if err != nil {
		return err
	}
	have := make(map[string][32]byte, len(sums))
	for _, s := range sums {
		have[s.Name] = s.Digest
	}
	for _, name := range Files(services) {
		if _, ok := have[name]; !ok {
			return fmt.Errorf("manifest does not name %s", name)
		}
		delete(have, name)
	}
	for _, a := range tree {
		if !a.Mode.IsRegular() {
			continue
		}
		name := "artifacts/" + a.Name
		d, ok := have[name]
		if !ok {
			return fmt.Errorf("artifacts.mtree names %q, manifest does not", name)
		}
		if d != a.Digest {
			return fmt.Errorf("manifest and artifacts.mtree have different digests of %q", name)
		}
		delete(have, name)
	}
	for name := range have {
		return fmt.Errorf("manifest names %q, which is no file of a run", name)
	}
	return nil
}
