package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/sign"
	"9ci/fs/ci"
)

const (
	// maxNeighbours is of how many runs of one kind the key is read.
	maxNeighbours = 16
	// nearestTimeout is how long the orchestrator may take to tell of them.
	nearestTimeout = 10 * time.Second
	// maxShown is how many bytes of a value are shown.
	maxShown = 1024
)

// A neighbour is a finished run that may be near to one that was asked for.
type neighbour struct {
	name string // where it is, in words
	kin  int    // 0: of what the key names, 1: of the same tree or commit, 2: of the repository
	read func(ctx context.Context, name string) ([]byte, error)
	key  ci.Attrs
}

// Nearest says, a line for each reason, why no run can stand for one with that key,
// of a commit and its tree: it holds the key against the run that is nearest, in the
// store or at the orchestrator. That is one of the same commit, or else of the same
// tree, or else the newest; of several, the one whose key has the fewest other
// values, and then the newest.
func (r *Replayer) Nearest(ctx context.Context, key ci.Attrs, commit, tree string, c *config.Config) []string {
	ctx, cancel := context.WithTimeout(ctx, nearestTimeout)
	defer cancel()
	var all []*neighbour
	for _, n := range slices.Concat(r.kept(key, commit, tree), r.shown(ctx, key, commit, tree)) {
		text, err := n.read(ctx, "key")
		if err == nil {
			n.key, err = ci.ParseAttrs(text)
		}
		if err == nil {
			all = append(all, n)
		}
	}
	if len(all) == 0 {
		return []string{"there is no finished run of this repository to hold it against"}
	}
	near := slices.MinFunc(all, func(a, b *neighbour) int { // the first of equals
		return cmp.Or(cmp.Compare(a.kin, b.kin), cmp.Compare(len(differences(key, a.key)), len(differences(key, b.key))))
	})
	return r.compare(ctx, near, key, c)
}

// compare returns why near does not stand for a run with that key.
func (r *Replayer) compare(ctx context.Context, near *neighbour, key ci.Attrs, c *config.Config) []string {
	lines := differences(key, near.key)
	var st ci.Status
	text, err := near.read(ctx, "status")
	if err == nil {
		st, err = ci.ParseStatus(string(text))
	}
	if err != nil {
		return append([]string{fmt.Sprintf("the nearest is %s, whose status cannot be read: %v", near.name, err)}, lines...)
	}
	if st.State != "passed" {
		lines = append(lines, fmt.Sprintf("state: it ended as %s, and only passed runs are replayed", st.State))
	}
	if time.Since(st.Time) > c.MaxAge {
		lines = append(lines, fmt.Sprintf("age: it ended at %s, and CI_MAXAGE is %v", ci.FormatTime(st.Time), c.MaxAge))
	}
	if line := r.doubt(ctx, near, st.Time, c); line != "" {
		lines = append(lines, line)
	}
	return append([]string{fmt.Sprintf("the nearest is %s, %s at %s", near.name, st.State, ci.FormatTime(st.Time))}, lines...)
}

// doubt returns why a run's signature does not count, and what would make it count.
func (r *Replayer) doubt(ctx context.Context, near *neighbour, end time.Time, c *config.Config) string {
	signers, err := r.Signers(ctx)
	if err != nil {
		return fmt.Sprintf("trust: %v", err)
	}
	manifest, err := near.read(ctx, "manifest")
	if err != nil {
		return fmt.Sprintf("trust: %v", err)
	}
	sig, err := near.read(ctx, "manifest.sig")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Sprintf("trust: %v", err)
	}
	var info ci.Attrs
	if text, err := near.read(ctx, "info"); err == nil {
		info, _ = ci.ParseAttrs(text)
	}
	_, err = signers.Verify(manifest, sig, sign.Run{End: end, Commit: info.Get("commit")})
	if err == nil {
		return ""
	}
	line, lerr := sign.Line(sig)
	files, ferr := c.TrustFiles()
	if !errors.Is(err, sign.ErrUntrusted) || lerr != nil || ferr != nil {
		return fmt.Sprintf("trust: %v", err)
	}
	return fmt.Sprintf("trust: %v; if you know whose key that is: echo %s >>%s", err, shellQuote(line), shellQuote(files[0].Signers))
}

// differences returns a line for each attribute of which two keys have other values.
// A value is a list of words, quoted where they must be: it is shown so, or else
// between quotes.
func differences(yours, theirs ci.Attrs) (lines []string) {
	side := func(a ci.Attrs, name string) string {
		if !a.Has(name) {
			return "nothing"
		}
		v := a.Get(name)
		if len(v) > maxShown {
			v = v[:maxShown] + "..."
		}
		if strings.Contains(v, "'") {
			return v
		}
		return "'" + v + "'"
	}
	for _, a := range slices.Concat(yours, theirs).Sorted() {
		line := fmt.Sprintf("%s: yours %s, theirs %s", a.Name, side(yours, a.Name), side(theirs, a.Name))
		if side(yours, a.Name) != side(theirs, a.Name) && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// kin says how near a run of a commit and tree is to what the key names.
func kin(key ci.Attrs, ofCommit, ofTree bool) int {
	switch named := key.Has("commit"); {
	case named && ofCommit, !named && ofTree:
		return 0
	case ofCommit, ofTree:
		return 1
	}
	return 2
}

// kept returns the neighbours in the store, of each kin the newest.
func (r *Replayer) kept(key ci.Attrs, commit, tree string) (all []*neighbour) {
	var seen [3]int
	for e := range r.Store.Runs() {
		if !e.Finished() {
			continue
		}
		k := kin(key, e.Commit == commit, tree != "" && e.Tree == tree)
		if seen[k]++; seen[k] > maxNeighbours || k == 2 && seen[k] > 1 {
			continue
		}
		all = append(all, &neighbour{name: "ci/" + e.ID + " of the store", kin: k, read: func(_ context.Context, name string) ([]byte, error) {
			return os.ReadFile(filepath.Join(e.Dir, name))
		}})
	}
	return all
}

// shown returns the neighbours at the orchestrator: what find has of the commit and of
// the tree, and the best run of the tree, and the last one. None if it cannot be
// asked.
func (r *Replayer) shown(ctx context.Context, key ci.Attrs, commit, tree string) (all []*neighbour) {
	if r.Mux == nil {
		return nil
	}
	mux, err := r.Mux(ctx)
	if err != nil {
		return nil
	}
	add := func(path string, k int) {
		all = append(all, &neighbour{name: path + " at the orchestrator", kin: k, read: func(ctx context.Context, name string) ([]byte, error) {
			return ask.File(ctx, mux, path+"/"+name)
		}})
	}
	for _, what := range []ci.Attr{{Name: "commit", Value: commit}, {Name: "tree", Value: tree}} {
		if what.Value == "" {
			continue
		}
		found, err := r.offers(ctx, ci.Attrs{what}, nil)
		if err != nil {
			continue
		}
		found = slices.DeleteFunc(found, func(o ci.Offer) bool { return !o.Finished() })
		for _, o := range found[:min(len(found), maxNeighbours)] {
			add(o.Path(), kin(key, what.Name == "commit", what.Name == "tree"))
		}
	}
	if len(all) == 0 {
		add("ci/"+tree, kin(key, false, true))
		add("ci/last", 2)
	}
	return all
}

// shellQuote returns s as one word of sh(1).
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
