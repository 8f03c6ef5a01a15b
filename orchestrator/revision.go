package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"
	"strings"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/door"
)

// maxTried is how many executors are asked for a run, one after the other.
const maxTried = 4

// Revisions are ci or artifacts of a namespace. The entries are aliases, which a
// directory read does not list.
type revisions struct {
	v    *view
	ns   string
	name string
}

func (r revisions) dir() fs.Dir {
	none := func(context.Context) ([]fs.Node, error) { return nil, nil }
	return newDir(join(r.ns, r.name), none, r.find)
}

// find returns the best run of a revision, of the first executor that answers.
func (r revisions) find(ctx context.Context, rev string) (fs.Node, error) {
	if ok, err := r.v.enter(ctx, r.ns); err != nil {
		return nil, err
	} else if !ok {
		return nil, iofs.ErrNotExist
	}
	rev, tar := strings.CutSuffix(rev, ".tar")
	if tar && r.name != "ci" {
		return nil, iofs.ErrNotExist
	}
	var failed error // of an executor that may have it: that it is busy, if one is
	for _, b := range lookup(ctx, r.v.c.s.dir, r.ns, rev) {
		sub := "ci/" + b.id
		switch {
		case tar:
			sub += ".tar"
		case r.name == "artifacts":
			sub += "/artifacts"
		}
		n, err := fs.Walk(ctx, &memberDir{v: r.v, sh: b.share}, sub)
		if errors.Is(err, iofs.ErrNotExist) {
			b.share.forget(b.id)
			continue
		}
		if err != nil {
			if failed == nil || errors.Is(err, fs.ErrBusy) {
				failed = err
			}
			continue
		}
		dir, ok := n.(fs.Dir)
		if !ok {
			return n, nil
		}
		st := fs.DirStat(rev, qidOf(join(join(r.ns, r.name), rev)), b.status.Time)
		st.Mode |= iofs.ModeSymlink
		st.Target = ".." + b.share.path() + "/" + sub
		return alias{dir, st}, nil
	}
	if failed != nil {
		return nil, failed
	}
	return nil, iofs.ErrNotExist
}

// An alias is another name of a directory.
type alias struct {
	fs.Dir
	stat fs.Stat
}

func (a alias) Stat(ctx context.Context) (fs.Stat, error) {
	st := a.stat
	if door.Contained(ctx) {
		st.Mode, st.Target = st.Mode&^iofs.ModeSymlink, ""
	}
	return st, nil
}

// lookup returns the finished runs in ns that rev names, the best first. An
// ambiguous rev names none.
func lookup(ctx context.Context, d directory, ns, rev string) []run {
	match := func(r *run) bool { return r.status.Finished() && (rev == "last" || r.named(rev)) }
	var all []run
	if rev == "last" {
		all = d.runs(ns, match)
		slices.SortFunc(all, func(a, b run) int {
			return cmp.Or(b.status.Time.Compare(a.status.Time), cmp.Compare(b.order, a.order))
		})
	} else {
		all = withKeys(ctx, d, ns, match) // the default targets come first
		if ambiguous(all, rev) {
			return nil
		}
		slices.SortFunc(all, func(a, b run) int { return ci.CompareBest(a.candidate(), b.candidate()) })
	}
	// An executor that has not answered of late is asked last.
	now := time.Now()
	slices.SortStableFunc(all, func(a, b run) int {
		switch mute := a.share.m.mute(now); {
		case mute == b.share.m.mute(now):
			return 0
		case mute:
			return 1
		}
		return -1
	})
	return all[:min(len(all), maxTried)]
}

// ambiguous reports whether rev begins more than one hash.
func ambiguous(runs []run, rev string) bool {
	full := map[string]bool{}
	for _, r := range runs {
		for _, h := range []string{r.commit, r.tree} {
			if strings.HasPrefix(h, rev) {
				full[h] = true
			}
		}
	}
	return len(full) > 1
}

// entered returns the namespace that a command names or, without a name, is for, if v may
// enter it.
func (v *view) entered(ctx context.Context, namespace string) (string, error) {
	ns, err := v.homeAfter(ctx, namespace)
	if err != nil {
		return "", err
	}
	if ns, err = ci.CleanNamespace(ns); err != nil {
		return "", iofs.ErrNotExist
	}
	if ok, err := v.enter(ctx, ns); err != nil {
		return "", err
	} else if !ok {
		return "", v.absent(ns)
	}
	return ns, nil
}

// await returns the path of a run of rev in a namespace: one that is under way, else
// the best that has ended, else the first to come, for which it waits.
func (v *view) await(ctx context.Context, namespace, rev string) (string, error) {
	ns, err := v.entered(ctx, namespace)
	if err != nil {
		return "", err
	}
	if rev != "last" && (len(rev) < 7 || !ci.IsHex(rev)) {
		return "", fmt.Errorf("%.80q is known to an executor alone: want last, or seven or more digits of a commit, a tree or a score", rev)
	}
	d := v.c.s.dir
	w := d.watch(ns)
	defer w.close()
	_, off := w.state()
	for buf := make([]byte, 4096); ; {
		under := d.runs(ns, func(r *run) bool { return !r.status.Finished() && (rev == "last" || r.begins(rev)) })
		if len(under) > 0 {
			r := slices.MaxFunc(under, func(a, b run) int { return cmp.Compare(a.order, b.order) })
			return ns + r.path(), nil
		}
		if best := lookup(ctx, d, ns, rev); len(best) > 0 {
			return ns + best[0].path(), nil
		}
		n, err := w.lines.ReadAt(ctx, buf, off)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if off += int64(n); err != nil { // too far behind
			_, off = w.state()
		}
	}
}

// begins reports whether rev is a name of a run that has not ended. Its commit may
// not be known yet but by the digits that its id begins with.
func (r *run) begins(rev string) bool {
	digits, _, _ := strings.Cut(r.id, ".")
	return r.named(rev) || strings.HasPrefix(digits, rev) || strings.HasPrefix(rev, digits)
}
