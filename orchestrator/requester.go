package orchestrator

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/mux"
)

// What one requester may have and do, by all its connections together, and what one
// connection may. A fleet may have one key, so a key may announce as often as its
// executors come back at once, and each of maxConnsOfKey may have two channels.
//
// Of bytes, its mux.Quota bounds those that are under way in 9P, to 320 MiB. Others
// are in channels: 2 MiB are buffered in one at most, either way, and only as long as
// they are not read here, or not taken by the client. A command holds no more of what
// it prints than its channel does.
const (
	maxChannelsOfKey = 8192 // that clients opened

	announcesOfKey  = 4096 // namespaces announced at once,
	announcesPerKey = 128  // and then in a second
	announcesOfConn = 2048 // the same, of a connection
	announcesPer    = 8
	maxFilesOfKey   = 4096 // files of executors that commands, sftp and aliases have open
)

// A requester is a key or an identity, and what it has and does by all its
// connections.
type requester struct {
	key       string
	conns     int // guarded by the tally's mu
	quota     mux.Quota
	channels  wire.Slots // that clients opened
	files     atomic.Int64
	announces *rate.Limiter
}

func newRequester(key string) *requester {
	return &requester{
		key:       key,
		channels:  wire.NewSlots(maxChannelsOfKey),
		announces: rate.NewLimiter(announcesPerKey, announcesOfKey),
	}
}

// open counts a file of an executor. Closed must be called, unless open reports an
// error.
func (r *requester) open() error {
	if r.files.Add(1) > maxFilesOfKey {
		r.files.Add(-1)
		return fmt.Errorf("too many open files of one key: %w", fs.ErrBusy)
	}
	return nil
}

func (r *requester) closed() { r.files.Add(-1) }

// A tally counts connections, and those of each key. It remembers a requester for
// forgetAfter when its last connection has ended, so that none gets a new allowance
// by coming back.
type tally struct {
	mu    sync.Mutex // guards what follows
	all   int
	byKey map[string]*requester
}

// forgetAfter is longer than an allowance takes to be whole again.
const forgetAfter = 2 * time.Minute

// enter counts a connection of a key. Leave must be called, unless enter reports an
// error.
func (t *tally) enter(key string) (*requester, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.byKey[key]
	switch {
	case t.all >= maxConns:
		return nil, fmt.Errorf("too many connections: %w", fs.ErrBusy)
	case r != nil && r.conns >= maxConnsOfKey:
		return nil, fmt.Errorf("too many connections of one key: %w", fs.ErrBusy)
	case r == nil:
		if t.byKey == nil {
			t.byKey = map[string]*requester{}
		}
		r = newRequester(key)
		t.byKey[key] = r
	}
	t.all++
	r.conns++
	return r, nil
}

// leave undoes enter.
func (t *tally) leave(r *requester) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if r.conns--; r.conns > 0 {
		return
	}
	if r.announces.Tokens() >= announcesOfKey { // nothing to remember
		delete(t.byKey, r.key)
		return
	}
	time.AfterFunc(forgetAfter, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if r.conns == 0 && t.byKey[r.key] == r {
			delete(t.byKey, r.key)
		}
	})
}

// count returns how many connections there are.
func (t *tally) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}
