package orchestrator

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"9ci/orchestrator/access"
)

// What a key finds in the branches is what access says that it may read, whatever its
// patterns are, and nothing is left of a namespace that is exported no more.
func TestBranches(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	one := func(words ...string) string { return words[r.IntN(len(words))] }
	namespace := func() string {
		ns := one("github.com", "gitlab.com", "local") + "/" + one("a", "ab", "b")
		for range r.IntN(3) {
			ns += "/" + one("x", "xy", "z", "a")
		}
		return ns
	}
	pattern := func() access.Pattern {
		p := one("github.com", "gitlab.com", "local", "*", "git*", "...")
		for range r.IntN(4) {
			if strings.HasSuffix(p, "...") {
				break
			}
			p += "/" + one("a", "ab", "x", "*", "a*", "[ab]", "?", `\x`, "...")
		}
		return access.Pattern(p)
	}
	for range 2000 {
		var root branch
		exported := map[string]bool{}
		for range r.IntN(12) {
			if ns := namespace(); exported[ns] && r.IntN(2) == 0 {
				root.remove(ns)
				delete(exported, ns)
			} else {
				root.add(ns)
				exported[ns] = true
			}
		}
		g := access.Grant{Read: r.IntN(10) > 0}
		for range r.IntN(4) {
			g.Namespaces = append(g.Namespaces, pattern())
		}
		for _, path := range []string{"", "github.com", "local", "local/a", "gitlab.com/a", "github.com/ab/x", "github.com/a/x/z", namespace()} {
			var below, next []string
			for _, ns := range slices.Sorted(maps.Keys(exported)) {
				rest, ok := strings.CutPrefix(ns+"/", strings.TrimPrefix(path+"/", "/"))
				if !ok || !g.MayRead(ns) {
					continue
				}
				below = append(below, ns)
				if name, _, _ := strings.Cut(rest, "/"); name != "" {
					next = append(next, name)
				}
			}
			slices.Sort(next)
			next = slices.Compact(next)
			got := slices.Compact(slices.Sorted(root.readable(g, path)))
			if !slices.Equal(got, below) {
				t.Fatalf("%q may read %q at %q of %v, want %q", g.Namespaces, got, path, exported, below)
			}
			if got := slices.Sorted(slices.Values(root.next(g, path))); !slices.Equal(got, next) {
				t.Fatalf("%q has %q in %q of %v, want %q", g.Namespaces, got, path, exported, next)
			}
		}
		for ns := range exported {
			root.remove(ns)
		}
		if len(root.subs) > 0 {
			t.Fatalf("of %v %v is left", exported, root.subs)
		}
	}
}
