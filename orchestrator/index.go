package orchestrator

import (
	"cmp"
	"slices"

	"9ci/fs/ci"
)

// spaceIndex is the index of a namespace: a line for each run that the executors have told
// of, the newest first, as in their own index files but with the run's path below the
// namespace in the place of its id.
func spaceIndex(d directory, ns string) []byte {
	all := d.runs(ns, func(r *run) bool { return r.listed })
	slices.SortFunc(all, func(a, b run) int {
		return cmp.Or(b.status.Time.Compare(a.status.Time), cmp.Compare(b.order, a.order))
	})
	var b []byte
	for i := range all {
		r := &all[i]
		b = ci.IndexLine{ID: r.path(), Status: r.status, Tree: r.tree, Commit: r.commit, Signer: r.signer, Score: r.score}.Append(b)
	}
	return b
}
