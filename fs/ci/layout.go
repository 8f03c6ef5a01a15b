package ci

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"9ci/fs/internal/disk"
)

// A Layout says what is where in the tar of a sealed run. The tar is computed
// and never stored: it has the same bytes from every store that has the run.
//
// The run is one directory under its maker's id. First come manifest,
// manifest.sig, info and artifacts.mtree, by which a reader can judge all that
// follows. Then comes everything else in the order of names, a directory before
// what is in it. The run's own directory comes last: bsdtar would date it too
// early otherwise. Headers are ustar (POSIX.1-1988). A pax header stands before
// one where a name is over 100 bytes or not ASCII, a file is over 8 GiB, or a
// time has a fraction or is before 1970.
type Layout struct {
	id      string // the maker's
	members []member
	size    int64
}

// A member is a file of a Layout. Its name is its path in the run.
type member struct {
	Artifact
	off  int64 // of its header
	head int64 // length of its header
}

// dataEnd returns the offset behind the padding of m's data.
func (m *member) dataEnd() int64 { return m.off + m.head + (m.Size+511)&^511 }

// tarFirst are the members that come first, in this order.
var tarFirst = []string{"manifest", "manifest.sig", "info", "artifacts.mtree"}

// NewLayout makes the Layout of the sealed run in root. It reads info and
// artifacts.mtree, and asks the sizes of the other files of ours.
func NewLayout(root *os.Root) (*Layout, error) {
	text := func(name string) ([]byte, error) { return ReadText(root, name) }
	info, err := text("info")
	if err != nil {
		return nil, err
	}
	attrs, err := ParseAttrs(info)
	if err != nil {
		return nil, fmt.Errorf("info: %w", err)
	}
	end, err := End(attrs)
	if err != nil {
		return nil, err
	}
	id := attrs.Get("id")
	if _, _, ok := SplitID(id); !ok {
		return nil, fmt.Errorf("info: %q is not an id", id)
	}
	mtree, err := text("artifacts.mtree")
	if err != nil {
		return nil, err
	}
	tree, err := ParseMtree(mtree)
	if err != nil {
		return nil, err
	}
	services, err := ReadServices(root)
	if err != nil {
		return nil, err
	}
	files, dirs := Files(services), Dirs(services)
	l := &Layout{id: id, members: make([]member, 0, len(tree)+len(files)+len(dirs)+2)}
	var buf []byte
	add := func(a Artifact) {
		a.Digest = [32]byte{}
		m := member{Artifact: a, off: l.size}
		buf = l.appendHeader(buf[:0], &m)
		m.head = int64(len(buf))
		l.members = append(l.members, m)
		l.size = m.dataEnd()
	}
	ours := func(name string) error {
		fi, err := root.Lstat(filepath.FromSlash(name))
		if err == nil {
			add(Artifact{Name: name, Mode: 0o444, Time: end, Size: fi.Size()})
		}
		return err
	}
	for _, name := range tarFirst {
		if err := ours(name); err != nil && !(name == "manifest.sig" && errors.Is(err, iofs.ErrNotExist)) {
			return nil, err
		}
	}
	names := map[string]bool{"artifacts.mtree": true, "info": true} // there already
	for _, dir := range dirs {
		if dir != "." {
			add(Artifact{Name: dir, Mode: iofs.ModeDir | 0o555, Time: end})
		}
		for _, name := range files {
			if d, _ := filepath.Split(name); filepath.Clean(d) == dir && !names[name] {
				if err := ours(name); err != nil {
					return nil, err
				}
			}
		}
		if dir == "artifacts" {
			for _, a := range tree {
				a.Name = "artifacts/" + a.Name
				add(a)
			}
		}
	}
	add(Artifact{Name: ".", Mode: iofs.ModeDir | 0o555, Time: end})
	l.size += 1024 // two blocks of zeros
	return l, nil
}

// Size returns the length of the tar in bytes.
func (l *Layout) Size() int64 { return l.size }

// Name returns the path in the run of member i.
func (l *Layout) Name(i int) string { return l.members[i].Name }

// find returns the member whose header, data or padding is at the offset.
// Behind all members it returns their count.
func (l *Layout) find(off int64) int {
	return sort.Search(len(l.members), func(i int) bool { return l.members[i].dataEnd() > off })
}

// Data reports whether the n bytes of the tar at off are all data of one file:
// of member i, from its offset at.
func (l *Layout) Data(off int64, n int) (i int, at int64, ok bool) {
	if i = l.find(off); i == len(l.members) {
		return 0, 0, false
	}
	m := &l.members[i]
	at = off - m.off - m.head
	return i, at, at >= 0 && at+int64(n) <= m.Size
}

// ReadAt reads the tar at off, like io.ReaderAt. It calls read, which is like
// io.ReaderAt too, for the data of member i. The error wraps
// io.ErrUnexpectedEOF where a file is shorter than it was.
func (l *Layout) ReadAt(p []byte, off int64, read func(i int, p []byte, off int64) (int, error)) (n int, err error) {
	var head []byte
	for n < len(p) {
		at := off + int64(n)
		if at >= l.size {
			return n, io.EOF
		}
		i := l.find(at)
		if i == len(l.members) {
			n += clear0(p[n:], l.size-at)
			continue
		}
		m := &l.members[i]
		switch at -= m.off; {
		case at < m.head:
			head = l.appendHeader(head[:0], m)
			n += copy(p[n:], head[at:])
		case at < m.head+m.Size:
			q := p[n:min(int64(len(p)), int64(n)+m.head+m.Size-at)]
			k, err := read(i, q, at-m.head)
			if n += k; k < len(q) {
				if err == nil || err == io.EOF {
					err = fmt.Errorf("%s is shorter than it was: %w", m.Name, io.ErrUnexpectedEOF)
				}
				return n, err
			}
		default:
			n += clear0(p[n:], m.dataEnd()-m.off-at)
		}
	}
	return n, nil
}

// ReadText reads a text of the run in root that is never over MaxText bytes:
// manifest, manifest.sig, artifacts.mtree, key, info, or a status.
func ReadText(root *os.Root, name string) ([]byte, error) {
	f, err := disk.OpenRegular(root, name)
	if err != nil {
		return nil, err
	}
	return disk.ReadAll(f, MaxText)
}

// appendHeader writes the blocks that stand before m's data.
func (l *Layout) appendHeader(b []byte, m *member) []byte {
	name := l.id
	if m.Name != "." {
		name += "/" + m.Name
	}
	kind, size := byte('0'), m.Size
	switch {
	case m.Mode.IsDir():
		kind, size, name = '5', 0, name+"/"
	case m.Mode&iofs.ModeSymlink != 0:
		kind, size = '2', 0
	}
	var buf [128]byte
	pax := buf[:0]
	if len(name) > 100 || !isASCII(name) {
		pax = appendPax(pax, "path", name)
	}
	if len(m.Link) > 100 || !isASCII(m.Link) {
		pax = appendPax(pax, "linkpath", m.Link)
	}
	if size >= 1<<33 {
		pax = appendPax(pax, "size", strconv.FormatInt(size, 10))
	}
	if m.Time.Nanosecond() != 0 || m.Time.Unix() < 0 || m.Time.Unix() >= 1<<33 {
		pax = appendPax(pax, "mtime", paxTime(m.Time))
	}
	if len(pax) > 0 {
		b = appendUstar(b, l.id+"/PaxHeader", "", 'x', 0o444, int64(len(pax)), time.Time{})
		b = append(b, pax...)
		b = appendZeros(b, -len(pax)&511)
	}
	return appendUstar(b, name, m.Link, kind, disk.UnixMode(m.Mode), size, m.Time)
}

// appendUstar writes one header block; what does not fit in a field is cut off.
func appendUstar(to []byte, name, link string, kind byte, mode uint32, size int64, t time.Time) []byte {
	to = appendZeros(to, 512)
	b := to[len(to)-512:]
	copy(b[:100], name)
	octal := func(field []byte, v int64) {
		n := len(field) - 1
		if v < 0 || v >= 1<<(3*n) {
			v = 0 // a pax header has it
		}
		for i := n - 1; i >= 0; i-- {
			field[i] = '0' + byte(v&7)
			v >>= 3
		}
	}
	octal(b[100:108], int64(mode))
	octal(b[108:116], 0) // uid
	octal(b[116:124], 0) // gid
	octal(b[124:136], size)
	sec := int64(0)
	if !t.IsZero() {
		sec = t.Unix()
	}
	octal(b[136:148], sec)
	b[156] = kind
	copy(b[157:257], link)
	copy(b[257:265], "ustar\x0000")
	octal(b[329:337], 0) // device numbers
	octal(b[337:345], 0)
	sum := int64(8 * ' ')
	for _, c := range b {
		sum += int64(c)
	}
	octal(b[148:155], sum)
	b[155] = ' '
	return to
}

func appendZeros(b []byte, n int) []byte {
	var zeros [512]byte
	return append(b, zeros[:n]...)
}

// appendPax appends a record "LENGTH key=value\n", whose length counts itself.
func appendPax(b []byte, key, value string) []byte {
	n := len(" =\n") + len(key) + len(value)
	size := n + digits(n)
	if n+digits(size) != size {
		size = n + digits(size)
	}
	b = strconv.AppendInt(b, int64(size), 10)
	b = append(append(b, ' '), key...)
	b = append(append(b, '='), value...)
	return append(b, '\n')
}

func digits(n int) int { return len(strconv.Itoa(n)) }

func paxTime(t time.Time) string {
	sec, neg := t.Unix(), false
	if neg = sec < 0; neg {
		if sec = -sec; t.Nanosecond() > 0 {
			sec, t = sec-1, time.Unix(0, 1e9-int64(t.Nanosecond()))
		}
	}
	b := make([]byte, 0, 32)
	if neg {
		b = append(b, '-')
	}
	b = appendNanos(strconv.AppendInt(b, sec, 10), t)
	return strings.TrimSuffix(strings.TrimRight(string(b), "0"), ".")
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 || r == 0 })
}

// clear0 writes at most n zeros.
func clear0(p []byte, n int64) int {
	p = p[:min(int64(len(p)), n)]
	clear(p)
	return len(p)
}
