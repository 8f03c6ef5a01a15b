package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"iter"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"9ci/fs/ci"
)

// An index is what a store knows of its sealed runs without reading them: about
// 300 bytes a run. It is kept in a file. Each process appends to the file under
// the store's lock, and reads from it what others appended. The runs themselves
// are the truth: opening a store mends an index that was lost or is behind.
type index struct {
	path string
	file os.FileInfo // the file that was read
	off  int64       // and how far

	bySeq   []*record // the order of listings, oldest first
	byID    []*record // by commit and number
	byTree  []*record
	byScore []*record
	shared  bool              // bySeq is read without our lock
	dead    int               // lines of the file that say nothing any more
	words   map[string]string // signers and owners, each held once
	textLen int64             // of all lines of the tree's index file; -1 until it is asked for
	changed time.Time
	told    func(*record) // if not nil, is called for each run that the file gets
}

// A record is what the index holds of a run. It does not change.
type record struct {
	seq    uint64 // place in listings
	num    uint64 // of the id
	commit oid
	tree   oid
	score  [32]byte
	key    [32]byte // SHA-256 of the file key
	state  string
	code   int
	took   time.Duration
	start  int64 // Unix seconds, or 0
	end    int64 // Unix seconds
	came   int64 // when the store got it, in Unix seconds
	size   int64 // bytes on disk
	deflt  bool  // it ran the default targets
	seen   bool  // used while the index is compared with the disk
	signer string
	owner  string // the token of the Store that made or adopted it

	adopted bool // it was made elsewhere
}

func (r *record) id() string { return formatID(r.commit, r.num) }

func (r *record) status() ci.Status {
	return ci.Status{State: r.state, Code: r.code, Took: r.took, Time: time.Unix(r.end, 0)}
}

// append writes the record's line of the file. Its first word is sealed; a line
// "gone ID" undoes it. Times are Unix seconds, and the time that the run took
// is in milliseconds: a hundred thousand lines are read in little time.
func (r *record) append(b []byte) []byte {
	b = append(b, "sealed"...)
	num := func(n int64) { b = strconv.AppendInt(append(b, ' '), n, 10) }
	hash := func(h []byte) {
		if b = append(b, ' '); len(h) == 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, h)
	}
	word := func(w string) { b = append(append(b, ' '), w...) }
	num(int64(r.seq))
	num(int64(r.num))
	hash(r.commit.b[:r.commit.n])
	hash(r.tree.b[:r.tree.n])
	hash(r.score[:])
	hash(r.key[:])
	word(r.state)
	num(int64(r.code))
	num(r.took.Milliseconds())
	num(r.start)
	num(r.end)
	num(r.came)
	num(r.size)
	word(strconv.FormatBool(r.deflt))
	word(strconv.FormatBool(r.adopted))
	word(ci.Dash(r.owner))
	word(ci.Quote(ci.Dash(r.signer))) // may have blanks in it
	return append(b, '\n')
}

func (x *index) parse(line string) (*record, error) {
	rest, ok := strings.CutPrefix(line, "sealed ")
	if !ok {
		return nil, errors.New("not a line of an index")
	}
	var r record
	var err error
	field := func() (f string) {
		f, rest, _ = strings.Cut(rest, " ")
		return f
	}
	fail := func(e error) {
		if e != nil && err == nil {
			err = fmt.Errorf("not a line of an index: %w", e)
		}
	}
	num := func() int64 {
		n, err := strconv.ParseInt(field(), 10, 64)
		fail(err)
		return n
	}
	digest := func() [32]byte {
		d, err := ci.ParseDigest(field())
		fail(err)
		return d
	}
	r.seq, r.num = uint64(num()), uint64(num())
	var e error
	r.commit, e = parseOID(field())
	fail(e)
	r.tree, e = parseOptionalOID(field())
	fail(e)
	r.score, r.key = digest(), digest()
	r.state = x.word(field())
	r.code, r.took = int(num()), time.Duration(num())*time.Millisecond
	r.start, r.end, r.came, r.size = num(), num(), num(), num()
	r.deflt, e = strconv.ParseBool(field())
	fail(e)
	r.adopted, e = strconv.ParseBool(field())
	fail(e)
	if w := field(); w != "-" {
		r.owner = x.word(w)
	}
	switch {
	case rest == "-":
	case strings.HasPrefix(rest, "'"):
		words, e := ci.SplitWords(rest)
		if fail(e); len(words) == 1 {
			r.signer = x.word(words[0])
		}
	default:
		r.signer = x.word(rest)
	}
	if r.seq == 0 || r.seq >= maxSeq || r.num == 0 || r.num > ci.MaxNumber || !ci.Finished(r.state) || rest == "" {
		fail(errors.New("out of range"))
	}
	return &r, err
}

// word returns s, the same string for the same word.
func (x *index) word(s string) string {
	if w, ok := x.words[s]; ok {
		return w
	}
	if x.words == nil {
		x.words = make(map[string]string)
	}
	s = strings.Clone(s)
	x.words[s] = s
	return s
}

// refresh reads what was appended to the file since the last call. It starts
// anew where another process wrote the file anew.
func (x *index) refresh() error {
	fi, err := os.Stat(x.path)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if x.file != nil && os.SameFile(fi, x.file) && fi.Size() == x.off {
		return nil
	}
	f, err := os.Open(x.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if fi, err = f.Stat(); err != nil {
		return err
	}
	if x.file == nil || !os.SameFile(fi, x.file) || fi.Size() < x.off || fi.Size() > x.off+1<<20 {
		old := *x
		*x = index{path: x.path, words: x.words, textLen: -1, told: x.told}
		defer x.tellNew(&old)
	}
	x.file, x.changed = fi, fi.ModTime()
	return x.read(io.NewSectionReader(f, x.off, 1<<62))
}

// tellNew tells of the runs that an earlier reading of the file did not have.
func (x *index) tellNew(old *index) {
	if x.told == nil {
		return
	}
	for _, r := range x.bySeq {
		x.tell(r, old.byName(r.id()))
	}
}

// tell tells of a run in whose place old was, which may be nil.
func (x *index) tell(r, old *record) {
	if x.told != nil && (old == nil || old.score != r.score) {
		x.told(r)
	}
}

// read applies whole lines. It passes over a line that cannot be read, as a
// crash may leave it: opening the store mends what the line said.
func (x *index) read(r io.Reader) error {
	buf := make([]byte, 0, 64<<10)
	bulk := len(x.bySeq) == 0
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		b := buf
		for {
			i := bytes.IndexByte(b, '\n')
			if i < 0 {
				break
			}
			x.line(string(b[:i]), bulk)
			b = b[i+1:]
			x.off += int64(i + 1)
		}
		buf = buf[:copy(buf[:cap(buf)], b)]
		if len(buf) == cap(buf) {
			return fmt.Errorf("%s: a line is too long", x.path)
		}
		if err != nil {
			if bulk {
				x.sort()
			}
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

func (x *index) line(line string, bulk bool) {
	if id, ok := strings.CutPrefix(line, "gone "); ok {
		x.dead++
		if prefix, num, ok := ci.SplitID(id); ok && bulk {
			r := &record{num: num, state: gone}
			hex.Decode(r.commit.b[:], []byte(prefix))
			x.bySeq = append(x.bySeq, r)
		} else if r := x.byName(id); r != nil {
			x.dead++
			x.remove(r)
		}
		return
	}
	r, err := x.parse(line)
	if err != nil {
		x.dead++
		return
	}
	if bulk {
		x.bySeq = append(x.bySeq, r)
		return
	}
	old := x.byName(r.id())
	if old != nil {
		x.dead++
		x.remove(old)
	}
	x.add(r)
	x.tell(r, old)
}

// The orders of the index. No two runs have one place in any of them, whatever
// the file said.
func orderID(a, b *record) int {
	return cmp.Or(bytes.Compare(a.commit.b[:6], b.commit.b[:6]), cmp.Compare(a.num, b.num))
}
func orderSeq(a, b *record) int {
	return cmp.Or(cmp.Compare(a.seq, b.seq), orderID(a, b))
}
func orderTree(a, b *record) int {
	return cmp.Or(bytes.Compare(a.tree.b[:], b.tree.b[:]), orderSeq(a, b))
}
func orderScore(a, b *record) int {
	return cmp.Or(bytes.Compare(a.score[:], b.score[:]), orderSeq(a, b))
}

// hasSeq reports whether a run has a place in listings.
func (x *index) hasSeq(seq uint64) bool {
	i := sort.Search(len(x.bySeq), func(i int) bool { return x.bySeq[i].seq >= seq })
	return i < len(x.bySeq) && x.bySeq[i].seq == seq
}

// lists pairs each list with its order.
func (x *index) lists() []list {
	return []list{
		{&x.bySeq, func(r *record) uint64 { return r.seq }, orderSeq},
		{&x.byID, (*record).prefix, orderID},
		{&x.byTree, func(r *record) uint64 { return binary.BigEndian.Uint64(r.tree.b[:]) }, orderTree},
		{&x.byScore, func(r *record) uint64 { return binary.BigEndian.Uint64(r.score[:]) }, orderScore},
	}
}

type list struct {
	records *[]*record
	key     func(*record) uint64 // what order compares first
	order   func(a, b *record) int
}

// sorted returns the records in the list's order; equal ones keep theirs. It
// compares their keys before it looks at them: to open a store costs little but
// this.
func (l list) sorted(records []*record) []*record {
	type keyed struct {
		key uint64
		i   int
		r   *record
	}
	all := make([]keyed, len(records))
	for i, r := range records {
		all[i] = keyed{l.key(r), i, r}
	}
	slices.SortFunc(all, func(a, b keyed) int {
		if a.key != b.key {
			return cmp.Compare(a.key, b.key)
		}
		if c := l.order(a.r, b.r); c != 0 {
			return c
		}
		return cmp.Compare(a.i, b.i)
	})
	out := make([]*record, len(all))
	for i, k := range all {
		out[i] = k.r
	}
	return out
}

// prefix is the commit's part of the id.
func (r *record) prefix() uint64 { return binary.BigEndian.Uint64(r.commit.b[:8]) >> 16 }

// share returns the runs in the order of seq. The slice does not change
// afterwards.
func (x *index) share() []*record {
	x.shared = true
	return x.bySeq
}

// unshare makes lists that may be changed.
func (x *index) unshare() {
	if x.shared {
		x.bySeq = slices.Clone(x.bySeq)
		x.shared = false
	}
}

func (x *index) add(r *record) {
	x.unshare()
	for _, l := range x.lists() {
		i, _ := slices.BinarySearchFunc(*l.records, r, l.order)
		*l.records = slices.Insert(*l.records, i, r)
	}
	if x.textLen >= 0 {
		x.textLen += int64(r.lineLen())
	}
}

func (x *index) remove(r *record) {
	x.unshare()
	for _, l := range x.lists() {
		if i, ok := slices.BinarySearchFunc(*l.records, r, l.order); ok {
			*l.records = slices.Delete(*l.records, i, i+1)
		}
	}
	if x.textLen >= 0 {
		x.textLen -= int64(r.lineLen())
	}
}

// text returns the length of the tree's index file.
func (x *index) text() int64 {
	if x.textLen < 0 {
		x.textLen = 0
		for _, r := range x.bySeq {
			x.textLen += int64(r.lineLen())
		}
	}
	return x.textLen
}

// gone is the state of a record that undoes another while a file is read.
const gone = "gone"

// sort makes all lists from bySeq, in which a run may stand twice: its last
// line counts.
func (x *index) sort() {
	all := list{key: (*record).prefix, order: orderID}.sorted(x.bySeq)
	kept := all[:0]
	for i, r := range all {
		if i+1 < len(all) && orderID(r, all[i+1]) == 0 {
			x.dead++
			continue
		}
		if r.state == gone {
			continue
		}
		kept = append(kept, r)
	}
	for _, l := range x.lists() {
		*l.records = l.sorted(kept)
	}
}

// byName returns the run of that id, or nil.
func (x *index) byName(id string) *record {
	prefix, num, ok := ci.SplitID(id)
	if !ok {
		return nil
	}
	var commit [8]byte
	hex.Decode(commit[2:], []byte(prefix))
	want := binary.BigEndian.Uint64(commit[:])
	i, ok := slices.BinarySearchFunc(x.byID, num, func(r *record, num uint64) int {
		return cmp.Or(cmp.Compare(r.prefix(), want), cmp.Compare(r.num, num))
	})
	if ok {
		return x.byID[i]
	}
	return nil
}

// byHash yields the records of a list whose hash begins with the digits of
// prefix. The list is in the order of at least the first six bytes of hash.
func byHash(records []*record, prefix string, hash func(*record) []byte) iter.Seq[*record] {
	low := make([]byte, 33)
	n, _ := hex.Decode(low, []byte(prefix[:len(prefix)&^1]))
	if n < len(prefix)/2 || !ci.IsHex(prefix) || len(prefix) > 64 {
		return func(func(*record) bool) {}
	}
	m := min(n, 6)
	i := sort.Search(len(records), func(i int) bool { return bytes.Compare(hash(records[i])[:m], low[:m]) >= 0 })
	return func(yield func(*record) bool) {
		for _, r := range records[i:] {
			h := hash(r)
			if !bytes.Equal(h[:m], low[:m]) {
				return
			}
			if !bytes.Equal(h[:n], low[:n]) {
				continue
			}
			if len(prefix)%2 == 1 && "0123456789abcdef"[h[n]>>4] != prefix[len(prefix)-1] {
				continue
			}
			if !yield(r) {
				return
			}
		}
	}
}

func commitOf(r *record) []byte { return r.commit.b[:] }
func treeOf(r *record) []byte   { return r.tree.b[:] }
func scoreOf(r *record) []byte  { return r.score[:] }
