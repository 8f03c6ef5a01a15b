package repo

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"9ci/cmd/internal/home"
)

// A pointer is what git keeps of a file that is kept in Git LFS
// (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md).
type pointer struct {
	oid  string // the SHA-256 of the contents
	size int64  // of the contents, in bytes
}

// maxPointer is more than a pointer's size in bytes.
const maxPointer = 1024

var pointerForm = regexp.MustCompile(`^version https://(?:git-lfs|hawser)\.github\.com/spec/v1\n((?:ext-[^\n]*\n)*)oid sha256:([0-9a-f]{64})\nsize ([0-9]{1,18})\n?$`)

// An lfsFiles is the tar of Git LFS files. The first repository that has some makes it.
type lfsFiles struct {
	f *os.File
	w *tar.Writer
}

// cloneLFS adds the Git LFS files of dst's head, which is commit in src, to the tar:
// each object where git-lfs keeps it, in the git directory's lfs/objects, and each file
// in lfs/tree, as a link to its object.
func (c *cloning) cloneLFS(ctx context.Context, src source, dst *target, commit string) error {
	files, err := dst.pointers(ctx)
	if err != nil || len(files) == 0 {
		return err
	}
	if c.lfs.w == nil {
		if c.lfs.f, err = os.Create(filepath.Join(c.dir, lfsTar)); err != nil {
			return err
		}
		c.lfs.w = tar.NewWriter(c.lfs.f)
	}
	dirs := []string{filepath.Join(src.GitDir, "lfs")}
	// The user may have moved it (git-lfs-config(5)).
	storage, err := answer(ctx, src.Top, append(userEnv(), "GIT_DIR="+src.dir), "", "config", "--type=path", "--get", "lfs.storage")
	if err != nil && status(err) != 1 {
		return err
	}
	if storage = strings.TrimSuffix(storage, "\n"); filepath.IsAbs(storage) {
		dirs = append(dirs, storage)
	} else if storage != "" {
		dirs = append(dirs, filepath.Join(src.GitDir, storage))
	}
	prefix := strings.TrimPrefix(strings.TrimPrefix(dst.at, gitDir), "/")
	objects := make(map[string]bool) // those in the tar
	var lacks names
	for _, path := range slices.Sorted(maps.Keys(files)) {
		p := files[path]
		object := filepath.Join("objects", p.oid[:2], p.oid[2:4], p.oid)
		name := filepath.Join(prefix, "lfs", object)
		if !objects[p.oid] {
			switch err := c.lfs.add(ctx, dirs, object, name, p); {
			case errors.Is(err, iofs.ErrNotExist):
				lacks.add(src.name(path))
				continue
			case err != nil:
				return fmt.Errorf("%s is kept in Git LFS: %w", printable(src.name(path)), err)
			}
			objects[p.oid] = true
		}
		link := &tar.Header{Typeflag: tar.TypeLink, Name: filepath.Join(prefix, "lfs", "tree") + "/" + path, Linkname: name, Format: tar.FormatGNU}
		if err := c.lfs.w.WriteHeader(link); err != nil {
			return err
		}
	}
	if lacks.n > 0 {
		return fmt.Errorf("this host lacks the Git LFS objects of %s: %s lfs fetch origin %s fetches them", &lacks, src.git, commit)
	}
	return nil
}

// add writes the object to the tar under the name given, from the first of dirs that
// has it. If none has, the error is ErrNotExist.
func (t *lfsFiles) add(ctx context.Context, dirs []string, object, name string, p pointer) error {
	for _, dir := range dirs {
		// Not to wait for a writer if it is a fifo.
		f, err := os.OpenFile(filepath.Join(dir, object), os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		if err != nil {
			return plainError(err)
		}
		defer f.Close()
		fi, err := f.Stat()
		if err != nil {
			return plainError(err)
		}
		damaged := fmt.Errorf("its object %s on this host is damaged: git lfs fsck moves it away, and git lfs fetch brings another", p.oid)
		if !fi.Mode().IsRegular() || fi.Size() != p.size {
			return damaged
		}
		if err := t.w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: p.size, Format: tar.FormatGNU}); err != nil {
			return err
		}
		sum := sha256.New()
		switch n, err := io.Copy(t.w, io.TeeReader(io.LimitReader(contextReader{ctx, f}, p.size), sum)); {
		case err != nil:
			return plainError(err)
		case n != p.size || fmt.Sprintf("%x", sum.Sum(nil)) != p.oid:
			return damaged
		}
		return nil
	}
	return iofs.ErrNotExist
}

// plainError returns err without the path of a file of the host.
func plainError(err error) error {
	if p, ok := errors.AsType[*iofs.PathError](err); ok {
		return p.Err
	}
	return err
}

// close ends the tar, if there is one.
func (t *lfsFiles) close() error {
	if t.w == nil {
		return nil
	}
	return errors.Join(t.w.Close(), t.f.Close())
}

// A contextReader reads until its context ends. The context is that of one Clone.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// pointers returns the files of the head that are pointers and have the attribute
// filter=lfs, by path.
func (t *target) pointers(ctx context.Context) (map[string]pointer, error) {
	// Most repositories have none, and need not be looked at further.
	if err := t.grep(ctx, t.tree, "filter=lfs", func(string) error { return errFound }, ".gitattributes", "**/.gitattributes"); err != errFound {
		return nil, err
	}
	blobs := make(map[string]string) // small ones, by path
	var paths strings.Builder
	blob := func(e entry) error {
		if e.kind == "blob" && e.size < maxPointer {
			blobs[e.path] = e.id
			paths.WriteString(e.path + "\x00")
		}
		return nil
	}
	if err := t.list(ctx, t.tree, blob, "-l"); err != nil {
		return nil, err
	}
	filtered, err := t.filtered(ctx, paths.String())
	if err != nil {
		return nil, err
	}
	files := make(map[string]pointer)
	for chunk := range slices.Chunk(filtered, maxAnswer/(2*maxPointer)) {
		var ids strings.Builder
		for _, path := range chunk {
			ids.WriteString(blobs[path] + "\n")
		}
		out, err := t.git(ctx, ids.String(), "cat-file", "--batch")
		if err != nil {
			return nil, err
		}
		for _, path := range chunk {
			var id, kind string
			var size int
			head, rest, _ := strings.Cut(out, "\n")
			if n, _ := fmt.Sscanf(head, "%s %s %d", &id, &kind, &size); n != 3 || id != blobs[path] || size < 0 || size >= len(rest) {
				return nil, fmt.Errorf("git cat-file answered %q for %s", head, blobs[path])
			}
			m := pointerForm.FindStringSubmatch(rest[:size])
			out = rest[size+1:]
			if m == nil {
				continue // git-lfs takes it as it is
			}
			if m[1] != "" {
				return nil, fmt.Errorf("%s is kept in Git LFS with an extension, whose program 9ci does not run: keep it without", printable(path))
			}
			p := pointer{oid: m[2]}
			if p.size, err = strconv.ParseInt(m[3], 10, 64); err != nil {
				return nil, err
			}
			files[path] = p
		}
	}
	return files, nil
}

// filtered returns those of the paths, each with a NUL behind it, that have the
// attribute filter=lfs in the head.
func (t *target) filtered(ctx context.Context, paths string) ([]string, error) {
	var found []string
	err := t.borrow(func(env []string) error {
		// Git looks for attributes of a tree in an index. A bare repository has none.
		index, err := home.TempDir("git")
		if err != nil {
			return err
		}
		defer os.RemoveAll(index)
		env = append(env, "GIT_INDEX_FILE="+filepath.Join(index, "index"), "GIT_ATTR_NOSYSTEM=1")
		if err := run(ctx, t.dir, env, nil, io.Discard, "read-tree", t.tree); err != nil {
			return err
		}
		var answer []string // path, attribute, value
		w := &items{sep: 0, f: func(item string) error {
			if answer = append(answer, item); len(answer) == 3 {
				if answer[2] == "lfs" {
					found = append(found, answer[0])
				}
				answer = answer[:0]
			}
			return nil
		}}
		return run(ctx, t.dir, env, strings.NewReader(paths), w, "-c", "core.attributesFile="+os.DevNull, "check-attr", "--cached", "--stdin", "-z", "filter")
	})
	return found, err
}

var errFound = errors.New("found")

// grep calls f with the path of each file of tree that has a line which matches
// pattern.
func (r *Repo) grep(ctx context.Context, tree, pattern string, f func(path string) error, paths ...string) error {
	path := func(e string) error { return f(strings.TrimPrefix(e, tree+":")) }
	err := r.each(ctx, 0, path, append([]string{"grep", "-a", "-l", "-z", "-e", pattern, tree, "--"}, paths...)...)
	if status(err) == 1 { // no line matches
		return nil
	}
	return err
}
