package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
)

// What an executor publishes on a login that is bound to a commit, as a CI job's is, others
// see as far as it is runs of that commit: the directory takes in no others, and below n
// they are not there. So a job cannot offer a run of another branch's commit, which it
// chose the result of. Nobody here can check which tree a commit has, so such runs are
// found by no tree. The executor's owner sees all of them, and so does a client of the
// executor's own SSH server, which nobody here can look into.

// bound returns the commit whose runs alone others see of the share; "" is any.
func (sh *share) bound() string { return sh.m.commit }

// ofCommit reports whether the id of a run may be one of a commit: it begins with the
// commit's first digits.
func ofCommit(id, commit string) bool {
	digits, _, _ := strings.Cut(id, ".")
	return ci.IsID(id) && strings.HasPrefix(commit, digits)
}

// admits reports whether others may see a run of the share by its id.
func (sh *share) admits(id string) bool { return sh.bound() == "" || ofCommit(id, sh.bound()) }

// admit reports whether others may see a run as a line of the executor's index has it, and
// takes out what the share may not tell of it.
func (sh *share) admit(r *run) bool {
	if sh.bound() == "" {
		return true
	}
	r.tree = ""
	return sh.admits(r.id) && r.commit == sh.bound()
}

// admitAll returns those of runs that others may see.
func (sh *share) admitAll(runs []run) []run {
	all := runs[:0]
	for _, r := range runs {
		if sh.admit(&r) {
			all = append(all, r)
		}
	}
	return all
}

// admitKey returns a run's key as the share may tell it: one that names anything but the
// commit answers no question.
func (sh *share) admitKey(key ci.Attrs) ci.Attrs {
	if sh.mayClaim(key) {
		return key
	}
	return ci.Attrs{}
}

// mayClaim reports whether the share may have a run with that key.
func (sh *share) mayClaim(key ci.Attrs) bool {
	return sh.bound() == "" || key.Get("commit") == sh.bound() && !key.Has("tree")
}

// errClaim is the error of an intent for another commit than the share may claim.
func (sh *share) errClaim() error {
	return fmt.Errorf("find: this login may claim a run of the commit %s by a key that names it, and no other: nobody waits for this one", sh.bound())
}

// hides reports whether the session does not see all of the share.
func (v *view) hides(sh *share) bool { return sh.bound() != "" && !v.mayWrite(sh) }

// boundChild returns what stands at name in a directory of an executor of which the
// session sees the runs of one commit, if that is not what the executor has there.
func (r *remoteDir) boundChild(name string) (n fs.Node, other bool) {
	sh := r.sh
	switch {
	case len(r.path) == 0 && name == "event": // the namespace has one
		return nil, true
	case len(r.path) == 0 && name == "index":
		return fs.Text{Name: name, Qid: sh.qid().Child(name), Make: r.boundIndex, ModTime: func() time.Time { return sh.since }}, true
	case r.listsRuns() && !sh.admits(strings.TrimSuffix(name, ".tar")):
		return nil, true
	}
	return nil, false
}

// listsRuns reports whether the directory has an entry for each run.
func (r *remoteDir) listsRuns() bool {
	return len(r.path) == 1 && (r.path[0] == "ci" || r.path[0] == "artifacts")
}

// boundIndex returns the lines of the executor's index that the session may see.
func (r *remoteDir) boundIndex(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	f, err := openFile(ctx, r.dir, "index")
	if err != nil {
		return nil, r.fail(err)
	}
	defer f.Close()
	var all []byte
	var text lineBuffer
	buf := make([]byte, 64<<10)
	for off := int64(0); off < maxIndex; {
		n, err := f.ReadAt(ctx, buf, off)
		off += int64(n)
		for line := range text.lines(buf[:n]) {
			if x, err := parseRun(line); err == nil && r.sh.admit(&x) {
				all = append(append(all, line...), '\n')
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, r.fail(err)
		}
	}
	return all, nil
}

// boundEntries takes out of a directory's entries what the session may not see.
func (r *remoteDir) boundEntries(page []fs.Stat) []fs.Stat {
	return slices.DeleteFunc(page, func(st fs.Stat) bool {
		n, other := r.boundChild(st.Name)
		return other && n == nil
	})
}
