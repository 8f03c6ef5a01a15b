package orchestrator

import (
	"iter"
	"maps"
	"path"
	"slices"
	"strings"

	"9ci/orchestrator/access"
)

// A branch is a directory on the way to exported namespaces, or such a namespace, or
// both. So a walk looks at the names on its way alone, however many namespaces there
// are.
type branch struct {
	ns   string // if it is a namespace that is exported
	subs map[string]*branch
}

// add puts a namespace below b, the root.
func (b *branch) add(ns string) {
	for name := range strings.SplitSeq(ns, "/") {
		sub := b.subs[name]
		if sub == nil {
			if b.subs == nil {
				b.subs = map[string]*branch{}
			}
			sub = &branch{}
			b.subs[name] = sub
		}
		b = sub
	}
	b.ns = ns
}

// remove undoes add of the namespace at path.
func (b *branch) remove(path string) {
	name, rest, more := strings.Cut(path, "/")
	sub := b.subs[name]
	switch {
	case sub == nil:
		return
	case more:
		sub.remove(rest)
	default:
		sub.ns = ""
	}
	if sub.ns == "" && len(sub.subs) == 0 {
		delete(b.subs, name)
	}
}

// at returns the branch at a path below b, or nil.
func (b *branch) at(path string) *branch {
	if path == "" {
		return b
	}
	for name := range strings.SplitSeq(path, "/") {
		if b = b.subs[name]; b == nil {
			return nil
		}
	}
	return b
}

// readable yields the namespaces at and below a path that g may read, in no order,
// and some twice.
func (b *branch) readable(g access.Grant, path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		dir := b.at(path)
		if dir == nil {
			return
		}
		for _, p := range patterns(g, path) {
			if !dir.walk(p, func(ns string) bool { return !g.MayRead(ns) || yield(ns) }) {
				return
			}
		}
	}
}

// next returns the names in the directory path that lead to namespaces which g may
// read, in no order.
func (b *branch) next(g access.Grant, path string) []string {
	dir := b.at(path)
	if dir == nil {
		return nil
	}
	names := map[string]bool{}
	for _, p := range patterns(g, path) {
		for name := range dir.matching(p) {
			if names[name] {
				continue
			}
			for range b.readable(g, join(path, name)) {
				names[name] = true
				break
			}
		}
	}
	return slices.Collect(maps.Keys(names))
}

// In what is left of a pattern behind a directory, some stands for one or more
// elements, as in package access, and any for none or more.
const (
	some  = "..."
	anyOf = ""
)

// patterns returns, for each pattern of g that may match something at or below a
// directory, the elements that are left behind it.
func patterns(g access.Grant, dir string) [][]string {
	var left [][]string
	for _, p := range g.Readable() {
		rest := strings.Split(string(p), "/")
		if first, _, _ := strings.Cut(dir, "/"); first == "local" && rest[0] != first {
			continue // as access has it
		}
		if rest, ok := behind(rest, dir); ok {
			left = append(left, rest)
		}
	}
	return left
}

// behind returns the elements of a pattern that are left behind a directory. It
// reports false if the pattern matches nothing there.
func behind(pattern []string, dir string) (rest []string, ok bool) {
	for dir != "" {
		var name string
		name, dir, _ = strings.Cut(dir, "/")
		if len(pattern) == 0 {
			return nil, false
		}
		if pattern[0] == some {
			return []string{anyOf}, true
		}
		if ok, _ := path.Match(pattern[0], name); !ok {
			return nil, false
		}
		pattern = pattern[1:]
	}
	return pattern, true
}

// walk calls f for the namespaces at and below b that a pattern matches, until f
// returns false. It reports whether f never did.
func (b *branch) walk(pattern []string, f func(ns string) bool) bool {
	if (len(pattern) == 0 || pattern[0] == anyOf) && b.ns != "" && !f(b.ns) {
		return false
	}
	for _, sub := range b.matching(pattern) {
		rest := pattern[1:]
		if pattern[0] == some || pattern[0] == anyOf {
			rest = []string{anyOf}
		}
		if !sub.walk(rest, f) {
			return false
		}
	}
	return true
}

// matching yields what is in b under names that the first element of a pattern may
// stand for.
func (b *branch) matching(pattern []string) iter.Seq2[string, *branch] {
	return func(yield func(string, *branch) bool) {
		if len(pattern) == 0 {
			return
		}
		e := pattern[0]
		all := e == some || e == anyOf
		if !all && !strings.ContainsAny(e, `*?[\`) {
			if sub := b.subs[e]; sub != nil {
				yield(e, sub)
			}
			return
		}
		for name, sub := range b.subs {
			if ok, _ := path.Match(e, name); (ok || all) && !yield(name, sub) {
				return
			}
		}
	}
}
