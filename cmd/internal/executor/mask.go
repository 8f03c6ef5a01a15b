package executor

import (
	"cmp"
	"encoding/base64"
	"io"
	"slices"
	"strings"
)

// A mask hides the values of secrets. It knows these forms of a value: the value
// itself; of a value that has several lines, each line of 8 bytes or more, and the
// value with the line ends of a terminal; and base64 in both alphabets, at all
// three alignments, with the line breaks of base64(1). Where an output ends in the
// first minSecret bytes or more of such a form, they are hidden too. Other forms are
// not.
type mask struct {
	plain *automaton
	coded *automaton // base64
}

// minSecret is the least length in bytes of a value whose other forms are hidden:
// shorter ones also stand in output that is no secret.
const minSecret = 8

// newMask returns a mask of the values in env, which holds NAME=VALUE. Empty
// values are not hidden.
func newMask(env []string) *mask {
	var plain, coded []string
	for _, v := range env {
		_, v, _ = strings.Cut(v, "=")
		if v == "" {
			continue
		}
		p, c := forms(v)
		plain, coded = append(plain, p...), append(coded, c...)
	}
	return &mask{newAutomaton(plain), newAutomaton(coded)}
}

// forms returns the forms of a value: those of plain text and those of base64.
func forms(v string) (plain, coded []string) {
	plain = append(plain, v)
	if len(v) < minSecret {
		return plain, nil
	}
	coded = base64Forms(v)
	for line := range strings.Lines(v) {
		if line = strings.TrimSpace(line); len(line) >= minSecret {
			plain = append(plain, line)
		}
	}
	if bare := strings.TrimRight(v, "\r\n"); len(bare) >= minSecret { // as $(cat FILE) has it
		plain = append(plain, bare, strings.ReplaceAll(bare, "\n", "\r\n"))
		coded = slices.Concat(coded, base64Forms(bare), base64Forms(bare+"\n"))
	}
	return plain, coded
}

// base64Forms returns, for each place that v may have in a group of three bytes,
// the characters that stand in the base64 of every text that holds v; and the
// same with the characters that follow if v ends the text.
func base64Forms(v string) (forms []string) {
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			b := enc.EncodeToString([]byte("\x00\x00"[:before] + v))
			first := (before*8 + 5) / 6 // earlier characters have bits of the text before v
			whole := (before + len(v)) * 8 / 6
			pad := strings.Repeat("=", -len(b)&3)
			forms = append(forms, b[first:whole], b[first:], b[first:]+pad)
		}
	}
	return forms
}

// text returns s with secrets masked.
func (m *mask) text(s string) string {
	var b strings.Builder
	w := m.writer(&b)
	io.WriteString(w, s)
	w.Flush()
	return b.String()
}

func (m *mask) writer(w io.Writer) *maskWriter { return &maskWriter{mask: m, w: w} }

// A maskWriter writes *** in the place of each secret, or of several that
// overlap. It holds back a tail that may be the start or the middle of a secret,
// until more bytes or Flush decide. The tail is shorter than the longest secret
// with its line breaks.
type maskWriter struct {
	*mask
	w    io.Writer
	held []byte
	hits []hit // in held, sorted and apart

	plainAt, codedAt int // states
	breaks           int // line break bytes just before
	out              []byte
}

// A hit is a place in held that has a secret.
type hit struct {
	start, end int
	said       bool // *** was written for it: this is the rest
}

func (w *maskWriter) Write(p []byte) (int, error) {
	if w.plain == nil {
		return w.w.Write(p)
	}
	from := len(w.held)
	w.held = append(w.held, p...)
	w.find(from)
	keep := len(w.held) - w.plain.pending(w.plainAt)
	if n := w.coded.pending(w.codedAt); n > 0 {
		keep = min(keep, w.back(len(w.held), n))
	}
	return len(p), w.put(keep)
}

// Flush writes what is held back. If no more bytes come, it is no secret; but an output
// that was cut off may end in the first bytes of one, so minSecret of them are masked.
func (w *maskWriter) Flush() error {
	end := len(w.held)
	if n := w.plain.pending(w.plainAt); n >= minSecret {
		w.hits = append(w.hits, hit{end - n, end, false})
	}
	if n := w.coded.pending(w.codedAt); n >= minSecret {
		w.hits = append(w.hits, hit{w.back(end, n), end, false})
	}
	w.join()
	w.plainAt, w.codedAt, w.breaks = 0, 0, 0
	return w.put(len(w.held))
}

// find runs both automata over held[from:].
func (w *maskWriter) find(from int) {
	for i := from; i < len(w.held); i++ {
		if w.plainAt == 0 {
			// In most places no secret begins.
			if i += w.plain.skip(w.held[i:]); i == len(w.held) {
				break
			}
		}
		w.plainAt = w.plain.next(w.plainAt, w.held[i])
		if n := w.plain.longest(w.plainAt); n > 0 {
			w.hits = append(w.hits, hit{i + 1 - n, i + 1, false})
		}
	}
	if w.coded != nil {
		for i := from; i < len(w.held); i++ {
			c := w.held[i]
			if c == '\n' || c == '\r' {
				if w.breaks++; w.breaks > 2 { // base64 has no empty lines
					w.codedAt = 0
				}
				continue
			}
			w.breaks = 0
			w.codedAt = w.coded.next(w.codedAt, c)
			if n := w.coded.longest(w.codedAt); n > 0 {
				w.hits = append(w.hits, hit{w.back(i+1, n), i + 1, false})
			}
		}
	}
	w.join()
}

// join sorts the hits, and makes one of those that overlap.
func (w *maskWriter) join() {
	if len(w.hits) < 2 {
		return
	}
	slices.SortFunc(w.hits, func(a, b hit) int { return cmp.Compare(a.start, b.start) })
	apart := w.hits[:1]
	for _, h := range w.hits[1:] {
		if last := &apart[len(apart)-1]; h.start < last.end {
			last.end, last.said = max(last.end, h.end), last.said || h.said
		} else {
			apart = append(apart, h)
		}
	}
	w.hits = apart
}

// back returns the place in held behind which n bytes up to end are no line
// breaks.
func (w *maskWriter) back(end, n int) int {
	for n > 0 {
		end--
		if c := w.held[end]; c != '\n' && c != '\r' {
			n--
		}
	}
	return end
}

// put writes held[:keep].
func (w *maskWriter) put(keep int) error {
	out, at := w.out[:0], 0
	rest := w.hits[:0]
	for _, h := range w.hits {
		if h.start < keep {
			out = append(out, w.held[at:h.start]...)
			if !h.said {
				out = append(out, "***"...)
			}
			if at = min(h.end, keep); h.end <= keep {
				continue
			}
			h.start, h.said = keep, true
		}
		rest = append(rest, hit{h.start - keep, h.end - keep, h.said})
	}
	out = append(out, w.held[at:keep]...)
	w.hits, w.out = rest, out
	w.held = append(w.held[:0], w.held[keep:]...)
	if len(out) == 0 {
		return nil
	}
	_, err := w.w.Write(out)
	return err
}

// An automaton finds words in one pass over a text: Aho and Corasick,
// Efficient string matching, 1975. A nil one finds nothing.
type automaton struct {
	root  [256]int32 // the nodes that first bytes lead to
	nodes []node     // the first is the root
}

// A node stands for a beginning of one or more words.
type node struct {
	fail    int32 // the longest other beginning with which this one ends
	child   int32 // the first of those that are one byte longer
	sibling int32 // the next child of the same parent
	depth   int32 // the length of the beginning in bytes
	longest int32 // the length of the longest word that ends here, or 0
	pending int32 // how many of the last bytes may be the start of a longer word
	c       byte  // the last byte
}

func newAutomaton(words []string) *automaton {
	a := &automaton{nodes: make([]node, 1)}
	for _, w := range words {
		if w == "" {
			continue
		}
		at := int32(0)
		for i := range len(w) {
			to := a.child(at, w[i])
			if to == 0 {
				to = int32(len(a.nodes))
				a.nodes = append(a.nodes, node{c: w[i], depth: int32(i + 1), sibling: a.nodes[at].child})
				if a.nodes[at].child = to; at == 0 {
					a.root[w[i]] = to
				}
			}
			at = to
		}
		a.nodes[at].longest = int32(len(w))
	}
	if len(a.nodes) == 1 {
		return nil
	}
	for queue := []int32{0}; len(queue) > 0; queue = queue[1:] { // in the order of depths
		at := queue[0]
		for to := a.nodes[at].child; to != 0; to = a.nodes[to].sibling {
			n := &a.nodes[to]
			if at != 0 {
				n.fail = int32(a.next(int(a.nodes[at].fail), n.c))
			}
			n.longest = max(n.longest, a.nodes[n.fail].longest)
			if n.pending = n.depth; n.child == 0 {
				n.pending = a.nodes[n.fail].pending
			}
			queue = append(queue, to)
		}
	}
	return a
}

// child returns the child of a node by the byte c, or 0.
func (a *automaton) child(at int32, c byte) int32 {
	if at == 0 {
		return a.root[c]
	}
	to := a.nodes[at].child
	for to != 0 && a.nodes[to].c != c {
		to = a.nodes[to].sibling
	}
	return to
}

// next returns the state that follows a state and the byte c.
func (a *automaton) next(state int, c byte) int {
	for at := int32(state); ; at = a.nodes[at].fail {
		if to := a.child(at, c); to != 0 || at == 0 {
			return int(to)
		}
	}
}

// skip returns how many bytes at the start of p begin no word.
func (a *automaton) skip(p []byte) int {
	for i, c := range p {
		if a.root[c] != 0 {
			return i
		}
	}
	return len(p)
}

// longest returns the length of the longest word that ends in a state.
func (a *automaton) longest(state int) int { return int(a.nodes[state].longest) }

// pending returns how many of the last bytes may be the start of a word.
func (a *automaton) pending(state int) int {
	if a == nil {
		return 0
	}
	return int(a.nodes[state].pending)
}

// A tail keeps the last bytes written to it.
type tail struct{ b []byte }

const tailSize = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b) - tailSize; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }
