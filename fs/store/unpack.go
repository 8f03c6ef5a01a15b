package store

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"9ci/fs/ci"
	"9ci/fs/internal/disk"
)

// AddArtifacts unpacks a tar as the run's artifacts, with modes and times,
// without owners: in the form of GNU tar's --format=pax, --sparse or not. The
// error wraps ErrRefused, and says what it is, where the tar holds what a run
// cannot keep: a device, a fifo, a hard link, a name that 9P cannot carry, more
// than the limits of artifacts.mtree. After any error the run has no artifacts.
// Artifacts keep their modes, plus read permission for the owner: the executor
// must be able to serve them. Nothing is written but below the artifacts, and
// never through a link.
func (r *Run) AddArtifacts(ctx context.Context, from io.Reader) error {
	r.mu.Lock()
	state := r.state
	r.mu.Unlock()
	if state != runOpen {
		return r.ended()
	}
	dir := filepath.Join(r.dir, "artifacts")
	err := unpack(ctx, dir, from)
	if err != nil {
		err = fmt.Errorf("store: keep artifacts: %w", err)
		if rerr := remake(dir); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}
	r.change.Broadcast()
	return err
}

// remake makes dir an empty directory.
func remake(dir string) error {
	if err := removeAll(dir); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o700)
}

// unpack unpacks a tar into the empty directory dir.
func unpack(ctx context.Context, dir string, from io.Reader) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	buf := make([]byte, 256<<10)
	// The headers of small files are most of the tar, and each is a read.
	u := unpacker{root: root, tar: newTarReader(ctx, bufio.NewReaderSize(from, len(buf))), parents: map[string]bool{".": true}, buf: buf}
	defer u.leave()
	for {
		h, err := u.tar.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := u.entry(h); err != nil {
			return err
		}
	}
	// A directory gets its mode and time when nothing more is put in it.
	for i := len(u.dirs) - 1; i >= 0; i-- {
		if err := setMeta(root, u.dirs[i]); err != nil {
			return err
		}
	}
	return nil
}

// A tarReader is a tar.Reader whose errors are those of its source, or else
// wrap ErrRefused.
type tarReader struct {
	src *source
	tar *tar.Reader
}

// A source ends when its context does, and remembers its error.
type source struct {
	ctx context.Context // of one tar
	r   io.Reader
	err error
}

func newTarReader(ctx context.Context, r io.Reader) tarReader {
	src := &source{ctx: ctx, r: r}
	return tarReader{src, tar.NewReader(src)}
}

func (s *source) Read(p []byte) (n int, err error) {
	if err = context.Cause(s.ctx); err == nil {
		n, err = s.r.Read(p)
	}
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		s.err = err
	}
	return n, err
}

// Next returns the next header, io.EOF at the tar's end.
func (t tarReader) Next() (*tar.Header, error) {
	h, err := t.tar.Next()
	return h, t.fault(err)
}

// Read reads the current entry.
func (t tarReader) Read(p []byte) (int, error) {
	n, err := t.tar.Read(p)
	return n, t.fault(err)
}

func (t tarReader) fault(err error) error {
	switch {
	case err == nil || err == io.EOF:
		return err
	case t.src.err != nil:
		return t.src.err
	}
	return refuse("%w", err)
}

// An unpacker is one call of unpack.
type unpacker struct {
	root    *os.Root
	tar     tarReader
	total   ci.Tally
	parents map[string]bool // what came that is a directory
	dirs    []ci.Artifact
	buf     []byte

	dir string   // of the last entry
	in  *os.Root // it: most entries are in the directory of the one before
}

// enter returns a directory that came.
func (u *unpacker) enter(dir string) (in *os.Root, err error) {
	if u.in != nil && u.dir == dir {
		return u.in, nil
	}
	u.leave()
	u.dir = dir
	u.in, err = u.root.OpenRoot(filepath.FromSlash(dir))
	return u.in, err
}

func (u *unpacker) leave() {
	if u.in != nil {
		u.in.Close()
		u.in = nil
	}
}

func (u *unpacker) entry(h *tar.Header) error {
	name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
	if (name == "" || name == ".") && h.Typeflag == tar.TypeDir {
		return nil // the artifacts' own directory is ours
	}
	a := ci.Artifact{Name: name, Mode: disk.FileMode(uint32(h.Mode) & 0o7777), Time: h.ModTime}
	switch h.Typeflag {
	case tar.TypeReg:
		a.Size, a.Mode = h.Size, a.Mode|0o400
	case tar.TypeDir:
		a.Mode |= iofs.ModeDir | 0o500
	case tar.TypeSymlink:
		a.Mode, a.Link = iofs.ModeSymlink|0o777, h.Linkname
	default:
		return refuse("%.300q is a %s: only files, directories and symbolic links can be kept", name, entryKind(h.Typeflag))
	}
	if err := u.total.Add(a); err != nil {
		return refuse("%w", err)
	}
	if !u.parents[path.Dir(name)] {
		return refuse("%.300q is in no directory of the tar", name)
	}
	in, err := u.enter(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	switch {
	case a.Mode.IsDir():
		err = in.Mkdir(base, 0o700)
	case a.Mode&iofs.ModeSymlink != 0:
		err = in.Symlink(a.Link, base)
	default:
		err = fill(in, base, u.tar, u.buf)
	}
	if errors.Is(err, iofs.ErrExist) {
		return refuse("%.300q is in the tar twice", name)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if a.Mode.IsDir() {
		u.parents[name] = true
		u.dirs = append(u.dirs, a) // its mode may keep us from filling it
		return nil
	}
	a.Name = base
	return setMeta(in, a)
}

func entryKind(flag byte) string {
	switch flag {
	case tar.TypeChar, tar.TypeBlock:
		return "device"
	case tar.TypeFifo:
		return "fifo"
	case tar.TypeLink:
		return "hard link"
	default:
		return fmt.Sprintf("file of type %q", flag)
	}
}
