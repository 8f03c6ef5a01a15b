package ci

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"9ci/fs/internal/disk"
)

// An Artifact is a line of artifacts.mtree.
type Artifact struct {
	Name   string // slash-separated, relative to artifacts
	Mode   iofs.FileMode
	Time   time.Time
	Size   int64    // of a regular file
	Link   string   // target of a symbolic link
	Digest [32]byte // of a regular file
}

// Limits of what a run can leave, our own or a peer's: each artifact is a file
// to make, to hash, to serve, and to send as often as a client asks.
const (
	MaxArtifacts = 16 << 30 // bytes of all files together, holes counted
	maxArtifacts = 1 << 18  // files, directories and links
	MaxDepth     = 64       // names in a path
)

// A Tally adds up the artifacts of a run. The zero Tally has none.
type Tally struct {
	n     int
	bytes int64
	text  int64 // of artifacts.mtree, which is longer than manifest
}

// mtreeLine bounds a line of artifacts.mtree in bytes, without its names.
const mtreeLine = 150

// Add counts an artifact. It reports what keeps a run from having it: its name,
// its target, or a limit that the artifacts pass with it.
func (t *Tally) Add(a Artifact) error {
	if err := CheckPath(a.Name); err != nil {
		return err
	}
	if a.Mode&iofs.ModeSymlink != 0 {
		if err := checkTarget(a.Link); err != nil {
			return fmt.Errorf("link %q: %w", a.Name, err)
		}
	}
	if strings.Count(a.Name, "/") >= MaxDepth {
		return fmt.Errorf("the path %.100q... is over %d names deep: make a tar of it", a.Name, MaxDepth)
	}
	if t.n++; t.n > maxArtifacts {
		return fmt.Errorf("over %d artifacts: make a tar of them", maxArtifacts)
	}
	if a.Size > MaxArtifacts-t.bytes {
		return fmt.Errorf("with the %d bytes of %.300q the artifacts are over %d bytes, holes counted: leave fewer or smaller ones", a.Size, a.Name, int64(MaxArtifacts))
	}
	t.bytes += a.Size
	t.text += mtreeLine + int64(visLen(a.Name)+visLen(a.Link))
	if t.text > MaxText {
		return fmt.Errorf("the names of the artifacts are over %d bytes: make a tar of them", MaxText)
	}
	return nil
}

const mtreeMagic = "#mtree\n"

// FormatMtree writes artifacts as mtree(5), and sorts tree by name. Names and
// targets are written as vis(3) writes them, with octal escapes. Times have all
// nine digits behind the point: some readers take them for a count of
// nanoseconds.
func FormatMtree(tree []Artifact) []byte {
	slices.SortFunc(tree, func(a, b Artifact) int { return strings.Compare(a.Name, b.Name) })
	b := make([]byte, 0, len(mtreeMagic)+len(tree)*160)
	b = append(b, mtreeMagic...)
	for _, a := range tree {
		b = append(b, "./"...)
		b = appendVis(b, a.Name)
		b = append(append(b, " type="...), mtreeType(a.Mode)...)
		b = strconv.AppendUint(append(b, " mode=0"...), uint64(disk.UnixMode(a.Mode)), 8)
		b = strconv.AppendInt(append(b, " time="...), a.Time.Unix(), 10)
		b = appendNanos(b, a.Time)
		switch {
		case a.Mode.IsRegular():
			b = strconv.AppendInt(append(b, " size="...), a.Size, 10)
			b = hex.AppendEncode(append(b, " sha256="...), a.Digest[:])
		case a.Mode&iofs.ModeSymlink != 0:
			b = append(b, " link="...)
			b = appendVis(b, a.Link)
		}
		b = append(b, '\n')
	}
	return b
}

// appendNanos writes a point and the nine digits of t's fraction.
func appendNanos(b []byte, t time.Time) []byte {
	n := len(b)
	b = strconv.AppendInt(b, 1e9+int64(t.Nanosecond()), 10)
	b[n] = '.'
	return b
}

func mtreeType(m iofs.FileMode) string {
	switch {
	case m.IsDir():
		return "dir"
	case m&iofs.ModeSymlink != 0:
		return "link"
	default:
		return "file"
	}
}

func escaped(c byte) bool { return c <= ' ' || c >= 0x7f || c == '\\' || c == '#' || c == '=' }

// visLen is the length of what appendVis appends.
func visLen(s string) int {
	n := len(s)
	for _, c := range []byte(s) {
		if escaped(c) {
			n += 3
		}
	}
	return n
}

func appendVis(b []byte, s string) []byte {
	for _, c := range []byte(s) {
		if escaped(c) {
			b = append(b, '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7)
		} else {
			b = append(b, c)
		}
	}
	return b
}

func parseVis(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '\\')
		if i < 0 {
			b.WriteString(s)
			return b.String(), nil
		}
		b.WriteString(s[:i])
		if len(s) < i+4 {
			return "", errors.New("a backslash without three octal digits")
		}
		c, err := strconv.ParseUint(s[i+1:i+4], 8, 8)
		if err != nil {
			return "", errors.New("a backslash without three octal digits")
		}
		b.WriteByte(byte(c))
		s = s[i+4:]
	}
}

// ParseMtree reads what FormatMtree wrote, and nothing else. The artifacts are
// sorted, within the limits, and each stands behind the directory that it is
// in.
func ParseMtree(b []byte) ([]Artifact, error) {
	rest, ok := bytes.CutPrefix(b, []byte(mtreeMagic))
	if !ok {
		return nil, errors.New("artifacts.mtree does not begin with #mtree")
	}
	var tree []Artifact
	var total Tally
	dirs := map[string]bool{".": true}
	for n := 2; len(rest) > 0; n++ {
		var line []byte
		line, rest, ok = bytes.Cut(rest, []byte("\n"))
		if !ok {
			return nil, fmt.Errorf("artifacts.mtree line %d: it has no end", n)
		}
		a, err := parseArtifact(string(line))
		if err == nil {
			err = total.Add(a)
		}
		switch {
		case err != nil:
		case len(tree) > 0 && tree[len(tree)-1].Name >= a.Name:
			err = fmt.Errorf("%q is there twice or out of order", a.Name)
		case !dirs[path.Dir(a.Name)]:
			err = fmt.Errorf("%q is in no directory", a.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("artifacts.mtree line %d: %w", n, err)
		}
		if a.Mode.IsDir() {
			dirs[a.Name] = true
		}
		tree = append(tree, a)
	}
	if !bytes.Equal(FormatMtree(tree), b) {
		return nil, errors.New("artifacts.mtree is not written as it should be")
	}
	return tree, nil
}

func parseArtifact(line string) (a Artifact, err error) {
	first, rest, _ := strings.Cut(line, " ")
	name, ok := strings.CutPrefix(first, "./")
	if !ok {
		return a, fmt.Errorf("%.200q does not begin with ./", first)
	}
	if a.Name, err = parseVis(name); err != nil {
		return a, err
	}
	for word := range strings.SplitSeq(rest, " ") {
		key, v, _ := strings.Cut(word, "=")
		switch key {
		case "type":
			switch v {
			case "dir":
				a.Mode |= iofs.ModeDir
			case "link":
				a.Mode |= iofs.ModeSymlink
			case "file":
			default:
				return a, fmt.Errorf("%q is of type %.20q: only file, dir and link are served", a.Name, v)
			}
		case "mode":
			m, err := strconv.ParseUint(v, 8, 32)
			if err != nil || m > 0o7777 {
				return a, fmt.Errorf("%q has mode %.20q", a.Name, v)
			}
			a.Mode |= disk.FileMode(uint32(m))
		case "time":
			s, ns, _ := strings.Cut(v, ".")
			sec, err := strconv.ParseInt(s, 10, 62)
			nsec, err2 := strconv.ParseUint(ns, 10, 30)
			if err != nil || err2 != nil {
				return a, fmt.Errorf("%q has time %.40q", a.Name, v)
			}
			a.Time = time.Unix(sec, int64(nsec))
		case "size":
			if a.Size, err = strconv.ParseInt(v, 10, 64); err != nil || a.Size < 0 {
				return a, fmt.Errorf("%q has size %.40q", a.Name, v)
			}
		case "link":
			if a.Link, err = parseVis(v); err != nil {
				return a, err
			}
		case "sha256":
			if a.Digest, err = ParseDigest(v); err != nil {
				return a, err
			}
		default:
			return a, fmt.Errorf("%q has the unknown keyword %.20q", a.Name, key)
		}
	}
	return a, nil
}

// maxTarget is the length of the longest target that Linux takes, PATH_MAX without its
// null. On a system that takes less, such a run cannot be unpacked.
const maxTarget = 4095

// checkTarget reports what keeps a symbolic link's target from being served. It
// does not matter where the link points: the tree never follows an artifact.
func checkTarget(target string) error {
	switch {
	case target == "" || len(target) > maxTarget || strings.Contains(target, "\x00"):
		return fmt.Errorf("%.60q cannot be the target of a link", target)
	case !utf8.ValidString(target):
		return fmt.Errorf("the target %.60q is not UTF-8: 9P cannot carry it", target)
	}
	return nil
}

// ReadArtifacts describes what is below root, the artifacts of a run, and reads
// each file for its digest where hash says so. The error is of a file that a
// run cannot keep, too.
func ReadArtifacts(root *os.Root, hash bool) (tree []Artifact, err error) {
	var total Tally
	err = iofs.WalkDir(root.FS(), ".", func(name string, _ iofs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		fi, err := root.Lstat(filepath.FromSlash(name))
		if err != nil {
			return err
		}
		a, err := describe(root, name, fi)
		if err != nil {
			return err
		}
		if hash && a.Mode.IsRegular() {
			if a.Digest, a.Size, err = disk.Hash(root, name); err != nil {
				return err
			}
		}
		tree = append(tree, a)
		return total.Add(a)
	})
	return tree, err
}

// describe makes an artifact of a file in root.
func describe(root *os.Root, name string, fi iofs.FileInfo) (a Artifact, err error) {
	a = Artifact{Name: name, Mode: fi.Mode(), Time: fi.ModTime()}
	switch {
	case fi.Mode().IsDir():
	case fi.Mode().IsRegular():
		a.Size = fi.Size()
	case fi.Mode()&iofs.ModeSymlink != 0:
		a.Mode = iofs.ModeSymlink | 0o777
		if a.Link, err = root.Readlink(filepath.FromSlash(name)); err != nil {
			return a, err
		}
	default:
		return a, fmt.Errorf("%q is a %s: only files, directories and symbolic links can be kept", name, typeName(fi.Mode()))
	}
	return a, nil
}

func typeName(m iofs.FileMode) string {
	switch {
	case m&iofs.ModeNamedPipe != 0:
		return "fifo"
	case m&iofs.ModeSocket != 0:
		return "socket"
	case m&iofs.ModeDevice != 0:
		return "device"
	default:
		return "file of an unknown type"
	}
}
