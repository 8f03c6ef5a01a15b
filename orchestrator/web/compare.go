package web

import (
	"errors"
	iofs "io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"9ci/fs/ci"
)

// What a comparison reads and shows at most.
const (
	maxDifferent = 100     // artifacts
	filesRoom    = 8 << 10 // bytes of HTML of these
	maxOffered   = 100     // runs to compare with
)

// A compareView is two runs side by side.
type compareView struct {
	Place   place     // the namespace
	Offered []runLine // to choose from, if there are not two runs yet
	Chosen  string    // the run that was chosen already
	A, B    side
	Key     []difference
	MoreKey bool // there are more attributes
	Steps   []difference
	Files   []difference
	More    int // artifacts that differ besides
	Log     *logDiff
}

// A side is one of the runs.
type side struct {
	Place  place
	Status ci.Status
	key    ci.Attrs
	files  []ci.Artifact
	log    diffSide
}

// Line returns the URL of a line of the log of the test.
func (s side) Line(n int) string {
	return logView{Place: s.Place, Step: ci.Steps[ci.TestStep]}.At(n) + "#L" + strconv.Itoa(n)
}

// A difference is something of both runs. Of it A or B is "" if that run has it not.
type difference struct {
	Name, A, B string
}

func (d difference) Differs() bool { return d.A != d.B }

// size returns about how many bytes of HTML the row of a difference has.
func (d difference) size() int { return 100 + htmlSize(d.Name) + htmlSize(d.A) + htmlSize(d.B) }

// compare shows two runs side by side, or lets the visitor choose them.
func (p *Page) compare(r *reading) error {
	at, err := r.place()
	if err != nil {
		return err
	}
	x := compareView{Place: at}
	runs := slices.DeleteFunc(r.r.URL.Query()["run"], func(s string) bool { return s == "" })
	if len(runs) < 2 {
		if len(runs) == 1 {
			chosen, err := at.parseRun(runs[0])
			if err != nil {
				return err
			}
			x.Chosen = chosen.Run()
		}
		room := pageRoom / 2 // for there may be two lists of them
		err := r.eachRun(at.Namespace, nil, func(l runLine) bool {
			if l.Place.Run() != x.Chosen {
				x.Offered = append(x.Offered, l)
				room -= 2*htmlSize(l.Place.Run()) + len(l.State) + 40
			}
			return len(x.Offered) < maxOffered && room > 0
		})
		if err != nil {
			return err
		}
		return r.render(http.StatusOK, "compare", "Compare two runs", x)
	}
	if len(runs) > 2 {
		return &problem{http.StatusBadRequest, "Two runs can be compared, and no more: go back and choose two."}
	}
	give, err := r.take(&p.limits.compare)
	if err != nil {
		return err
	}
	defer give()
	for i, s := range []*side{&x.A, &x.B} {
		if s.Place, err = at.parseRun(runs[i]); err != nil {
			return err
		}
		closeLog, err := r.side(s)
		if err != nil {
			return err
		}
		defer closeLog()
	}
	room := keyRoom
	for _, name := range attrNames(x.A.key, x.B.key) {
		a, b := x.A.key.Get(name), x.B.key.Get(name)
		d := difference{visible(clip(name)), visible(clip(a)), visible(clip(b))}
		if a != b && d.A == d.B {
			d.B += " (another one, behind what is shown)"
		}
		if room -= d.size(); room < 0 {
			x.MoreKey = true
			break
		}
		x.Key = append(x.Key, d)
	}
	for _, name := range ci.Steps {
		d := difference{Name: name}
		for s, to := range map[*side]*string{&x.A: &d.A, &x.B: &d.B} {
			st, err := r.status(s.Place.Path() + "/step/" + name)
			if err == nil {
				*to = st.State
				if st.Took >= 0 {
					*to += ", " + took(st.Took)
				}
			} else if !errors.Is(err, iofs.ErrNotExist) {
				return err
			}
		}
		x.Steps = append(x.Steps, d)
	}
	x.Files, x.More = differentFiles(x.A.files, x.B.files)
	if x.Log, err = diffLogs(r.ctx, &x.A.log, &x.B.log); err != nil {
		return err
	}
	return r.render(http.StatusOK, "compare", "Two runs side by side", x)
}

// parseRun returns the place of EXECUTOR/ID in a namespace.
func (p place) parseRun(s string) (place, error) {
	executor, id, _ := strings.Cut(s, "/")
	if executor == "" || id == "" {
		return place{}, errNoPage
	}
	return parsePlace(p.Namespace, executor, id)
}

// WithURL returns the path of the page that lets a visitor choose a run to compare this
// one with.
func (p place) WithURL() string {
	return place{Namespace: p.Namespace}.URL("compare") + "?" + url.Values{"run": {p.Run()}}.Encode()
}

// side reads what is compared of a run, and opens its log. The caller calls closeLog.
func (r *reading) side(s *side) (closeLog func() error, err error) {
	at := s.Place.Path()
	if s.Status, err = r.status(at); err != nil {
		return nil, err
	}
	if s.key, err = r.attrs(at + "/key"); err != nil {
		return nil, err
	}
	text, err := r.text(at+"/artifacts.mtree", maxMtree)
	if err == nil {
		s.files, err = ci.ParseMtree(text)
	}
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return nil, err
	}
	path, _ := stepLog(s.Place, ci.Steps[ci.TestStep])
	l, err := r.openLog(path)
	if errors.Is(err, iofs.ErrNotExist) {
		s.log = diffSide{first: 1, ended: true}
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	s.log = diffSide{first: 1, lr: &lineReader{ctx: r.ctx, f: l.f}}
	return l.Close, nil
}

// attrNames returns the names of the attributes of either, sorted.
func attrNames(a, b ci.Attrs) []string {
	var names []string
	for _, at := range slices.Concat(a, b) {
		names = append(names, at.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// differentFiles returns artifacts that only one run has, or that differ in their mode,
// their content, or where they lead. More is how many there are besides.
func differentFiles(a, b []ci.Artifact) (some []difference, more int) {
	words := func(f ci.Artifact) string {
		switch {
		case f.Mode&iofs.ModeSymlink != 0:
			return "link to " + visible(clip(f.Link))
		case f.Mode.IsDir():
			return f.Mode.String()
		}
		return f.Mode.String() + ", " + size(f.Size)
	}
	inA, inB := map[string]ci.Artifact{}, map[string]ci.Artifact{}
	var names []string
	for to, from := range map[*map[string]ci.Artifact][]ci.Artifact{&inA: a, &inB: b} {
		for _, f := range from {
			(*to)[f.Name] = f
			names = append(names, f.Name)
		}
	}
	slices.Sort(names)
	room := filesRoom
	for _, name := range slices.Compact(names) {
		fa, hasA := inA[name]
		fb, hasB := inB[name]
		fa.Time = fb.Time
		if hasA && hasB && fa == fb {
			continue
		}
		if len(some) == maxDifferent || room < 0 {
			more++
			continue
		}
		d := difference{Name: visible(clip(name))}
		if hasA {
			d.A = words(fa)
		}
		if hasB {
			d.B = words(fb)
		}
		if hasA && hasB && d.A == d.B {
			d.B += ", other content"
		}
		some = append(some, d)
		room -= d.size()
	}
	return some, more
}
