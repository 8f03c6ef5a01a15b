package web

import (
	"bytes"
	"errors"
	"io"
	iofs "io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"9ci/fs/ci"
)

// What a comparison reads and shows at most.
const (
	maxCompared  = 2 << 20 // bytes of each log
	maxDiffRows  = 300     // lines of the difference of two logs
	maxDiffRoom  = 20 << 10
	maxDifferent = 100 // artifacts
	maxOffered   = 100 // runs to compare with
)

// A compareView is two runs side by side.
type compareView struct {
	Place   place     // the namespace
	Offered []runLine // to choose from, if there are not two runs yet
	Chosen  string    // the run that was chosen already
	A, B    side
	Key     []difference
	Steps   []difference
	Files   []difference
	More    int // artifacts that differ besides
	SameLog bool
	Log     []diffRow
	Cut     bool // the logs are longer, or differ more
}

// A side is one of the runs.
type side struct {
	Place  place
	Status ci.Status
	key    ci.Attrs
	files  []ci.Artifact
	log    []byte
	cut    bool // log is only the beginning
}

// A difference is something of both runs. Of it A or B is "" if that run has it not.
type difference struct {
	Name, A, B string
}

func (d difference) Differs() bool { return d.A != d.B }

// A diffRow is a line of the difference of two logs.
type diffRow struct {
	Sign string // -, + or a blank; @ where lines that are the same are left out
	row
}

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
		err := r.eachRun(at.Namespace, nil, func(l runLine) bool {
			if l.Place.Run() != x.Chosen {
				x.Offered = append(x.Offered, l)
			}
			return len(x.Offered) < maxOffered
		})
		if err != nil {
			return err
		}
		return r.render(http.StatusOK, "compare", "Compare two runs", x)
	}
	if len(runs) > 2 {
		return &problem{http.StatusBadRequest, "Two runs can be compared, and no more: go back and choose two."}
	}
	for i, s := range []*side{&x.A, &x.B} {
		if s.Place, err = at.parseRun(runs[i]); err != nil {
			return err
		}
		if err := r.side(s); err != nil {
			return err
		}
	}
	for _, name := range attrNames(x.A.key, x.B.key) {
		x.Key = append(x.Key, difference{name, clip(x.A.key.Get(name)), clip(x.B.key.Get(name))})
	}
	for _, name := range ci.Steps {
		d := difference{Name: name}
		for s, to := range map[*side]*string{&x.A: &d.A, &x.B: &d.B} {
			st, err := r.status(s.Place.Path() + "/step/" + name)
			if err == nil {
				*to = st.State + ", " + took(st.Took)
			} else if !errors.Is(err, iofs.ErrNotExist) {
				return err
			}
		}
		x.Steps = append(x.Steps, d)
	}
	x.Files, x.More = differentFiles(x.A.files, x.B.files)
	x.SameLog = bytes.Equal(x.A.log, x.B.log)
	x.Cut = x.A.cut || x.B.cut
	if !x.SameLog {
		x.diff()
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

// side reads what is compared of a run.
func (r *reading) side(s *side) (err error) {
	at := s.Place.Path()
	if s.Status, err = r.status(at); err != nil {
		return err
	}
	if s.key, err = r.attrs(at + "/key"); err != nil {
		return err
	}
	text, err := r.text(at+"/artifacts.mtree", maxMtree)
	if err == nil {
		s.files, err = ci.ParseMtree(text)
	}
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	path, _ := stepLog(s.Place, ci.Steps[ci.TestStep])
	l, err := r.openLog(path)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Close()
	lr, n, err := l.seek(r.ctx, 1)
	for err == nil && len(s.log) < maxCompared {
		var line []byte
		if line, err = lr.next(); err == nil {
			row := newRow(n, line)
			s.log = append(append(s.log, row.plain()...), '\n')
		}
	}
	s.cut = err == nil
	if err == io.EOF {
		err = nil
	}
	return err
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
			return "link to " + f.Link
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
	for _, name := range slices.Compact(names) {
		fa, hasA := inA[name]
		fb, hasB := inB[name]
		fa.Time = fb.Time
		if hasA && hasB && fa == fb {
			continue
		}
		if len(some) == maxDifferent {
			more++
			continue
		}
		d := difference{Name: name}
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
	}
	return some, more
}

// diff adds the difference of the logs.
func (x *compareView) diff() {
	room := maxDiffRoom
	for line := range bytes.Lines(diff.Diff("a", x.A.log, "b", x.B.log)) {
		sign, text := string(line[:1]), string(bytes.TrimSuffix(line[1:], []byte("\n")))
		switch {
		case len(x.Log) == 0 && sign != "@", sign == "\\": // the head; a last line without a newline
			continue
		case len(x.Log) == maxDiffRows || room < 0:
			x.Cut = true
			return
		case sign == "@":
			text = strings.Trim(text, "@ ")
		}
		d := diffRow{sign, row{Text: spans(text)}}
		room -= d.size()
		x.Log = append(x.Log, d)
	}
}
