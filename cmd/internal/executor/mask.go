package executor

import (
	"cmp"
	"encoding/base64"
	"io"
	"slices"
	"strings"
)

// A mask knows the values of secrets in all the forms in which it hides them:
// as they are; each line of 8 bytes or more of one that has several, and all
// of it with the line ends of a terminal; and in base64 of either alphabet, at
// its three alignments, with the line breaks of base64(1). What a test writes
// in another form it writes.
type mask struct {
	plain *automaton
	coded *automaton // base64
}

// minSecret is the least length that is looked for in other forms than the
// value itself: less is found everywhere.
const minSecret = 8

// newMask hides the values of the NAME=VALUE pairs given. An empty value is
// nothing to hide.
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

// forms returns what is hidden of a value.
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

// base64Forms returns what is the same in every base64 of a text that holds v,
// for each place that v may have in a group of three bytes; and that with what
// follows where v ends the text.
func base64Forms(v string) (forms []string) {
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			b := enc.EncodeToString([]byte("\x00\x00"[:before] + v))
			first := (before*8 + 5) / 6 // the characters before it have bits of what comes before v
			whole := (before + len(v)) * 8 / 6
			pad := strings.Repeat("=", -len(b)&3)
			forms = append(forms, b[first:whole], b[first:], b[first:]+pad)
		}
	}
	return forms
}

// text returns s without secrets.
func (m *mask) text(s string) string {
	var b strings.Builder
	w := m.writer(&b)
	io.WriteString(w, s)
	w.Flush()
	return b.String()
}

func (m *mask) writer(w io.Writer) *maskWriter { return &maskWriter{mask: m, w: w} }

// A maskWriter writes *** for each place where a secret stands, or several
// that overlap. It holds back a tail that may be the start of one, or in the
// middle of one, until more bytes or Flush decide: less than the longest
// secret takes with its line breaks.
type maskWriter struct {
	*mask
	w    io.Writer
	held []byte
	hits []hit // in held, sorted and apart

	plainAt, codedAt int // states
	breaks           int // line break bytes just before
	out              []byte
}

// A hit is where held has a secret.
type hit struct {
	start, end int
	said       bool // its *** is written: more of it follows
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

// Flush writes what is held back: no secret, as no more bytes come.
func (w *maskWriter) Flush() error {
	w.plainAt, w.codedAt, w.breaks = 0, 0, 0
	return w.put(len(w.held))
}

// find goes on with both automata at held[from:].
func (w *maskWriter) find(from int) {
	for i := from; i < len(w.held); i++ {
		if w.plainAt == 0 {
			// Mostly nothing begins here.
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

// back returns where the n bytes that are no line breaks before held[end] begin.
func (w *maskWriter) back(end, n int) int {
	for n > 0 {
		end--
		if c := w.held[end]; c != '\n' && c != '\r' {
			n--
		}
	}
	return end
}

// put writes what is held before keep.
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
	root  [256]int32 // where a first byte leads
	nodes []node     // the first is the root
}

// A node is what the words that begin alike have read.
type node struct {
	fail    int32 // the longest other beginning that this one ends in
	child   int32 // one byte further; the first of several
	sibling int32 // the next of them
	depth   int32 // how many bytes were read
	longest int32 // the length of the longest word that ends here, or 0
	pending int32 // how many of the last bytes more may follow to make a word
	c       byte  // the last byte read
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

// child returns where c leads from a node, or 0.
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

// next returns the state that the byte c leads to.
func (a *automaton) next(state int, c byte) int {
	for at := int32(state); ; at = a.nodes[at].fail {
		if to := a.child(at, c); to != 0 || at == 0 {
			return int(to)
		}
	}
}

// skip counts the bytes at the start of p with which no word begins.
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
