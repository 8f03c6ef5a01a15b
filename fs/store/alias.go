package store

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"
	"strings"
	"time"

	"9ci/fs/ci"
	"9ci/fs/internal/disk"
)

// errAmbiguous is iofs.ErrNotExist too: a name of two things names nothing.
var errAmbiguous = fmt.Errorf("the prefix is of several commits: %w", iofs.ErrNotExist)

// Lookup returns the run that a name means: an id, or that of a run which was replaced; last; a commit, a tree, or a
// prefix of either, as ci.IsPrefix has it, which mean the best of their runs;
// or a score. It reports iofs.ErrNotExist where there is none. Only a
// repository knows head and green, and only an executor held: they are the tree's.
func (s *Store) Lookup(rev string) (Entry, error) {
	if _, _, ok := ci.SplitID(rev); ok {
		e, err := s.Get(rev)
		if by := s.instead(rev); err != nil && by != "" {
			return s.Get(by)
		}
		return e, err
	}
	if rev == "last" {
		for e := range s.Runs() {
			return e, nil
		}
	} else if ci.IsPrefix(rev) {
		e, err := s.best(rev)
		if err == nil || errors.Is(err, errAmbiguous) {
			return e, err
		}
	}
	return Entry{}, &iofs.PathError{Op: "find", Path: rev, Err: iofs.ErrNotExist}
}

// Ranked returns the runs of a commit or of a tree, which is named by all its digits, the
// best first: that is the one which Lookup returns.
func (s *Store) Ranked(name string) []Entry {
	if !ci.IsHash(name) {
		return nil
	}
	var all []Entry
	for e := range s.Runs() {
		if e.Commit == name || e.Tree == name {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b Entry) int { return ci.CompareBest(a.candidate(), b.candidate()) })
	return all
}

// instead returns the id of the run that was replayed in the place of another, or "".
func (s *Store) instead(id string) string {
	by, _ := disk.ReadFile(s.path("instead", id), ci.MaxText)
	return string(by)
}

// best returns the best run of a commit, a tree, or an unambiguous prefix.
func (s *Store) best(prefix string) (Entry, error) {
	var named oid // what the prefix means
	full := len(prefix) == 40 || len(prefix) == 64
	matches := func(name oid) (bool, error) {
		digits := name.String()
		if !strings.HasPrefix(digits, prefix) || full && digits != prefix {
			return false, nil
		}
		if named.n != 0 && named != name {
			return false, errAmbiguous
		}
		named = name
		return true, nil
	}
	top, runs, err := s.bestSealed(prefix, matches)
	if err != nil {
		return Entry{}, err
	}
	var best Entry
	if top != nil {
		best = s.entry(top)
	}
	for _, r := range runs {
		e := r.entry()
		for _, digits := range []string{e.Commit, e.Tree} {
			name, _ := parseOptionalOID(digits)
			ok, err := matches(name)
			if err != nil {
				return Entry{}, err
			}
			if ok && (best.ID == "" || ci.CompareBest(e.candidate(), best.candidate()) < 0) {
				best = e
			}
		}
	}
	if best.ID == "" {
		return Entry{}, iofs.ErrNotExist
	}
	return best, nil
}

// bestSealed returns the best of the sealed runs, and all unfinished ones. It
// looks for a score last.
func (s *Store) bestSealed(prefix string, matches func(oid) (bool, error)) (top *record, runs []*Run, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	consider := func(records []*record, hash func(*record) []byte, name func(*record) oid) error {
		for r := range byHash(records, prefix, hash) {
			ok, err := matches(name(r))
			if err != nil {
				return err
			}
			if ok && (top == nil || ci.CompareBest(r.candidate(), top.candidate()) < 0) {
				top = r
			}
		}
		return nil
	}
	err = consider(s.index.byID, commitOf, func(r *record) oid { return r.commit })
	if err == nil {
		err = consider(s.index.byTree, treeOf, func(r *record) oid { return r.tree })
	}
	if top == nil && err == nil && len(prefix) == 64 {
		for r := range byHash(s.index.byScore, prefix, scoreOf) {
			top = r
		}
	}
	return top, s.runs, err
}

// candidate is what the best run of a revision is chosen by.
func (e Entry) candidate() ci.Candidate {
	return ci.Candidate{Default: e.Default, State: e.State, Time: e.Time, Order: e.seq}
}

func (r *record) candidate() ci.Candidate {
	return ci.Candidate{Default: r.deflt, State: r.state, Time: time.Unix(r.end, 0), Order: r.seq}
}

// lookup is Lookup with head, green and held.
func (t *tree) lookup(ctx context.Context, rev string) (Entry, error) {
	if h, ok := t.c.(Holder); ok && rev == "held" {
		if id := h.LastHeld(); id != "" {
			return t.s.Get(id)
		}
	}
	if rev != "head" && rev != "green" {
		return t.s.Lookup(rev)
	}
	if t.c == nil {
		return Entry{}, iofs.ErrNotExist
	}
	commit, tree, ancestors, err := t.c.Head(ctx)
	if err != nil {
		return Entry{}, err
	}
	if rev == "head" {
		e, err := t.s.Lookup(commit)
		if err != nil && tree != "" {
			e, err = t.s.Lookup(tree)
		}
		return e, err
	}
	if e, err := t.lookup(ctx, "head"); err == nil && e.State == "passed" {
		return e, nil
	}
	for _, c := range ancestors {
		if e, err := t.s.Lookup(c); err == nil && e.State == "passed" {
			return e, nil
		}
	}
	return Entry{}, iofs.ErrNotExist
}
