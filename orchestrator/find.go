package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/internal/wire"
)

const (
	maxQuestion = 64 << 10                // bytes written to find
	maxPairs    = 64                      // of a key; each is looked for in every run's
	maxAnswers  = 256                     // lines read back
	findTimeout = 1500 * time.Millisecond // for keys that have not been read yet
	askAgain    = 10 * time.Second        // after which a run that is waited for is looked up at its executor
)

const findManual = `find - the executors that have a run with this key

Write attr=value pairs of a key, one of them commit or tree, and read back a
line for each run that has them all:

	/n/EXECUTOR/ci/ID state seconds score signer address

A line that does not begin with a slash is an error.

Passed runs come first, the newest first, but those of an executor that did not
answer of late behind the others; then those that are under way, and those that
are queued, in the order in which they were asked for, in the place of a signer
the key that is going to sign them, as their executor has proved, or - if it has
not; then the others.

The pair signer=FINGERPRINT, which may be there several times, asks for runs of
these signers alone, and for the asker's own. Nobody has checked who signed a
run: an asker does. Of more than 256 runs the answer has as many of each key
that logged in, so that the runs of one do not hide those of another.

The pair intent=ID says that the asker's own executor, which the same connection
exports, is going to run this key as ID, for as long as the file stays open or
the run goes on. An executor that has not proved its key announces none, and one
whose login is bound to a commit, as a CI job's is, none but of keys that name
that commit and no tree. An asker whose own run is the first that has not ended
runs it, and all others wait for that run: the pair wait=/n/EXECUTOR/ci/ID has
the answer come when that run has ended or its executor has left; until then that
run is before the asker's own. An executor whose connection was lost may be back
within 45 s: its runs keep their places, and the wait goes on. An orchestrator
that was started less than that ago waits as long for an executor that it does
not know. So a waiter that has lost the orchestrator asks again, with the same
two pairs.
`

// A question is what was written to find.
type question struct {
	key     ci.Attrs
	signers map[string]bool // whose runs are asked for; none: everybody's
	intent  string          // the id of the asker's own run, or ""

	waitName, waitID string // the executor and its run that the answer waits for, or ""
}

// wants reports whether q asks for runs of r's signer.
func (q *question) wants(r *run) bool {
	return len(q.signers) == 0 || q.signers[r.vouches()]
}

func parseQuestion(b []byte) (question, error) {
	bad := func(format string, args ...any) (question, error) {
		return question{}, fmt.Errorf("find: "+format, args...)
	}
	if !utf8.Valid(b) {
		return bad("not UTF-8")
	}
	q := question{signers: map[string]bool{}}
	for line := range strings.Lines(string(b)) {
		words, err := ci.SplitWords(strings.TrimRight(line, "\r\n"))
		if err != nil {
			return bad("%w", err)
		}
		for _, w := range words {
			name, value, ok := strings.Cut(w, "=")
			if !ok {
				return bad("%.80q: want attr=value", w)
			}
			switch name {
			case "intent":
				if !ci.IsID(value) {
					return bad("intent %.80q is no run's id", value)
				}
				q.intent = value
				continue
			case "signer":
				if value == "" {
					return bad("signer= names nobody: leave it out, or name a fingerprint SHA256:...")
				}
				q.signers[value] = true
				continue
			case "wait":
				if q.waitName, q.waitID, ok = cutRun(value); !ok {
					return bad("wait %.80q is not /n/EXECUTOR/ci/ID", value)
				}
				continue
			}
			if q.key = append(q.key, ci.Attr{Name: name, Value: value}); len(q.key) > maxPairs {
				return bad("a key of over %d pairs", maxPairs)
			}
		}
	}
	if err := q.key.Check(); err != nil {
		return bad("%w", err)
	}
	if q.key.Get("commit") == "" && q.key.Get("tree") == "" {
		return bad("a key has a commit or a tree")
	}
	return q, nil
}

// cutRun cuts the path of a run, /n/EXECUTOR/ci/ID.
func cutRun(path string) (name, id string, ok bool) {
	f := strings.Split(path, "/")
	if len(f) != 5 || f[0] != "" || f[1] != "n" || f[2] == "" || f[3] != "ci" || !ci.IsID(f[4]) {
		return "", "", false
	}
	return f[2], f[4], true
}

// find returns the answer to q in ns, and what takes the asker's intent back.
func (v *view) find(ctx context.Context, ns string, q question) (answer []byte, release func(), err error) {
	release = func() {}
	if q.intent != "" {
		if release, err = v.intend(ns, q); err != nil {
			return nil, nil, err
		}
	}
	d := v.c.s.dir
	own := func(r *run) bool { return q.intent != "" && r.id == q.intent && r.share.m.conn == v.c }
	if q.waitName != "" {
		if err := v.wait(ctx, ns, q, own); err != nil {
			release()
			return nil, nil, err
		}
	}
	commit, tree := q.key.Get("commit"), q.key.Get("tree")
	match := func(r *run) bool {
		switch {
		case !own(r) && !q.wants(r):
			return false
		case r.key != nil:
			return r.answers(q.key)
		}
		// By what the index says: the key is to be read.
		return (commit == "" || r.commit == commit) && (tree == "" || r.tree == tree)
	}
	found := append(withKeys(ctx, d, ns, match), d.lost(ns, match)...)
	found = slices.DeleteFunc(found, func(r run) bool { return !r.answers(q.key) })
	slices.SortFunc(found, byUse(time.Now()))
	var b []byte
	for _, r := range deal(found, maxAnswers, own) {
		b = append(append(b, r.offer().String()...), '\n')
	}
	return b, release, nil
}

// wait waits until the run that q names has ended. A run that nobody says any more is
// going to be run may be gone, of which no event tells: so its executor is asked for it
// now and then.
func (v *view) wait(ctx context.Context, ns string, q question, own func(r *run) bool) error {
	d := v.c.s.dir
	for {
		soon, cancel := context.WithTimeout(ctx, askAgain)
		err := d.ended(soon, ns, q.waitName, q.waitID, own)
		cancel()
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		sh := d.share(ns, q.waitName)
		if sh == nil || sh.intended(q.waitID) {
			continue
		}
		if root := sh.getRoot(); root != nil {
			sh.reread(root, q.waitID) // if that fails, the probe of the executor sees to it
		}
	}
}

// find answers the question that a channel carries. An intent lives until the
// client closes the channel.
func (c *conn) find(ctx context.Context, nc ssh.NewChannel) {
	var msg wire.FindMsg
	if err := ssh.Unmarshal(nc.ExtraData(), &msg); err != nil {
		wire.Refuse(nc, err)
		return
	}
	if len(msg.Question) > maxQuestion {
		wire.Refuse(nc, errQuestion)
		return
	}
	v := newView(ctx, c)
	defer v.close()
	ns, ok := v.enterBy(ctx, nc, msg.Namespace)
	if !ok {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	accept := sync.OnceValues(func() (ssh.Channel, error) {
		ch, reqs, err := nc.Accept()
		if err == nil {
			c.wg.Go(func() { ssh.DiscardRequests(reqs) })
			wg.Go(func() {
				io.Copy(io.Discard, ch) // until the client ends its side
				cancel()
			})
		}
		return ch, err
	})
	f := findFile{v: v, ns: ns, question: []byte(msg.Question)}
	defer f.Close()
	q, err := parseQuestion(f.question)
	waits := err == nil && q.waitName != ""
	if waits { // the client may give up meanwhile
		if _, err := accept(); err != nil {
			return
		}
	}
	err = f.ask(ctx)
	if err != nil && !waits {
		wire.Refuse(nc, err)
		return
	}
	ch, aerr := accept()
	if aerr != nil {
		return
	}
	defer ch.Close()
	if err == nil {
		ch.Write(append(f.answer, wire.AnswerEnd...))
		ch.CloseWrite()
		wg.Wait()
	}
}

// enterBy enters the namespace that a channel asks about. If the client does not see it,
// ok is false, and the channel is refused: of one that the client may not read as if it
// were not there.
func (v *view) enterBy(ctx context.Context, nc ssh.NewChannel, namespace string) (ns string, ok bool) {
	ns, err := ci.CleanNamespace(namespace)
	if err != nil {
		wire.Refuse(nc, iofs.ErrNotExist)
		return "", false
	}
	if ok, err = v.enter(ctx, ns); err != nil {
		refuseUnknown(nc, err)
		return "", false
	} else if !ok {
		v.c.mayNotRead(ns)
		wire.Refuse(nc, v.absent(ns))
	}
	return ns, ok
}

// errQuestion is the error of a question that is too long.
var errQuestion = fmt.Errorf("find: a question of over %d bytes", maxQuestion)

// intend notes that an executor of the session's connection is going to run q's
// key. If the connection exports several in the namespace, it is the one that has
// told of the run.
func (v *view) intend(ns string, q question) (release func(), err error) {
	d := v.c.s.dir
	var own *share
	for _, r := range d.runs(ns, func(r *run) bool { return r.id == q.intent && r.share.m.conn == v.c }) {
		own = r.share
	}
	for _, sh := range d.shares(ns) {
		if own == nil && sh.m.conn == v.c {
			own = sh
		}
	}
	if own == nil {
		return nil, errors.New("find: an intent comes from a connection that exports the namespace")
	}
	if own.m.announced.Load().signer == "" {
		return nil, errors.New("find: an intent comes from an executor whose announcement proves the key that signs its runs: this one's does not, and nobody would wait for it")
	}
	if !own.mayClaim(q.key) || !own.admits(q.intent) {
		return nil, own.errClaim()
	}
	return own.intend(q.intent, q.key)
}

// byUse orders runs as find's manual says, at the time now.
func byUse(now time.Time) func(a, b run) int {
	const passed, mute, running, queued, others = 0, 1, 2, 3, 4
	rank := func(r run) int {
		switch {
		case r.status.State == "passed" && !r.share.m.mute(now):
			return passed
		case r.status.State == "passed":
			return mute
		case r.status.State == "queued":
			return queued
		case !r.status.Finished():
			return running
		}
		return others
	}
	return func(a, b run) int {
		if r := rank(a); r == rank(b) && (r == running || r == queued) {
			return cmp.Compare(a.place, b.place)
		}
		return cmp.Or(cmp.Compare(rank(a), rank(b)), b.status.Time.Compare(a.status.Time), cmp.Compare(b.order, a.order))
	}
}

// deal returns n of the runs at most, in their order: those that are first, then one
// of each key that logged in, then the next of each.
func deal(runs []run, n int, first func(r *run) bool) []run {
	if len(runs) <= n {
		return runs
	}
	seen := make(map[string]int)
	nth := make([]int, len(runs)) // of its key's
	turns := make([]int, len(runs))
	for i, r := range runs {
		turns[i] = i
		if first(&r) {
			nth[i] = -1
			continue
		}
		nth[i] = seen[r.share.m.key]
		seen[r.share.m.key]++
	}
	slices.SortStableFunc(turns, func(a, b int) int { return cmp.Compare(nth[a], nth[b]) })
	turns = turns[:n]
	slices.Sort(turns)
	dealt := make([]run, n)
	for i, t := range turns {
		dealt[i] = runs[t]
	}
	return dealt
}

// withKeys returns the runs in ns for which match reports true, with their keys
// as far as executors tell them within findTimeout. An executor that told none in
// that time is not asked for some time after.
func withKeys(ctx context.Context, d directory, ns string, match func(r *run) bool) []run {
	runs := d.runs(ns, match)
	now := time.Now()
	unread := slices.DeleteFunc(slices.Clone(runs), func(r run) bool {
		return r.key != nil || r.share.getRoot() == nil || r.share.m.mute(now)
	})
	if len(unread) == 0 {
		return runs
	}
	slices.SortFunc(unread, byUse(now))
	missing := map[*share][]string{}
	for _, r := range deal(unread, maxAnswers, func(*run) bool { return false }) {
		missing[r.share] = append(missing[r.share], r.id)
	}
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for sh, ids := range missing {
		wg.Go(func() {
			if sh.readKeys(ctx, ids) {
				sh.m.judge(nil)
			} else {
				sh.m.judge(sh.m.fail(ctx.Err()))
			}
		})
	}
	wg.Wait()
	return d.runs(ns, match)
}

// A findFile is an open find: a question, then its answer. Before the first write
// it reads as its manual.
type findFile struct {
	v  *view
	ns string

	mu       sync.Mutex // guards what follows, and is held while an answer is sought
	question []byte
	asked    bool // a read has ended the question: the next write begins another
	answer   []byte
	start    int64  // offset at which the answer was first read: 9p rdwr reads on behind its write
	release  func() // takes the intent back
}

func (f *findFile) WriteAt(_ context.Context, p []byte, _ int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked {
		f.question, f.asked, f.answer = nil, false, nil
	}
	if len(f.question)+len(p) > maxQuestion {
		return 0, errQuestion
	}
	f.question = append(f.question, p...)
	return len(p), nil
}

func (f *findFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.asked || f.answer == nil {
		f.asked = true
		if err := f.ask(ctx); err != nil {
			return 0, err
		}
		f.start = off
	}
	off -= f.start
	if off < 0 || off >= int64(len(f.answer)) {
		return 0, io.EOF
	}
	return copy(p, f.answer[off:]), nil
}

func (f *findFile) ask(ctx context.Context) error {
	if len(f.question) == 0 {
		f.answer = []byte(findManual)
		return nil
	}
	q, err := parseQuestion(f.question)
	var answer []byte
	release := func() {}
	if err == nil {
		began := time.Now()
		answer, release, err = f.v.find(ctx, f.ns, q)
		f.v.c.s.metrics.asked(q, began)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, fs.ErrBusy) {
		f.v.c.s.metrics.busy.WithLabelValues("find").Inc()
		return err
	}
	if err != nil {
		// As a ctl does: an error of 9P2000.L is a number and has no text.
		answer, release = []byte(err.Error()+"\n"), func() {}
	}
	if f.release != nil {
		f.release() // after the new intent is noted: the asker keeps its place
	}
	f.answer, f.release = append([]byte{}, answer...), release
	return nil
}

func (f *findFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.release != nil {
		f.release()
		f.release = nil
	}
	return nil
}
