package access

import (
	"slices"
	"time"

	"9ci/fs/ci"
)

// A Grant is what an identity may do, and where. MayRead and MayPublish do not block: of
// what is asked of a forge they tell what is known at present, and Learn has it known.
type Grant struct {
	Namespaces []Pattern // where; none means everywhere but local/NAME, or of a person nowhere
	Read       bool
	Publish    bool
	Expires    time.Time // zero: never
	From       Addresses // where it may log in from
	Commit     string    // of whose runs alone others see what it publishes; "": of any

	public *Public // where anybody may read besides; nil: nowhere
	asked  asked   // of a person, whose forge is asked for the rest
}

// covers reports whether the grant is for ns. A namespace local/NAME is one
// executor's own: only a pattern that begins with local/ covers it.
func (g Grant) covers(ns string) bool {
	local := ci.LocalNamespace(ns)
	return len(g.Namespaces) == 0 && !local && g.asked.k == nil || slices.ContainsFunc(g.Namespaces, func(p Pattern) bool {
		return p.Match(ns) && (!local || ci.LocalNamespace(string(p)))
	})
}

// Owns reports whether the grant is to read, or if publish is set to publish, in ns by
// itself, whatever a forge says and whatever is public.
func (g Grant) Owns(ns string, publish bool) bool {
	return (publish && g.Publish || !publish && g.Read) && g.covers(ns)
}

// MayRead reports whether the grant is to read in ns.
func (g Grant) MayRead(ns string) bool {
	return g.Owns(ns, false) || g.public.Has(ns) || g.rights(ns).Read
}

// MayPublish reports whether the grant is to publish in ns.
func (g Grant) MayPublish(ns string) bool { return g.Owns(ns, true) || g.rights(ns).Publish }

// Readable returns patterns of all namespaces that MayRead has, and perhaps of others.
func (g Grant) Readable() []Pattern {
	var all []Pattern
	if g.Read {
		all = append(all, g.Namespaces...)
		if len(all) == 0 && g.asked.k == nil {
			all = []Pattern{"..."}
		}
	}
	if g.asked.k != nil {
		for _, ns := range g.asked.k.readable(g.asked.principal) {
			all = append(all, Pattern(ns))
		}
	}
	return append(all, g.public.patterns()...)
}

// Literals returns the namespaces that the grant names without a wildcard.
func (g Grant) Literals() []string {
	var all []string
	for _, p := range g.Namespaces {
		if p.literal() {
			all = append(all, string(p))
		}
	}
	return all
}

// Home returns the namespace of the grant if it names just one, or "".
func (g Grant) Home() string {
	if len(g.Namespaces) == 1 && g.Namespaces[0].literal() {
		return string(g.Namespaces[0])
	}
	return ""
}

// Rights returns the grant's rights as words.
func (g Grant) Rights() string {
	switch {
	case g.Read && g.Publish:
		return "read publish"
	case g.Publish:
		return "publish"
	}
	return "read"
}
