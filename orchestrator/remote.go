package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"9ci/fs"
)

const (
	opTimeout  = 10 * time.Second // for an operation that does not block
	maxEntries = 1 << 20          // of a directory
)

// A memberDir is n/<executor>. It is there without the executor's answer; what is
// below it is the executor's.
type memberDir struct {
	v    *view
	sh   *share
	list atomic.Pointer[remoteDir]
}

func (m *memberDir) Stat(context.Context) (fs.Stat, error) { return m.sh.stat(), nil }

func (m *memberDir) Open(context.Context, fs.OpenMode) (fs.File, error) { return nil, fs.ErrIsDir }

func (m *memberDir) Walk(ctx context.Context, name string) (fs.Node, error) {
	r, err := m.root(ctx)
	if err != nil {
		return nil, err
	}
	return r.Walk(ctx, name)
}

func (m *memberDir) ReadDir(ctx context.Context, after uint64, n int) ([]fs.Stat, error) {
	r := m.list.Load()
	if r == nil || after == 0 {
		var err error
		if r, err = m.root(ctx); err != nil {
			return nil, err
		}
		m.list.Store(r)
	}
	return r.ReadDir(ctx, after, n)
}

func (m *memberDir) root(ctx context.Context) (*remoteDir, error) {
	root, err := m.v.attached(ctx, m.sh)
	if err != nil {
		return nil, err
	}
	return &remoteDir{remote: remote{m.v, m.sh, root}, dir: root}, nil
}

// A remote is a file of an executor's tree as the mux shows it: it checks names
// in both directions, gives files numbers of the mux's own, and ends an operation
// that ought not to block.
type remote struct {
	v  *view
	sh *share
	n  fs.Node
}

func (r remote) Stat(ctx context.Context) (fs.Stat, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	st, err := r.n.Stat(ctx)
	if err != nil {
		return st, r.fail(err)
	}
	return r.renumber(st), nil
}

func (r remote) Open(ctx context.Context, mode fs.OpenMode) (fs.File, error) {
	if mode&^fs.OpenRead != 0 && !r.v.mayWrite(r.sh) {
		return nil, iofs.ErrPermission
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if err := r.v.c.requester.open(); err != nil {
		return nil, err
	}
	f, err := r.n.Open(ctx, mode)
	if err != nil {
		r.v.c.requester.closed()
		return nil, r.fail(err)
	}
	return &remoteFile{f, r}, nil
}

// A remoteFile is an open file of an executor's tree. A read may block without
// end, but after opTimeout the executor is probed.
type remoteFile struct {
	fs.File
	r remote
}

func (f *remoteFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	t := time.AfterFunc(opTimeout, f.r.sh.m.conn.suspect)
	defer t.Stop()
	n, err := f.File.ReadAt(ctx, p, off)
	if err != nil && err != io.EOF {
		err = f.r.fail(err)
	}
	return n, err
}

func (f *remoteFile) Close() error {
	f.r.v.c.requester.closed()
	return f.File.Close()
}

// renumber gives a file its number in the mux's tree: the numbers of two executors
// may be equal.
func (r remote) renumber(st fs.Stat) fs.Stat {
	st.Path = r.sh.qid().Child(strconv.FormatUint(st.Path, 16)).Path()
	return st
}

// fail returns what the mux answers for an error of the executor, or of the way to
// it.
func (r remote) fail(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		err = r.sh.m.fail(err)
		r.sh.m.judge(err)
		return err
	case r.sh.ctx.Err() != nil:
		return fmt.Errorf("the executor has left: %w", fs.ErrIO)
	}
	return err
}

// A remoteDir is a directory of an executor's tree.
type remoteDir struct {
	remote
	path   []string // below the executor, as far as isLive looks at it
	dir    fs.Dir
	listed atomic.Int64 // entries handed out since the listing began
}

func (r *remoteDir) Walk(ctx context.Context, name string) (fs.Node, error) {
	if fs.CheckPlain(name) != nil {
		return nil, iofs.ErrNotExist
	}
	if r.v.hides(r.sh) {
		switch n, other := r.boundChild(name); {
		case n != nil:
			return n, nil
		case other:
			return nil, iofs.ErrNotExist
		}
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	n, err := r.dir.Walk(ctx, name)
	if err != nil {
		return nil, r.fail(err)
	}
	sub := remote{r.v, r.sh, n}
	path := r.path
	if len(path) < 3 {
		path = append(slices.Clip(path), name)
	}
	if d, ok := n.(fs.Dir); ok {
		return &remoteDir{remote: sub, path: path, dir: d}, nil
	}
	if isLive(path) && len(r.path) == 2 {
		return liveNode{sub, strings.Join(path, "/")}, nil
	}
	return sub, nil
}

// ReadDir leaves out entries that no honest executor has, and answers an error
// after maxEntries.
func (r *remoteDir) ReadDir(ctx context.Context, after uint64, n int) ([]fs.Stat, error) {
	if after == 0 {
		r.listed.Store(0)
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	for {
		page, err := r.dir.ReadDir(ctx, after, n)
		if err != nil {
			return nil, r.fail(err)
		}
		if len(page) == 0 {
			return nil, nil
		}
		if len(page) > n || r.listed.Add(int64(len(page))) > maxEntries {
			return nil, fmt.Errorf("a directory of over %d entries: %w", maxEntries, fs.ErrIO)
		}
		after = page[len(page)-1].Cookie
		good := page[:0:0]
		for _, st := range page {
			if fs.CheckPlain(st.Name) == nil && st.Cookie != 0 && !strings.ContainsRune(st.Target, 0) {
				good = append(good, r.renumber(st))
			}
		}
		if r.v.hides(r.sh) {
			good = r.boundEntries(good)
		}
		if len(good) > 0 {
			return good, nil
		}
		if after == 0 {
			return nil, fmt.Errorf("a directory that cannot be read: %w", fs.ErrIO)
		}
	}
}
