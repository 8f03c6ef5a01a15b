package orchestrator

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
)

// status is the root's: what the session may know of the whole.
func (v *view) status() []byte {
	names := v.namespaces()
	members := map[*member]bool{}
	for _, ns := range names {
		for _, sh := range v.c.s.dir.shares(ns) {
			members[sh.m] = true
		}
	}
	b := fs.Attrs{
		{Name: "mode", Value: "orchestrator"},
		{Name: "namespaces", Value: strconv.Itoa(len(names))},
		{Name: "executors", Value: strconv.Itoa(len(members))},
	}.Text()
	for _, ns := range names {
		b = fmt.Appendf(b, "namespace=%s\n", fs.Quote(ns))
	}
	return b
}

// status is a namespace's: a line for each executor, with its name, address,
// how many runs it keeps and has under way, since when it is connected, and the
// key that it came with.
func (d *directory) status(ns string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	sp := d.spaces[ns]
	if sp == nil {
		sp = new(space)
	}
	b := fs.Attrs{
		{Name: "mode", Value: "orchestrator"},
		{Name: "namespace", Value: ns},
		{Name: "executors", Value: strconv.Itoa(len(sp.shares))},
	}.Text()
	for _, sh := range sp.sorted() {
		kept, running := 0, 0
		for _, r := range sh.runs {
			if r.status.Finished() {
				kept++
			} else {
				running++
			}
		}
		b = fmt.Appendf(b, "executor=%s\n", fs.Quote(fs.QuoteWords([]string{
			sh.m.name, dash(sh.m.address), strconv.Itoa(kept), strconv.Itoa(running), wire.Stamp(sh.since), sh.m.key,
		})))
	}
	return b
}

// sorted returns the shares by the executor's name.
func (sp *space) sorted() []*share {
	return slices.SortedFunc(maps.Values(sp.shares), func(a, b *share) int { return cmp.Compare(a.m.name, b.m.name) })
}

// byOrder returns the share's runs, the one learned of first first.
func (sh *share) byOrder() []*run {
	return slices.SortedFunc(maps.Values(sh.runs), func(a, b *run) int { return cmp.Compare(a.order, b.order) })
}

// A snapshot is an open file whose text does not change.
type snapshot []byte

func (s snapshot) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off >= int64(len(s)) {
		return 0, io.EOF
	}
	return copy(p, s[off:]), nil
}

func (s snapshot) WriteAt(context.Context, []byte, int64) (int, error) { return 0, fs.ErrReadOnly }
func (s snapshot) Close() error                                        { return nil }
