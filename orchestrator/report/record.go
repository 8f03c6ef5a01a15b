package report

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"9ci/fs/ci"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/statedir"
)

// File is the file of a state directory that says what forges were told, a line each:
// due, begun, told or rejected; namespace, commit and context; and the run's status. Of
// several lines of one commit and context the last counts. Begun is a status that the
// forge may have taken before the orchestrator was killed.
const File = "statuses"

// lockFile is locked while an orchestrator tells forges: two that have one state
// directory, as when one ends and the next begins, would tell a run twice.
const lockFile = "statuses.lock"

const (
	toldFor = access.StatusTime // what was told is remembered as long

	maxEntries = 65536       // that are remembered, of 400 bytes each; of more the oldest ends are told no more
	skew       = time.Minute // by which an executor's clock may be before ours
)

// The marks of entries.
const (
	due      = "due"      // to be told
	begun    = "begun"    // being told, or the forge did not answer
	told     = "told"     // the forge has it
	rejected = "rejected" // the forge does not take it
)

var marks = []string{due, begun, told, rejected}

// A key is what one status of a forge stands for.
type key struct{ ns, commit, context string }

// An entry is the newest run that is known of a key, and whether it was told.
type entry struct {
	key
	status ci.Status
	mark   string
	next   time.Time // not to be told before
	why    string    // it was not told when that was tried last; one of the whys
}

// pending reports whether the entry is to be told.
func (e *entry) pending() bool { return e.mark == due || e.mark == begun }

func (e *entry) line() string {
	return ci.QuoteWords([]string{e.mark, e.ns, e.commit, e.context}) + " " + e.status.String() + "\n"
}

func parseEntry(line string) (*entry, error) {
	f, err := ci.SplitWords(line)
	if err != nil {
		return nil, err
	}
	if len(f) != 8 || !slices.Contains(marks, f[0]) {
		return nil, fmt.Errorf("want due, begun, told or rejected, and seven words, not %.80q", line)
	}
	if ns, err := ci.CleanNamespace(f[1]); err != nil || ns != f[1] || !ci.IsHash(f[2]) {
		return nil, fmt.Errorf("%.80q is no namespace, or %.80q no commit", f[1], f[2])
	}
	st, err := ci.ParseRunStatus(strings.Join(f[4:], " "))
	return &entry{key: key{f[1], f[2], f[3]}, status: st, mark: f[0]}, err
}

// A record is the file, and what it says.
type record struct {
	dir  statedir.Dir
	log  *slog.Logger
	lock *os.File

	mu    sync.Mutex // guards what follows
	all   map[key]*entry
	due   map[string]map[key]*entry // those that are to be told, by namespace
	since time.Time                 // runs that ended before are told no more: they may have been
	lines int                       // of the file
}

// openRecord waits until no other orchestrator tells forges, and returns what was told.
// Its error is that of ctx, or why a file cannot be read or written.
func openRecord(ctx context.Context, dir string, log *slog.Logger) (*record, error) {
	r := &record{dir: statedir.Dir(dir), log: log, all: map[key]*entry{}, due: map[string]map[key]*entry{}}
	var err error
	if r.lock, err = r.dir.Create(lockFile, os.O_RDWR); err != nil {
		return nil, err
	}
	if err := r.waitLock(ctx); err != nil {
		r.close()
		return nil, err
	}
	if err := r.load(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

const lockPoll = time.Second

func (r *record) waitLock(ctx context.Context) error {
	said := false
	for {
		err := unix.Flock(int(r.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("%s: %w", r.lock.Name(), err)
		case !said:
			said = true
			r.log.Info("statuses", "err", "another orchestrator of this state directory tells forges: this one begins when that ends")
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// close lets another orchestrator begin.
func (r *record) close() { r.lock.Close() }

// load reads the file, and writes it anew. Lines that cannot be read go, and the first is
// logged: what they said is asked of the forge.
func (r *record) load() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, err := r.dir.Read(File)
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	// A last line without its end was being written when the process died.
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	n, bad, first := 0, 0, error(nil)
	for line := range strings.Lines(string(text)) {
		n++
		e, err := parseEntry(strings.TrimSuffix(line, "\n"))
		if err == nil {
			r.set(e)
		} else if bad++; bad == 1 {
			first = fmt.Errorf("%s:%d: %w", r.dir.Path(File), n, err)
		}
	}
	if bad > 0 {
		r.log.Error("state file", "err", fmt.Errorf("%w; lines like this are dropped", first), "lines", bad)
	}
	if n == 0 {
		return nil
	}
	return r.rewrite(time.Now())
}

// set makes e the entry of its key. r.mu is held.
func (r *record) set(e *entry) {
	r.forget(e.key)
	r.all[e.key] = e
	if e.pending() {
		if r.due[e.ns] == nil {
			r.due[e.ns] = map[key]*entry{}
		}
		r.due[e.ns][e.key] = e
	}
}

func (r *record) forget(k key) {
	delete(r.all, k)
	if delete(r.due[k.ns], k); len(r.due[k.ns]) == 0 {
		delete(r.due, k.ns)
	}
}

// rewrite forgets what is too old and writes the file anew. r.mu is held.
func (r *record) rewrite(now time.Time) error {
	for k, e := range r.all {
		if e.status.Time.Before(now.Add(-toldFor)) {
			r.forget(k)
		}
	}
	list := make([]*entry, 0, len(r.all))
	for _, e := range r.all {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *entry) int {
		if c := a.status.Time.Compare(b.status.Time); c != 0 {
			return c
		}
		return strings.Compare(a.line(), b.line())
	})
	if len(list) > maxEntries {
		drop := list[:len(list)-maxEntries+maxEntries/8]
		r.log.Error("statuses", "err", fmt.Errorf("more than %d of %v: those of runs that ended before %s are forgotten", maxEntries, toldFor, ci.FormatTime(drop[len(drop)-1].status.Time)))
		for _, e := range drop {
			r.forget(e.key)
		}
		r.since = drop[len(drop)-1].status.Time.Add(time.Second)
		list = list[len(drop):]
	}
	var b bytes.Buffer
	for _, e := range list {
		b.WriteString(e.line())
	}
	r.lines = len(list)
	return r.dir.Locked(func() error { return r.dir.Write(File, b.Bytes()) })
}

// write adds a line to the file, which is on the disk then if sync is set. r.mu is held.
func (r *record) write(e *entry, sync bool) error {
	if r.lines > 1000+2*len(r.all) || len(r.all) > maxEntries {
		if err := r.rewrite(time.Now()); err != nil {
			return err
		}
	}
	f, err := r.dir.Create(File, os.O_WRONLY|os.O_APPEND)
	if err != nil {
		return err
	}
	r.lines++
	if _, err = f.WriteString(e.line()); err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		r.lines = 1 << 30 // it may end with a part of a line
	}
	return err
}

// wants reports whether a run that has ended so may be told: it ended not too long ago.
func (r *record) wants(st ci.Status, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return (st.State == "passed" || st.State == "failed") && !st.Time.Before(r.since) &&
		st.Time.After(now.Add(-toldFor)) && !st.Time.After(now.Add(skew))
}

// note notes a run that has ended, if it is newer than the one that is known, and reports
// that.
func (r *record) note(k key, st ci.Status) (news bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.all[k]; old != nil && compare(st, old.status) <= 0 {
		return false, nil
	}
	e := &entry{key: k, status: st, mark: due}
	if err := r.write(e, false); err != nil {
		return false, err
	}
	r.set(e)
	return true, nil
}

// compare orders the statuses of runs by their ends. Those that are equal, byte for byte,
// are of one run and its copies, or say the same.
func compare(a, b ci.Status) int {
	if c := a.Time.Compare(b.Time); c != 0 {
		return c
	}
	return strings.Compare(a.String(), b.String())
}

// next returns the entries of a namespace that are to be told, the first end first.
func (r *record) next(ns string) []entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []entry
	for _, e := range r.due[ns] {
		all = append(all, *e)
	}
	slices.SortFunc(all, func(a, b entry) int { return compare(a.status, b.status) })
	return all
}

// of returns the entries of a commit, by context.
func (r *record) of(ns, commit string) []entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []entry
	for k, e := range r.all {
		if k.ns == ns && k.commit == commit {
			all = append(all, *e)
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.context, b.context) })
	return all
}

// waiting returns the namespaces of which something is to be told.
func (r *record) waiting() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.due))
}

// mark gives an entry another mark, unless a newer run has come, and reports that it is
// on the disk.
func (r *record) mark(was entry, mark string) (ok bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.all[was.key]
	if e == nil || compare(e.status, was.status) != 0 {
		return false, nil
	}
	next := *e
	next.mark = mark
	if err := r.write(&next, true); err != nil {
		return false, err
	}
	r.set(&next)
	return true, nil
}

// delay has an entry not told before next, for one of the whys.
func (r *record) delay(was entry, next time.Time, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.all[was.key]; e != nil && compare(e.status, was.status) == 0 {
		e.next, e.why = next, why
	}
}
