package ci

import "fmt"

// An IndexLine is what a line of the file index tells of a run.
type IndexLine struct {
	ID     string
	Status        // of a finished run Time is its end
	Tree   string // name of a git object, or "" where it is not known
	Commit string // the same
	Signer string // whose signature the run has, or ""
	Score  string // SHA-256 of the manifest in hexadecimal; "" until the run is sealed
}

// Append appends the line, with its newline, to b: the id, then as status, then
// tree commit signer score.
func (l IndexLine) Append(b []byte) []byte {
	b = append(append(b, l.ID...), ' ')
	b = l.Status.Append(b)
	for _, f := range [...]string{Dash(l.Tree), Dash(l.Commit), Quote(Dash(l.Signer)), Dash(l.Score)} {
		b = append(append(b, ' '), f...)
	}
	return append(b, '\n')
}

// ParseIndexLine reads a line of the file index, without its newline. It checks
// the form of all fields but the signer, which can be any text: a reader that
// prints it must look at it.
func ParseIndexLine(line string) (IndexLine, error) {
	f, err := SplitWords(line)
	if err != nil {
		return IndexLine{}, err
	}
	if len(f) != 9 {
		return IndexLine{}, fmt.Errorf("a line of an index is nine fields, not %d", len(f))
	}
	l := IndexLine{ID: f[0], Tree: Undash(f[5]), Commit: Undash(f[6]), Signer: Undash(f[7]), Score: Undash(f[8])}
	if !IsID(l.ID) {
		return IndexLine{}, fmt.Errorf("%.80q is no run's id", l.ID)
	}
	if l.Status, err = ParseRunStatus(f[1] + " " + f[2] + " " + f[3] + " " + f[4]); err != nil {
		return IndexLine{}, err
	}
	for _, h := range []string{l.Tree, l.Commit} {
		if h != "" && !IsHash(h) {
			return IndexLine{}, fmt.Errorf("%.80q is not the name of a git object", h)
		}
	}
	if l.Score != "" {
		if _, err := ParseDigest(l.Score); err != nil {
			return IndexLine{}, err
		}
	}
	return l, nil
}
