package orchestrator

import (
	"context"
	"io"
	iofs "io/fs"
	"sync"
	"time"

	"github.com/google/btree"

	"9ci/fs"
	"9ci/fs/ci"
)

// A runIndex is the runs of a namespace that its executors have told of, in the order of
// its index file. It changes with each run, so that to open the file costs the same
// however many executors there are.
type runIndex struct {
	tree *btree.BTreeG[indexed] // nil while it is empty
	size int64                  // bytes of all lines
}

// An indexed is a run at its place in an index.
type indexed struct {
	at  int64 // the run's indexedAt, which may have changed since
	run *run
}

// before reports whether a comes before b: the newest does.
func (a indexed) before(b indexed) bool {
	if a.at != b.at {
		return a.at > b.at
	}
	return a.run.order > b.run.order
}

// put puts a run where its status and order have it. What an executor dates in the future
// counts as of now: it stays before no others for ever.
func (x *runIndex) put(r *run) {
	x.remove(r)
	if x.tree == nil {
		x.tree = btree.NewG(16, indexed.before)
	}
	r.indexedAt, r.indexedSize = min(r.status.Time.UnixMicro(), time.Now().UnixMicro()), len(r.indexLine(nil))
	x.size += int64(r.indexedSize)
	x.tree.ReplaceOrInsert(indexed{r.indexedAt, r})
}

// remove removes a run, if it is there.
func (x *runIndex) remove(r *run) {
	if r.indexedSize == 0 {
		return
	}
	x.tree.Delete(indexed{r.indexedAt, r})
	x.size -= int64(r.indexedSize)
	r.indexedSize = 0
}

// indexLine adds the run's line of the index of its namespace: as in its executor's index,
// but with its path below the namespace in the place of its id.
func (r *run) indexLine(b []byte) []byte {
	return ci.IndexLine{ID: r.path(), Status: r.status, Tree: r.tree, Commit: r.commit, Signer: r.signer, Score: r.score}.Append(b)
}

// list puts a run where it belongs in the index of the share's namespace, if the executor
// has told of it.
func (sh *share) list(r *run) {
	if r.listed {
		sh.d.spaces[sh.ns].index.put(r)
	}
}

// remove forgets a run.
func (sh *share) remove(r *run) {
	sh.d.spaces[sh.ns].index.remove(r)
	delete(sh.runs, r.id)
}

func (d *localDirectory) index(ns string) (size int64, next nextLines) {
	d.mu.Lock()
	defer d.mu.Unlock()
	sp := d.spaces[ns]
	if sp == nil || sp.index.tree == nil {
		return 0, func(b []byte, _ int) ([]byte, bool) { return b, false }
	}
	tree, from, begun := sp.index.tree.Clone(), indexed{}, false
	return sp.index.size, func(b []byte, n int) (_ []byte, more bool) {
		d.mu.Lock()
		defer d.mu.Unlock()
		each := func(x indexed) bool {
			switch {
			case begun && x == from:
			case n == 0:
				more = true
				return false
			default:
				from, begun = x, true
				n--
				if x.run.indexedSize > 0 { // it is still there
					b = x.run.indexLine(b)
				}
			}
			return true
		}
		if begun {
			tree.AscendGreaterOrEqual(from, each)
		} else {
			tree.Ascend(each)
		}
		return b, more
	}
}

// nextLines adds lines of the next n runs of an index to b. Those of runs that have been
// removed are left out, so it may add none although there are more.
type nextLines func(b []byte, n int) (_ []byte, more bool)

// An indexNode is the index file of a namespace.
type indexNode struct {
	d    directory
	ns   string
	path string // in the tree
}

func (f indexNode) Stat(context.Context) (fs.Stat, error) {
	size, _ := f.d.index(f.ns)
	return fs.FileStat(base(f.path), qidOf(f.path), size, started), nil
}

func (f indexNode) Open(_ context.Context, mode fs.OpenMode) (fs.File, error) {
	if mode != fs.OpenRead {
		return nil, iofs.ErrPermission
	}
	x := &indexFile{indexNode: f}
	x.begin()
	return x, nil
}

const (
	indexAtOnce = 256       // lines of an index that are made at a time
	indexKept   = 256 << 10 // bytes that are kept for readers that go back
)

// An indexFile is an open index. It has the runs that there were when it was opened, each
// with what is known of it when it is read. It keeps but the text that was read last, for
// an index may have megabytes and a client many of them open: one that goes back further
// reads the index as it is by then.
type indexFile struct {
	indexNode

	mu    sync.Mutex // guards what follows
	next  nextLines
	text  []byte
	start int64 // of text
	ended bool
}

// begin goes to the beginning of the index as it is now.
func (f *indexFile) begin() {
	_, f.next = f.d.index(f.ns)
	f.text, f.start, f.ended = nil, 0, false
}

func (f *indexFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off < f.start {
		f.begin()
	}
	for !f.ended && f.start+int64(len(f.text)) < off+int64(len(p)) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if n := min(int64(len(f.text)), off-f.start) - indexKept; n > indexKept {
			f.text = f.text[:copy(f.text, f.text[n:])]
			f.start += n
		}
		var more bool
		f.text, more = f.next(f.text, indexAtOnce)
		f.ended = !more
	}
	if off >= f.start+int64(len(f.text)) {
		return 0, io.EOF
	}
	return copy(p, f.text[off-f.start:]), nil
}

func (f *indexFile) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, iofs.ErrPermission
}

func (f *indexFile) Close() error { return nil }
