package orchestrator

import (
	"errors"
	"strings"
	"unicode"

	"9ci/fs/ci"
)

const (
	maxRuns   = 16384    // of a share
	maxIndex  = 8 << 20  // bytes of an index file that are read
	maxKey    = 64 << 10 // bytes of a key file
	maxKeys   = 4 << 20  // bytes of a share's keys that are remembered
	maxSigner = 1024     // bytes
)

// A run is what an executor says of one of its runs.
type run struct {
	share  *share
	id     string
	status ci.Status
	commit string // this and what follows are "" if they are not known
	tree   string
	signer string
	score  string
	key    ci.Attrs // nil until it has been read; never changed after
	order  uint64   // when the orchestrator learned of it
	place  uint64   // when it learned the key, from which on find may tell of it: the askers' order

	listed      bool  // the executor's tree has told of it
	indexedAt   int64 // where it stands in the index of its namespace, in Unix µs
	indexedSize int   // bytes of its line there; 0 if it is not there
	intents     int   // open find files that say their executor is going to run it
}

// path returns where the run stands in its namespace.
func (r *run) path() string { return r.share.path() + "/ci/" + r.id }

// line returns the run's line of an event file.
func (r *run) line() string { return ci.FormatEvent(r.path(), r.status) + "\n" }

// parseRun reads a line of an executor's index file. It is stricter than
// ci.ParseIndexLine: the orchestrator prints the signer.
func parseRun(line string) (run, error) {
	l, err := ci.ParseIndexLine(line)
	if err != nil {
		return run{}, err
	}
	if len(l.Signer) > maxSigner || strings.ContainsFunc(l.Signer, unicode.IsControl) {
		return run{}, errors.New("a signer that cannot be printed")
	}
	return run{id: l.ID, status: l.Status, tree: l.Tree, commit: l.Commit, signer: l.Signer, score: l.Score, listed: true}, nil
}

// named reports whether rev, which is not "last", is a name of the run: its
// score, its commit or tree, or seven or more digits that either begins with.
func (r *run) named(rev string) bool {
	if len(rev) < 7 || !ci.IsHex(rev) {
		return false
	}
	return rev == r.score || strings.HasPrefix(r.commit, rev) || strings.HasPrefix(r.tree, rev)
}

// candidate returns what decides whether the run is the best of a revision. A run
// whose key has not been read counts as one of the default targets.
func (r *run) candidate() ci.Candidate {
	return ci.Candidate{Default: ci.DefaultTargets(r.key), State: r.status.State, Time: r.status.Time, Order: r.order}
}

// answers reports whether every pair of the question is one of the run's key.
func (r *run) answers(question ci.Attrs) bool {
	for _, q := range question {
		if !r.key.Has(q.Name) || r.key.Get(q.Name) != q.Value {
			return false
		}
	}
	return true
}

// offer returns the run's line of an answer of find.
func (r *run) offer() ci.Offer {
	m := r.share.m
	return ci.Offer{
		Executor: m.name, ID: r.id, State: r.status.State, Took: r.status.Took,
		Score: r.score, Signer: r.vouches(), Address: m.announced.Load().address,
	}
}

// vouches returns the key that vouches for r: its signer or, while r has not
// ended, the key that is going to sign it. It is "" if the executor has proved none.
func (r *run) vouches() string {
	if r.status.Finished() {
		return r.signer
	}
	return r.share.m.announced.Load().signer
}
