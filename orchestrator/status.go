package orchestrator

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"9ci/fs/ci"
)

// status is the status of the root: what the session may know of the whole.
func (v *view) status(ctx context.Context) []byte {
	v.learnBelow(ctx, "")
	names := v.namespaces(math.MaxInt)
	members := map[*member]bool{}
	for _, ns := range names {
		for _, sh := range v.c.s.dir.shares(ns) {
			members[sh.m] = true
		}
	}
	b := ci.Attrs{
		{Name: "mode", Value: "orchestrator"},
		{Name: "namespaces", Value: strconv.Itoa(len(names))},
		{Name: "executors", Value: strconv.Itoa(len(members))},
	}.Text()
	for _, ns := range names {
		b = fmt.Appendf(b, "namespace=%s\n", ci.Quote(ns))
	}
	return b
}

// spaceStatus is the status of a namespace: a line for each executor, with its
// name, its address, how many runs it keeps and has under way, since when it is
// connected, and the key that it came with. Behind these there is a line
// adopts=NAME for each executor that adopts the passed runs of others.
func spaceStatus(d directory, ns string) []byte {
	shares := byName(d.shares(ns))
	b := ci.Attrs{
		{Name: "mode", Value: "orchestrator"},
		{Name: "namespace", Value: ns},
		{Name: "executors", Value: strconv.Itoa(len(shares))},
	}.Text()
	type count struct{ kept, running int }
	counts := make(map[*share]count, len(shares))
	d.runs(ns, func(r *run) bool {
		n := counts[r.share]
		if r.status.Finished() {
			n.kept++
		} else {
			n.running++
		}
		counts[r.share] = n
		return false
	})
	for _, sh := range shares {
		n := counts[sh]
		b = fmt.Appendf(b, "executor=%s\n", ci.Quote(ci.QuoteWords([]string{
			sh.m.name, ci.Dash(sh.m.announced.Load().address), strconv.Itoa(n.kept), strconv.Itoa(n.running), ci.FormatTime(sh.since), sh.m.key,
		})))
	}
	for _, sh := range shares {
		if sh.m.announced.Load().adopts {
			b = fmt.Appendf(b, "adopts=%s\n", ci.Quote(sh.m.name))
		}
	}
	return b
}
