package mk

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// regex is a compiled regexp(7). It matches anywhere in a name, the leftmost
// longest string; which subexpressions match what, where there is a choice,
// is what Plan 9's threads decide, and differs from package regexp.
type regex struct {
	insts []inst
	start int
}

// inst is an instruction. Those below opJump consume a rune.
type inst struct {
	op      op
	r       rune
	class   []rune // pairs of first and last
	right   int    // opEither: tried after next
	sub     int    // opOpen, opClose
	next    int
	negated bool
}

type op uint8

const (
	opRune op = iota
	opAny
	opClass
	opJump // nothing; links are made to lead past it
	opBegin
	opEnd
	opOpen
	opClose
	opEither
	opMatch
)

// The tokens that are operators, by precedence.
const (
	tokStart = iota
	tokClose
	tokOpen
	tokOr
	tokCat
	tokStar
	tokPlus
	tokQuest
	tokOperand
)

// maxSub is one more than how many subexpressions there may be, maxClasses
// how many classes, and maxSpan how many runes and ranges one of them may have.
const (
	maxSub     = 128
	maxClasses = 128
	maxSpan    = 31
)

// reCompiler is an operator-precedence parser.
type reCompiler struct {
	s         string
	prog      *regex
	frags     []frag
	ops       []pending
	opens     int // parentheses that are open
	subs      int
	classes   int
	afterAtom bool // an operand would have to be concatenated
}

// frag is a piece of program with one way in and one out.
type frag struct{ first, last int }

// pending is an operator that waits for its operands.
type pending struct{ tok, sub int }

// reError is raised with panic in the compiler.
type reError string

func (e reError) Error() string { return string(e) }

// compile compiles a regular expression. Errors are in the words of the real
// compiler, in its order.
func compile(s string) (re *regex, err error) {
	c := &reCompiler{s: s, prog: new(regex), ops: []pending{{tok: tokStart - 1}}}
	defer func() {
		if e := recover(); e != nil {
			err = e.(reError) // anything else is our bug
		}
	}()
	for {
		tok, in, ok := c.lex()
		if !ok {
			break
		}
		if tok == tokOperand {
			c.operand(in)
		} else {
			c.operator(tok)
		}
	}
	c.reduce(tokStart)
	c.operand(inst{op: opMatch})
	c.reduce(tokStart)
	if c.opens > 0 {
		panic(reError("unmatched left paren"))
	}
	c.prog.start = c.frags[len(c.frags)-1].first
	for i := range c.prog.insts {
		in := &c.prog.insts[i]
		for c.prog.insts[in.next].op == opJump {
			in.next = c.prog.insts[in.next].next
		}
	}
	return c.prog, nil
}

// get returns the next rune, and whether a backslash stood before it. The end
// of the expression is 0.
func (c *reCompiler) get() (r rune, quoted bool) {
	r = c.decode()
	if r == '\\' {
		return c.decode(), true
	}
	return r, false
}

func (c *reCompiler) decode() rune {
	if c.s == "" {
		return 0
	}
	r, n := utf8.DecodeRuneInString(c.s)
	c.s = c.s[n:]
	return r
}

func (c *reCompiler) lex() (tok int, in inst, ok bool) {
	r, quoted := c.get()
	if r == 0 {
		return 0, in, false
	}
	if quoted {
		return tokOperand, inst{op: opRune, r: r}, true
	}
	switch r {
	case '*':
		return tokStar, in, true
	case '?':
		return tokQuest, in, true
	case '+':
		return tokPlus, in, true
	case '|':
		return tokOr, in, true
	case '(':
		return tokOpen, in, true
	case ')':
		return tokClose, in, true
	case '.':
		in.op = opAny
	case '^':
		in.op = opBegin
	case '$':
		in.op = opEnd
	case '[':
		in = c.class()
	default:
		in.r = r
	}
	return tokOperand, in, true
}

// class reads what follows a [. A negated class does not match a newline.
func (c *reCompiler) class() inst {
	if c.classes++; c.classes > maxClasses {
		panic(reError("too many character classes; increase Reprog.class size"))
	}
	in := inst{op: opClass}
	r, quoted := c.get()
	if r == '^' && !quoted {
		in.negated = true
		in.class = []rune{'\n', '\n'}
		r, quoted = c.get()
	}
	for ; r != ']' || quoted; r, quoted = c.get() {
		if r == '-' && !quoted {
			r, quoted = c.get()
			if r == 0 || r == ']' && !quoted || len(in.class) == 0 {
				panic(reError("malformed '[]'"))
			}
			in.class[len(in.class)-1] = r
			continue
		}
		if r == 0 {
			panic(reError("malformed '[]'"))
		}
		if in.class = append(in.class, r, r); len(in.class) > 2*maxSpan {
			panic(reError("char class too large; increase Reclass.spans size"))
		}
	}
	return in
}

func (c *reCompiler) emit(in inst) int {
	c.prog.insts = append(c.prog.insts, in)
	return len(c.prog.insts) - 1
}

func (c *reCompiler) operand(in inst) {
	if c.afterAtom {
		c.operator(tokCat)
	}
	i := c.emit(in)
	c.frags = append(c.frags, frag{i, i})
	c.afterAtom = true
}

func (c *reCompiler) operator(tok int) {
	switch tok {
	case tokClose:
		if c.opens--; c.opens < 0 {
			panic(reError("unmatched right paren"))
		}
		c.reduce(tok)
		c.afterAtom = true
		return
	case tokOpen:
		if c.subs++; c.subs >= maxSub {
			panic(reError("too many subexpressions"))
		}
		c.opens++
		if c.afterAtom {
			c.operator(tokCat)
		}
	default:
		c.reduce(tok)
	}
	c.ops = append(c.ops, pending{tok, c.subs})
	c.afterAtom = tok >= tokStar
}

// pop takes the last operand off the stack.
func (c *reCompiler) pop(op string) frag {
	n := len(c.frags) - 1
	if n < 0 {
		panic(reError("missing operand for " + op))
	}
	f := c.frags[n]
	c.frags = c.frags[:n]
	return f
}

// reduce applies the operators that bind no less than tok.
func (c *reCompiler) reduce(tok int) {
	insts := func(i int) *inst { return &c.prog.insts[i] }
	for tok == tokClose || c.ops[len(c.ops)-1].tok >= tok {
		p := c.ops[len(c.ops)-1]
		c.ops = c.ops[:len(c.ops)-1]
		switch p.tok {
		case tokOpen:
			f := c.pop("(")
			last := c.emit(inst{op: opClose, sub: p.sub})
			insts(f.last).next = last
			first := c.emit(inst{op: opOpen, sub: p.sub, next: f.first})
			c.frags = append(c.frags, frag{first, last})
			return
		case tokOr:
			b, a := c.pop("|"), c.pop("|")
			last := c.emit(inst{op: opJump})
			insts(b.last).next, insts(a.last).next = last, last
			first := c.emit(inst{op: opEither, right: a.first, next: b.first})
			c.frags = append(c.frags, frag{first, last})
		case tokCat:
			b, a := c.pop(""), c.pop("")
			insts(a.last).next = b.first
			c.frags = append(c.frags, frag{a.first, b.last})
		case tokStar, tokPlus:
			f := c.pop(map[int]string{tokStar: "*", tokPlus: "+"}[p.tok])
			loop := c.emit(inst{op: opEither, right: f.first})
			insts(f.last).next = loop
			if p.tok == tokStar {
				f.first = loop
			}
			c.frags = append(c.frags, frag{f.first, loop})
		case tokQuest:
			f := c.pop("?")
			last := len(c.prog.insts) + 1
			first := c.emit(inst{op: opEither, right: f.first, next: last})
			c.emit(inst{op: opJump})
			insts(f.last).next = last
			c.frags = append(c.frags, frag{first, last})
		default: // the start of it all
			panic(reError(fmt.Sprint("unmatched operator ", p.tok)))
		}
	}
}

// capture is where the subexpressions matched: 2n and 2n+1 begin and end the
// n-th, -1 where it has not matched.
type capture [20]int

// thread is one way the text so far may be matched.
type thread struct {
	pc  int
	cap capture
}

// maxThreads is how many threads the real matcher has room for. With more it
// gives up, and mk takes that for a match.
const maxThreads = 248

// matcher is a match under way. Threads that begin earlier, or were added
// earlier, come first.
type matcher struct {
	list, next []thread // of this rune and of the next one
	best       capture
	matched    bool
	full       bool // there were too many threads
}

// match returns what of s matches, as pairs of indexes, or nil.
func (re *regex) match(s string) []int {
	var m matcher
	for i := range m.best {
		m.best[i] = -1
	}
	for at := 0; ; {
		r, n := rune(0), 0
		if at < len(s) {
			r, n = utf8.DecodeRuneInString(s[at:])
		}
		m.step(re, at, at == 0 || s[at-1] == '\n', r)
		if m.full {
			return m.best[:]
		}
		if n == 0 {
			break
		}
		at += n
		m.list, m.next = m.next, m.list
	}
	if !m.matched {
		return nil
	}
	return m.best[:]
}

// step takes all threads past r, which is at at, at the beginning of a line if
// begin is set. R is 0 at the end.
func (m *matcher) step(re *regex, at int, begin bool, r rune) {
	if !m.matched {
		m.list = addStart(m.list, re.start, at)
	}
	m.next = m.next[:0]
	for i := 0; i < len(m.list); i++ {
		t := m.list[i]
	thread:
		for pc := t.pc; ; {
			in := &re.insts[pc]
			switch in.op {
			case opOpen:
				if in.sub < 10 {
					t.cap[2*in.sub] = at
				}
			case opClose:
				if in.sub < 10 {
					t.cap[2*in.sub+1] = at
				}
			case opBegin:
				if !begin {
					break thread
				}
			case opEnd:
				if r != 0 && r != '\n' {
					break thread
				}
			case opEither:
				m.list[i].cap = t.cap
				if m.list, m.full = addThread(m.list, i, in.right, &t.cap); m.full {
					return
				}
			case opMatch:
				m.matched = true
				t.cap[1] = at
				if best := &m.best; best[0] < 0 || t.cap[0] < best[0] || t.cap[0] == best[0] && at > best[1] {
					*best = t.cap
				}
				break thread
			default:
				if in.accepts(r) {
					if m.next, m.full = addThread(m.next, 0, in.next, &t.cap); m.full {
						return
					}
				}
				break thread
			}
			pc = in.next
		}
	}
}

// automaton tells quickly what does not match. Which threads there are after a
// rune depends only on which there were before it: an automaton remembers that,
// and match is asked only about what matches, to learn where.
type automaton struct {
	re     *regex
	states []state
	index  map[string]int16 // of states, by their threads
}

// state is what the threads are between two runes. Next is the state after an
// ASCII character or, last, at the end: an index of states, or one of the below.
type state struct {
	threads []thread
	begin   bool // of a line
	next    [utf8.RuneSelf + 1]int16
}

// Unseen is also the index of the first state, where a name begins: after never
// leads there.
const (
	unseen = 0
	accept = -1
	reject = -2
)

// maxStates bounds the memory that an automaton needs.
const maxStates = 256

func newAutomaton(re *regex) *automaton {
	return &automaton{re: re, states: []state{{begin: true}}, index: make(map[string]int16)}
}

// mayMatch tells whether match has to be asked about s. It is false only if s does
// not match.
func (a *automaton) mayMatch(s string) bool {
	now := int16(0)
	for i := 0; i <= len(s); i++ {
		c := byte(utf8.RuneSelf)
		if i < len(s) {
			if c = s[i]; c >= utf8.RuneSelf {
				return true
			}
		}
		next := a.states[now].next[c]
		if next == unseen {
			if next = a.after(now, c); next == unseen {
				return true
			}
		}
		if next < 0 {
			return next == accept
		}
		now = next
	}
	return true
}

// after returns what follows a state, unseen if there are too many states.
func (a *automaton) after(now int16, c byte) int16 {
	from := &a.states[now]
	r := rune(c)
	if c == utf8.RuneSelf {
		r = 0
	}
	m := matcher{list: slices.Clone(from.threads)}
	m.step(a.re, 0, from.begin, r)
	to := int16(reject)
	switch {
	case m.matched || m.full:
		to = accept
	case c != utf8.RuneSelf:
		begin := c == '\n'
		key := fmt.Append(nil, begin)
		for _, t := range m.next {
			key = fmt.Append(key, ' ', t.pc)
		}
		if to = a.index[string(key)]; to != unseen {
			break
		}
		if len(a.states) == maxStates {
			return unseen
		}
		to = int16(len(a.states))
		a.index[string(key)] = to
		a.states = append(a.states, state{threads: m.next, begin: begin})
	}
	a.states[now].next[c] = to
	return to
}

func (in *inst) accepts(r rune) bool {
	switch in.op {
	case opRune:
		return r == in.r
	case opAny:
		return r != '\n'
	case opClass:
		for i := 0; i < len(in.class); i += 2 {
			if in.class[i] <= r && r <= in.class[i+1] {
				return !in.negated
			}
		}
		return in.negated
	}
	return false
}

// addThread adds a thread at pc to those of list from i on. Of two at one
// place the one that began first stays. It returns false where there is no
// more room.
func addThread(list []thread, i, pc int, cap *capture) ([]thread, bool) {
	for ; i < len(list); i++ {
		if t := &list[i]; t.pc == pc {
			if cap[0] < t.cap[0] {
				t.cap = *cap
			}
			return list, false
		}
	}
	list = append(list, thread{pc, *cap})
	return list, len(list) == maxThreads
}

// addStart adds a thread that begins at at.
func addStart(list []thread, pc, at int) []thread {
	for i := range list {
		if list[i].pc == pc {
			return list
		}
	}
	t := thread{pc: pc}
	for i := range t.cap {
		t.cap[i] = -1
	}
	t.cap[0] = at
	return append(list, t)
}

// stems returns what stem0 to stem9 are. Stem0 runs to the end of the name.
func stems(s string, sub []int) []string {
	list := make([]string, 10)
	for i := range list {
		from, to := sub[2*i], sub[2*i+1]
		switch {
		case from < 0 || to < 0 && i > 0:
		case i == 0 || to < from:
			list[i] = s[from:]
		default:
			list[i] = s[from:to]
		}
	}
	return list
}

// regsub replaces \0 to \9 and & in w with what matched.
func regsub(w, s string, sub []int) string {
	var b strings.Builder
	group := func(i int) {
		if from, to := sub[2*i], sub[2*i+1]; from >= 0 && to > from {
			b.WriteString(s[from:to])
		}
	}
	for i := 0; i < len(w); i++ {
		switch c := w[i]; {
		case c == '&':
			group(0)
		case c == '\\' && i+1 < len(w):
			if i++; '0' <= w[i] && w[i] <= '9' {
				group(int(w[i] - '0'))
			} else {
				b.WriteByte(w[i])
			}
		case c != '\\':
			b.WriteByte(c)
		}
	}
	return b.String()
}
