package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"9ci/fs/ci"
	"9ci/fs/internal/wake"
)

// A Run is a run of this process that has not ended. Its files grow in a
// hidden directory; Seal ends it. Its methods may be called from several
// goroutines.
type Run struct {
	s      *Store
	id     string
	seq    uint64
	commit oid
	dir    string
	lock   *os.File    // in .store/work, locked
	change wake.Signal // of anything that a reader may wait for
	done   chan struct{}

	mu      sync.Mutex // guards what follows
	status  ci.Status
	start   time.Time // of the first step
	step    int       // index in Steps of the current step, or -1
	entered time.Time
	died    time.Time // when the process that made the run had last written to it; zero: it is this one
	steps   []ci.Status
	key     ci.Attrs
	info    ci.Attrs
	log     *os.File
	stdout  *os.File
	stderr  *os.File
	stepLog *os.File // of the current step
	shared  *sharedLog
	lines   logLines // of the current step, for its log and the run's
	logLen  int64    // bytes of log
	liveLen int64    // bytes that log says
	written int64    // bytes of all output files
	err     error    // the first that keeping the output met
	state   runState
}

type runState int

const (
	runOpen runState = iota
	runSealing
	runEnded
)

// room is how many bytes are kept free for the end of a run whose output filled
// the disk.
const room = 256 << 10

// infoOrder is the order of the attributes in info, all of which are there.
var infoOrder = []string{"id", "commit", "tree", "repo", "host", "image", "coreos", "version", "start", "end"}

// Create makes a run of a commit, given by all its digits, in state queued.
func (s *Store) Create(commit string) (*Run, error) {
	r, err := s.create(commit)
	if err != nil {
		return nil, fmt.Errorf("store: create run: %w", err)
	}
	return r, nil
}

func (s *Store) create(commit string) (*Run, error) {
	c, err := parseOID(commit)
	if err != nil {
		return nil, err
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	r := s.newRun(c)
	for {
		if r.seq, err = s.nextNumber(); err != nil {
			return nil, err
		}
		r.id = formatID(c, r.seq)
		// An adopted run may have the name.
		if _, err := os.Lstat(s.runPath(r.id)); errors.Is(err, iofs.ErrNotExist) {
			break
		}
	}
	r.dir = s.workPath(r.id)
	if r.lock, err = lockFile(s.path("work", r.id), false); err != nil {
		return nil, err
	}
	r.info = ci.Attrs{{Name: "id", Value: r.id}, {Name: "commit", Value: commit}}
	if err := r.make(); err != nil {
		r.discard()
		return nil, err
	}
	s.mu.Lock()
	s.index.refresh() // an index that is behind must not hide the name
	s.runs = append(slices.Clip(s.runs), r)
	s.mu.Unlock()
	r.announce()
	return r, nil
}

func (s *Store) newRun(commit oid) *Run {
	r := &Run{
		s:      s,
		commit: commit,
		done:   make(chan struct{}),
		step:   -1,
		status: ci.Status{State: "queued", Code: -1, Took: -1, Time: time.Now()},
		steps:  slices.Repeat([]ci.Status{{State: "queued", Code: -1, Took: -1}}, len(ci.Steps)),
	}
	r.lines = newLogLines(&r.mu, r.appendLines)
	return r
}

// make makes the files of a new run.
func (r *Run) make() error {
	if err := reserve(r.lock, room); err != nil {
		return err
	}
	for i, name := range ci.Steps {
		if err := os.MkdirAll(filepath.Join(r.dir, "step", name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(r.dir, "step", name, "log"), nil, 0o600); err != nil {
			return err
		}
		if err := r.writeText(filepath.Join("step", name, "status"), r.steps[i].Append(nil)); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(r.dir, "artifacts"), 0o700); err != nil {
		return err
	}
	if err := r.openLogs(); err != nil {
		return err
	}
	return r.writeTexts(nil, r.infoText(), r.status)
}

// writeTexts replaces key, info and status, and stops at the first that cannot be
// written. The status comes last: a process that recovers the run believes it.
func (r *Run) writeTexts(key, info []byte, st ci.Status) error {
	if err := r.writeText("key", key); err != nil {
		return err
	}
	if err := r.writeText("info", info); err != nil {
		return err
	}
	return r.writeText("status", st.Append(nil))
}

func (r *Run) openLogs() (err error) {
	open := func(name string) (f *os.File) {
		if err == nil {
			f, err = os.OpenFile(filepath.Join(r.dir, name), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
		}
		return f
	}
	r.log, r.stdout, r.stderr = open("log"), open("stdout"), open("stderr")
	return err
}

// writeText replaces a text of the run, as a whole for every reader.
func (r *Run) writeText(name string, text []byte) error {
	if n := len(text); n > 0 && text[n-1] != '\n' {
		text = append(text, '\n')
	}
	tmp := filepath.Join(r.dir, ".new")
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(r.dir, name))
}

// ID returns the run's id.
func (r *Run) ID() string { return r.id }

// Dir returns the directory of the run's files, which Seal renames.
func (r *Run) Dir() string { return r.dir }

// Done returns a channel that is closed when the run is sealed or lost.
func (r *Run) Done() <-chan struct{} { return r.done }

// Status returns the run's status.
func (r *Run) Status() ci.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// Key returns the attributes that SetKey was given, sorted.
func (r *Run) Key() ci.Attrs {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.key)
}

// Info returns the attributes that SetInfo was given, and the run's id and
// commit.
func (r *Run) Info() ci.Attrs {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.info)
}

// SetKey says what must be equal for two runs to be interchangeable. The file
// has k sorted by name.
func (r *Run) SetKey(k ci.Attrs) error {
	k = k.Sorted()
	if err := k.Check(); err != nil {
		return fmt.Errorf("store: key: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != runOpen {
		return r.ended()
	}
	r.key = k
	return r.keep(r.writeText("key", k.Text()))
}

// SetInfo adds attributes to the run's info, or changes them. The Store sets
// id, commit and start, and end where the caller does not; an attribute that
// was not set is "-".
func (r *Run) SetInfo(k ci.Attrs) error {
	if err := k.Check(); err != nil {
		return fmt.Errorf("store: info: %w", err)
	}
	for _, a := range k {
		if _, err := parseOptionalOID(a.Value); a.Name == "tree" && err != nil {
			return fmt.Errorf("store: info: tree: %w", err)
		}
		if a.Name == "id" && a.Value != r.id || a.Name == "commit" && a.Value != r.commit.String() {
			return fmt.Errorf("store: info: %s of a run does not change", a.Name)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != runOpen {
		return r.ended()
	}
	r.info = r.info.With(k...)
	return r.keep(r.writeText("info", r.infoText()))
}

// askedFile stands beside the files of a run that has not ended.
const askedFile = ".asked"

// SetAsked keeps what the run was asked for with, so that another process can
// take the run over while it is queued. It is no part of what is sealed.
func (r *Run) SetAsked(a ci.Attrs) error {
	if err := a.Check(); err != nil {
		return fmt.Errorf("store: asked: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != runOpen {
		return r.ended()
	}
	return r.keep(r.writeText(askedFile, a.Text()))
}

// Asked returns what SetAsked was given, by this process or another.
func (r *Run) Asked() (ci.Attrs, error) {
	a, err := readAttrs(filepath.Join(r.dir, askedFile))
	if err != nil {
		return nil, fmt.Errorf("store: asked: %w", err)
	}
	return a, nil
}

// infoText returns the file info. r.mu is held.
func (r *Run) infoText() []byte { return r.fullInfo().Text() }

func (r *Run) fullInfo() ci.Attrs {
	var all ci.Attrs
	for _, name := range infoOrder {
		all = append(all, ci.Attr{Name: name, Value: ci.Dash(r.info.Get(name))})
	}
	return all.With(r.info...)
}

// SetState changes the state of a run that is in no step: to queued.
func (r *Run) SetState(state string) error {
	if state != "queued" && !slices.Contains(ci.Steps, state) {
		return fmt.Errorf("store: %q is not a state of a run that has not ended", state)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != runOpen {
		return r.ended()
	}
	return r.setState(state, time.Now())
}

func (r *Run) setState(state string, now time.Time) error {
	r.status.State, r.status.Time = state, now
	if !r.start.IsZero() {
		r.status.Took = now.Sub(r.start)
	}
	err := r.keep(r.writeText("status", r.status.Append(nil)))
	r.announce()
	return err
}

// announce tells the file event, and the run's readers, its state.
func (r *Run) announce() {
	r.s.tell(r.id, r.status)
	r.change.Broadcast()
}

// Enter begins a step, one of ci.Steps, which becomes the run's state.
func (r *Run) Enter(step string) error {
	i := slices.Index(ci.Steps, step)
	if i < 0 {
		return fmt.Errorf("store: %q is not a step", step)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != runOpen {
		return r.ended()
	}
	if r.step >= 0 {
		return fmt.Errorf("store: enter %s: step %s has not been left", step, ci.Steps[r.step])
	}
	log, err := os.OpenFile(filepath.Join(r.dir, "step", step, "log"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return r.keep(err)
	}
	r.step, r.stepLog, r.entered = i, log, time.Now()
	if r.start.IsZero() {
		r.start = r.entered
		r.status.Took = 0
		r.info = r.info.With(ci.Attr{Name: "start", Value: ci.FormatTime(r.start)})
		if err := r.keep(r.writeText("info", r.infoText())); err != nil {
			return err
		}
	}
	r.steps[i] = ci.Status{State: "running", Code: -1, Took: 0, Time: r.entered}
	if err := r.writeStep(i); err != nil {
		return err
	}
	return r.setState(step, r.entered)
}

// Leave ends a step in state passed, failed, cancelled, error or skipped. A
// step that was skipped need not have been entered.
func (r *Run) Leave(step, state string, code int) error {
	i := slices.Index(ci.Steps, step)
	if i < 0 || !ci.Finished(state) && state != "skipped" {
		return fmt.Errorf("store: leave step %q: no such step or no such state as %q", step, state)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != runOpen {
		return r.ended()
	}
	if r.step != i && state != "skipped" {
		return fmt.Errorf("store: leave %s: it has not been entered", step)
	}
	return r.leave(i, state, code)
}

func (r *Run) leave(i int, state string, code int) error {
	now := time.Now()
	if !r.died.IsZero() && r.step == i { // the step ended with the process
		now = r.died
	}
	st := ci.Status{State: state, Code: code, Took: -1, Time: now}
	if r.step == i {
		r.lines.flush()
		st.Took = max(now.Sub(r.entered), 0)
		r.stepLog.Close()
		r.stepLog, r.step = nil, -1
	}
	if state == "skipped" {
		st.Code = -1
	}
	r.steps[i] = st
	err := r.writeStep(i)
	r.change.Broadcast()
	return err
}

func (r *Run) writeStep(i int) error {
	return r.keep(r.writeText(filepath.Join("step", ci.Steps[i], "status"), r.steps[i].Append(nil)))
}

// Stdout returns the writer of the current step's standard output. A Write
// reports an error where the run has no current step, where its output cannot
// be kept, or where it is over the Store's MaxOutput.
func (r *Run) Stdout() io.Writer { return runWriter{r, 0} }

// Stderr is as Stdout, for standard error.
func (r *Run) Stderr() io.Writer { return runWriter{r, 1} }

type runWriter struct {
	r      *Run
	stream int
}

func (w runWriter) Write(p []byte) (int, error) {
	r := w.r
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.state != runOpen:
		return 0, r.ended()
	case r.step < 0:
		return 0, fmt.Errorf("store: %s: output outside of a step", r.id)
	}
	if err := r.roomFor(len(p)); err != nil {
		return 0, err
	}
	if r.step == ci.TestStep {
		r.written += int64(len(p))
		f := r.stdout
		if w.stream == 1 {
			f = r.stderr
		}
		if _, err := appendAll(f, p); err != nil {
			return 0, r.keep(err)
		}
	}
	if err := r.lines.write(w.stream, p); err != nil {
		return 0, err
	}
	r.change.Broadcast()
	return len(p), nil
}

// roomFor returns an error if n more bytes of output cannot be kept. r.mu is held.
func (r *Run) roomFor(n int) error {
	if r.err != nil {
		return r.err
	}
	if limit := cmp.Or(r.s.MaxOutput, defaultMaxOutput); r.written+int64(n) > limit {
		return r.keep(fmt.Errorf("the output and its logs are over %d bytes: say less, or in an artifact", limit))
	}
	return nil
}

// appendLines adds whole lines to the logs. They hold said bytes of the
// streams.
func (r *Run) appendLines(lines []byte, said int) error {
	if r.err != nil || r.stepLog == nil {
		return r.err
	}
	defer r.change.Broadcast()
	if _, err := appendAll(r.stepLog, lines); err != nil {
		return r.keep(err)
	}
	r.written += int64(len(lines))
	if r.step < ci.FirstLogged {
		return nil
	}
	if _, err := appendAll(r.log, lines); err != nil {
		return r.keep(err)
	}
	r.written += int64(len(lines))
	r.logLen += int64(len(lines))
	r.liveLen += int64(said)
	return nil
}

// appendAll appends p to f, all of it or nothing.
func appendAll(f *os.File, p []byte) (int, error) {
	n, err := f.Write(p)
	if err != nil && n > 0 {
		if fi, serr := f.Stat(); serr == nil {
			f.Truncate(fi.Size() - int64(n))
		}
	}
	return n, err
}

// keep remembers the first error of keeping the run. From then on the run's
// writers answer it, and the run can only end in state error.
func (r *Run) keep(err error) error {
	if err != nil {
		err = fmt.Errorf("store: keep run %s: %w", r.id, err)
		if r.err == nil {
			r.err = err
			r.lock.Truncate(0) // free the room for what is still to be written
			r.complain(err)
		}
	}
	return err
}

// complain writes an error of ours to the current step's log, or between two steps to the
// run's.
func (r *Run) complain(err error) {
	line := r.complaint(err)
	if r.stepLog != nil {
		appendAll(r.stepLog, line)
	}
	if r.step == ci.TestStep { // stderr says what its log does
		l, _ := ci.ParseLogLine(line[:len(line)-1])
		appendAll(r.stderr, l.Bytes(nil))
	}
	if r.stepLog == nil || r.step >= ci.FirstLogged {
		if n, err := appendAll(r.log, line); err == nil {
			l, _ := ci.ParseLogLine(line[:n-1])
			r.logLen += int64(n)
			r.liveLen += int64(len(l.Text) + 1)
		}
	}
}

// ended is the error of a method that came after Seal.
func (r *Run) ended() error {
	return fmt.Errorf("store: run %s has ended", r.id)
}

func (r *Run) sealed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state == runEnded
}

func (r *Run) entry() Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := Entry{
		ID:      r.id,
		Status:  r.status,
		Start:   r.start,
		Commit:  r.commit.String(),
		Default: ci.DefaultTargets(r.key),
		Dir:     r.dir,
		Run:     r,
		seq:     r.seq,
	}
	if t, err := parseOptionalOID(r.info.Get("tree")); err == nil {
		e.Tree = t.String()
	}
	return e
}

// wait blocks until the run has ended.
func (r *Run) wait(ctx context.Context) error {
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end wakes all that wait, after the run was sealed or lost.
func (r *Run) end() {
	r.s.mu.Lock()
	r.s.runs = slices.DeleteFunc(slices.Clone(r.s.runs), func(x *Run) bool { return x == r })
	r.s.mu.Unlock()
	r.mu.Lock()
	r.state = runEnded
	r.closeLogs()
	r.mu.Unlock()
	close(r.done)
	r.change.Broadcast()
}

func (r *Run) closeLogs() {
	for _, f := range []**os.File{&r.log, &r.stdout, &r.stderr, &r.stepLog} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}

// Abandon ends the use of a run that was not sealed, and cannot be. What there is of it
// stays on disk for Recover; those that wait for it, or read it, see the end. It does
// nothing after Seal.
func (r *Run) Abandon() {
	r.mu.Lock()
	if r.state != runOpen {
		r.mu.Unlock()
		return
	}
	r.lines.flush()
	r.mu.Unlock()
	r.end()
	r.lock.Close()
}

// Discard removes a run that has not ended, as if it had never been.
func (r *Run) Discard() error {
	r.mu.Lock()
	if r.state != runOpen {
		r.mu.Unlock()
		return r.ended()
	}
	r.state = runSealing
	r.mu.Unlock()
	r.end()
	return r.discard()
}

// Replace is Discard of a run whose id others know: from now on the id is an alias of
// another run's, as long as the store has that.
func (r *Run) Replace(by string) error {
	if _, _, ok := ci.SplitID(by); !ok {
		return fmt.Errorf("store: replace %s: %q is no id", r.id, by)
	}
	if err := writeSynced(r.s.path("instead", r.id), []byte(by)); err != nil {
		return fmt.Errorf("store: replace %s: %w", r.id, err)
	}
	return r.Discard()
}

func (r *Run) discard() error {
	r.closeLogs()
	err := removeAll(r.dir)
	if r.lock != nil {
		os.Remove(r.lock.Name())
		r.lock.Close()
	}
	return err
}

// noSpace reports whether err is of a full disk or quota.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
