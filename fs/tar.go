package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A layout says where what is in the tar of a sealed run, which is computed
// and never stored: the same bytes from whoever has the run.
//
// The run is one directory under its maker's id. First come manifest,
// manifest.sig, info and artifacts.mtree, with which a reader can judge all
// that follows, then everything else in the order of names, a directory
// before what is in it; the run's own directory is last, as bsdtar would date
// it too early otherwise. Headers are ustar (POSIX.1-1988), with one in pax form
// before it where a name is over 100 bytes or not ASCII, a file is over 8 GiB,
// or a time has a fraction or is before 1970.
type layout struct {
	id      string // the maker's
	members []member
	size    int64
}

// A member is a file of a layout: its path in the run is name.
type member struct {
	artifact
	off  int64 // of its header
	head int64 // length of its header
}

// dataEnd returns the offset behind the padding of m's data.
func (m *member) dataEnd() int64 { return m.off + m.head + (m.size+511)&^511 }

// tarFirst are the members that come first.
var tarFirst = []string{"manifest", "manifest.sig", "info", "artifacts.mtree"}

// newLayout makes the layout of the sealed run in root.
func newLayout(root *os.Root) (*layout, error) {
	text := func(name string) ([]byte, error) { return readRoot(root, name) }
	info, err := text("info")
	if err != nil {
		return nil, err
	}
	attrs, err := ParseAttrs(info)
	if err != nil {
		return nil, fmt.Errorf("info: %w", err)
	}
	end, err := parseTime(attrs.Get("end"))
	if err != nil {
		return nil, err
	}
	id := attrs.Get("id")
	if _, _, ok := splitID(id); !ok {
		return nil, fmt.Errorf("info: %q is not an id", id)
	}
	mtree, err := text("artifacts.mtree")
	if err != nil {
		return nil, err
	}
	tree, err := parseMtree(mtree)
	if err != nil {
		return nil, err
	}
	l := &layout{id: id, members: make([]member, 0, len(tree)+len(ourNames)+len(ourDirs)+2)}
	var buf []byte
	add := func(a artifact) {
		a.digest = [32]byte{}
		m := member{artifact: a, off: l.size}
		buf = l.appendHeader(buf[:0], &m)
		m.head = int64(len(buf))
		l.members = append(l.members, m)
		l.size = m.dataEnd()
	}
	ours := func(name string) error {
		fi, err := root.Lstat(filepath.FromSlash(name))
		if err == nil {
			add(artifact{name: name, mode: 0o444, time: end, size: fi.Size()})
		}
		return err
	}
	for _, name := range tarFirst {
		if err := ours(name); err != nil && !(name == "manifest.sig" && errors.Is(err, iofs.ErrNotExist)) {
			return nil, err
		}
	}
	names := map[string]bool{"artifacts.mtree": true, "info": true} // there already
	for _, dir := range ourDirs {
		if dir != "." {
			add(artifact{name: dir, mode: iofs.ModeDir | 0o555, time: end})
		}
		for _, name := range ourNames {
			if d, _ := filepath.Split(name); filepath.Clean(d) == dir && !names[name] {
				if err := ours(name); err != nil {
					return nil, err
				}
			}
		}
		if dir == "artifacts" {
			for _, a := range tree {
				a.name = "artifacts/" + a.name
				add(a)
			}
		}
	}
	add(artifact{name: ".", mode: iofs.ModeDir | 0o555, time: end})
	l.size += 1024 // two blocks of zeros
	return l, nil
}

// readRoot reads a file of ours in root that is never large.
func readRoot(root *os.Root, name string) ([]byte, error) {
	f, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	return readText(f)
}

// appendHeader writes the blocks that stand before m's data.
func (l *layout) appendHeader(b []byte, m *member) []byte {
	name := l.id
	if m.name != "." {
		name += "/" + m.name
	}
	kind, size := byte('0'), m.size
	switch {
	case m.mode.IsDir():
		kind, size, name = '5', 0, name+"/"
	case m.mode&iofs.ModeSymlink != 0:
		kind, size = '2', 0
	}
	var buf [128]byte
	pax := buf[:0]
	if len(name) > 100 || !isASCII(name) {
		pax = appendPax(pax, "path", name)
	}
	if len(m.link) > 100 || !isASCII(m.link) {
		pax = appendPax(pax, "linkpath", m.link)
	}
	if size >= 1<<33 {
		pax = appendPax(pax, "size", strconv.FormatInt(size, 10))
	}
	if m.time.Nanosecond() != 0 || m.time.Unix() < 0 || m.time.Unix() >= 1<<33 {
		pax = appendPax(pax, "mtime", paxTime(m.time))
	}
	if len(pax) > 0 {
		b = appendUstar(b, l.id+"/PaxHeader", "", 'x', 0o444, int64(len(pax)), time.Time{})
		b = append(b, pax...)
		b = appendZeros(b, -len(pax)&511)
	}
	return appendUstar(b, name, m.link, kind, unixMode(m.mode), size, m.time)
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

// A tarFile reads the tar of a run at any offset: it opens no more of the run
// than the file that it reads.
type tarFile struct {
	s  *Store
	id string
	l  *lease
	t  *layout

	mu   sync.Mutex // guards what follows
	open *tarMember // the file read last, whole ones at a time being usual
	done bool
}

type tarMember struct {
	*os.File
	i     int
	users int // guarded by tarFile.mu
}

func (f *tarFile) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	t := f.t
	var head []byte
	for n < len(p) {
		at := off + int64(n)
		if at >= t.size {
			return n, eofIf(n == 0)
		}
		i := sort.Search(len(t.members), func(i int) bool { return t.members[i].dataEnd() > at })
		if i == len(t.members) {
			n += clear0(p[n:], t.size-at)
			continue
		}
		m := &t.members[i]
		switch at -= m.off; {
		case at < m.head:
			head = t.appendHeader(head[:0], m)
			n += copy(p[n:], head[at:])
		case at < m.head+m.size:
			q := p[n:min(int64(len(p)), int64(n)+m.head+m.size-at)]
			k, err := f.readMember(i, q, at-m.head)
			if n += k; k < len(q) {
				if err == nil || err == io.EOF {
					err = fmt.Errorf("%s of %s is shorter than it was: %w", m.name, f.id, ErrIO)
				}
				return n, err
			}
		default:
			n += clear0(p[n:], m.dataEnd()-m.off-at)
		}
	}
	return n, nil
}

func eofIf(eof bool) error {
	if eof {
		return io.EOF
	}
	return nil
}

// clear0 writes at most n zeros.
func clear0(p []byte, n int64) int {
	p = p[:min(int64(len(p)), n)]
	clear(p)
	return len(p)
}

func (f *tarFile) readMember(i int, p []byte, off int64) (int, error) {
	m, err := f.use(i)
	if err != nil {
		return 0, err
	}
	defer f.unuse(m)
	return m.ReadAt(p, off)
}

// Extent implements Extenter: the data of a member are in its file.
func (f *tarFile) Extent(off int64, n int) (*os.File, int64, func()) {
	i := sort.Search(len(f.t.members), func(i int) bool { return f.t.members[i].dataEnd() > off })
	if i == len(f.t.members) {
		return nil, 0, nil
	}
	at := off - f.t.members[i].off - f.t.members[i].head
	if at < 0 || at+int64(n) > f.t.members[i].size {
		return nil, 0, nil
	}
	m, err := f.use(i)
	if err != nil {
		return nil, 0, nil
	}
	return m.File, at, func() { f.unuse(m) }
}

// use opens member i, unless it was the last one that was used.
func (f *tarFile) use(i int) (*tarMember, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return nil, os.ErrClosed
	}
	m := f.open
	if m == nil || m.i != i {
		file, err := f.l.open(f.t.members[i].name)
		if err != nil {
			return nil, err
		}
		f.put(m)
		m = &tarMember{File: file, i: i, users: 1} // one for f.open
		f.open = m
	}
	m.users++
	return m, nil
}

func (f *tarFile) unuse(m *tarMember) {
	f.mu.Lock()
	f.put(m)
	f.mu.Unlock()
}

// put gives back a use of m, which may be nil. f.mu is held.
func (f *tarFile) put(m *tarMember) {
	if m == nil {
		return
	}
	if m.users--; m.users == 0 {
		m.Close()
	}
}

func (f *tarFile) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, iofs.ErrPermission
}

func (f *tarFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return os.ErrClosed
	}
	f.done = true
	f.put(f.open)
	f.open = nil
	f.s.release(f.id, f.l)
	return nil
}

// layout returns the layout of the leased run's tar.
func (l *lease) layout() (*layout, error) {
	l.tarOnce.Do(func() { l.tar, l.tarErr = newLayout(l.root) })
	return l.tar, l.tarErr
}

// openTar opens the tar of a sealed run.
func (s *Store) openTar(id string) (*tarFile, error) {
	l, err := s.acquire(id)
	if err != nil {
		return nil, err
	}
	t, err := l.layout()
	if err != nil {
		s.release(id, l)
		return nil, fmt.Errorf("%s.tar: %w", id, err)
	}
	return &tarFile{s: s, id: id, l: l, t: t}, nil
}

// WriteTar writes the tar of a sealed run, as /ci/<id>.tar has it.
func (s *Store) WriteTar(ctx context.Context, w io.Writer, id string) error {
	f, err := s.openTar(id)
	if err != nil {
		return fmt.Errorf("fs: %w", err)
	}
	defer f.Close()
	_, err = io.Copy(w, NewReader(ctx, f))
	return err
}

// NewReader reads a File from its start, with the context of one use.
func NewReader(ctx context.Context, f File) io.Reader { return &reader{ctx: ctx, f: f} }

type reader struct {
	ctx context.Context
	f   File
	off int64
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.f.ReadAt(r.ctx, p, r.off)
	r.off += int64(n)
	return n, err
}
