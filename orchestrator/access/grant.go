package access

import (
	"slices"
	"time"

	"9ci/fs/ci"
)

// A Grant is what an identity may do, and where.
type Grant struct {
	Namespaces []Pattern // where; none means everywhere but local/NAME
	Read       bool
	Publish    bool
	Expires    time.Time // zero: never
	From       Addresses // where it may log in from
	Commit     string    // of whose runs alone others see what it publishes; "": of any
}

// covers reports whether the grant is for ns. A namespace local/NAME is one
// executor's own: only a pattern that begins with local/ covers it.
func (g Grant) covers(ns string) bool {
	local := ci.LocalNamespace(ns)
	return len(g.Namespaces) == 0 && !local || slices.ContainsFunc(g.Namespaces, func(p Pattern) bool {
		return p.Match(ns) && (!local || ci.LocalNamespace(string(p)))
	})
}

// MayRead reports whether the grant is to read in ns.
func (g Grant) MayRead(ns string) bool { return g.Read && g.covers(ns) }

// MayPublish reports whether the grant is to publish in ns.
func (g Grant) MayPublish(ns string) bool { return g.Publish && g.covers(ns) }

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
