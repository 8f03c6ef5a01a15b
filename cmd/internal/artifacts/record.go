package artifacts

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A record lists what 9ci has put in a directory. While the directory is replaced,
// the record lists what is in the old one and in the new one.
//
//	for "/home/alice/hello/out"
//	beside ".9ci-ABC" or filling ".9ci-ABC"
//	"name" what
//	...
type record struct {
	path    string // of the directory, for people
	beside  string // the name of the directory that may be beside it, or ""
	filling bool   // it is not full, and the old one is where it was
	files   files
}

// files has for each name what it is: a file with its size and digest, a link with
// its target, or a directory. While a directory is replaced, a name may be several
// of these.
type files map[string][]string

func (f files) has(name, what string) bool { return slices.Contains(f[name], what) }

func (f files) add(name, what string) {
	if !f.has(name, what) {
		f[name] = append(f[name], what)
	}
}

// with returns the union of two lists.
func (f files) with(g files) files {
	all := make(files)
	for _, m := range []files{f, g} {
		for name, list := range m {
			for _, what := range list {
				all.add(name, what)
			}
		}
	}
	return all
}

// repository returns the name of a git directory among files, or the name under
// which git would look for one, or "".
func (f files) repository() string {
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if strings.EqualFold(path.Base(name), ".git") {
			return name
		}
		dir := path.Dir(name)
		if path.Base(name) == "HEAD" && isGitDir(func(name string) bool { return f[path.Join(dir, name)] != nil }) {
			return dir
		}
	}
	return ""
}

// readRecord reads a record. It is empty if there is no file.
func readRecord(name string) (record, error) {
	r := record{files: make(files)}
	text, err := os.ReadFile(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	for line := range strings.Lines(string(text)) {
		if err := r.line(strings.TrimSuffix(line, "\n")); err != nil {
			return r, fmt.Errorf("%s: %q is no line of a record: remove the file, and the directory that it is of", name, line)
		}
	}
	return r, nil
}

func (r *record) line(s string) (err error) {
	if word, rest, ok := strings.Cut(s, " "); ok && !strings.HasPrefix(word, `"`) {
		value, err := strconv.Unquote(rest)
		switch word {
		case "for":
			r.path = value
		case "beside", "filling":
			r.beside, r.filling = value, word == "filling"
			if value != filepath.Base(value) {
				return strconv.ErrSyntax
			}
		default:
			return strconv.ErrSyntax
		}
		return err
	}
	q, err := strconv.QuotedPrefix(s)
	if err != nil {
		return err
	}
	name, err := strconv.Unquote(q)
	if err != nil || len(s) < len(q)+2 {
		return strconv.ErrSyntax
	}
	r.files.add(name, s[len(q)+1:])
	return nil
}

// write replaces the record as a whole. It is on disk when write returns.
func (r *record) write(name string) error {
	b := fmt.Appendf(nil, "for %q\n", r.path)
	if r.beside != "" {
		word := "beside"
		if r.filling {
			word = "filling"
		}
		b = fmt.Appendf(b, "%s %q\n", word, r.beside)
	}
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		for _, what := range r.files[name] {
			b = fmt.Appendf(b, "%q %s\n", name, what)
		}
	}
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// walk calls visit with the path of each entry below a directory, in the order of
// names.
func walk(root *os.Root, dir string, visit func(name string, e iofs.DirEntry) error) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	list, err := d.ReadDir(-1)
	d.Close()
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b iofs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range list {
		name := path.Join(dir, e.Name())
		if err := visit(name, e); err != nil {
			return err
		}
		if e.IsDir() {
			if err := walk(root, name, visit); err != nil {
				return err
			}
		}
	}
	return nil
}

// describe returns what an entry is, in the words of files.
func describe(root *os.Root, name string, e iofs.DirEntry) (string, error) {
	switch e.Type() {
	case iofs.ModeDir:
		return "dir", nil
	case iofs.ModeSymlink:
		to, err := root.Readlink(name)
		return "link " + strconv.Quote(to), err
	case 0:
		f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		h := sha256.New()
		n, err := io.Copy(h, f)
		return fmt.Sprintf("file %d %x", n, h.Sum(nil)), err
	}
	return e.Type().String(), nil
}
