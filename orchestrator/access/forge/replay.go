package forge

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"9ci/fs/ci"
	"9ci/orchestrator/internal/statedir"
)

const (
	maxReplays      = 65536 // tokens remembered, of 200 bytes each
	maxReplaysOfOne = 256   // and those of one repository: none can fill the room of all
)

// replays remember which key has shown a token that names none. They are kept in a file,
// a line a token: its SHA-256, the key, the repository, and until when it is good. Several
// orchestrators may have one state directory, as when one ends and the next begins: the
// file is written under the lock, and what another has written there counts too.
type replays struct {
	path string // "": none

	mu    sync.Mutex // guards what follows
	shown map[tokenID]shown
	of    map[string]int // how many of each repository
	lines int            // of the file
	seen  iofs.FileInfo  // of the file, when it was last read or written here; nil: not yet
}

// A tokenID is the SHA-256 of what is signed of a token. That is the token: it may have
// no jti (Forgejo's have none), and its signature may be written in several ways.
type tokenID [32]byte

type shown struct {
	key, repository string
	until           time.Time
}

func (id tokenID) line(s shown) string {
	return fmt.Sprintf("%x %s %s %s\n", id[:], s.key, s.repository, ci.FormatTime(s.until))
}

// openReplays returns those of a file, "" for none. It reports an error if the file
// cannot be read or written, or has a line that it cannot read: a token that it forgot
// would be good for another key.
func openReplays(path string) (*replays, error) {
	r := &replays{path: path, shown: map[tokenID]shown{}, of: map[string]int{}}
	if _, err := os.Stat(path); path == "" || errors.Is(err, iofs.ErrNotExist) {
		return r, nil
	}
	return r, statedir.Dir(filepath.Dir(path)).Locked(func() error {
		if err := r.load(); err != nil {
			return err
		}
		r.sweep(time.Now())
		return r.rewrite()
	})
}

// load reads the file if another process has changed it. The lock is held.
func (r *replays) load() error {
	fi, err := os.Stat(r.path)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || r.seen != nil && os.SameFile(fi, r.seen) && fi.Size() == r.seen.Size() {
		return nil // what is no file is for write to find out: a device has no end
	}
	text, err := os.ReadFile(r.path)
	if err != nil {
		return err
	}
	// A last line without its end was being written when the process died: nobody has
	// been let in by it.
	whole := text[:bytes.LastIndexByte(text, '\n')+1]
	n := 0
	for line := range strings.Lines(string(whole)) {
		n++
		id, s, err := parseShown(line)
		if err != nil {
			return fmt.Errorf("%s:%d: %w; take the line out", r.path, n, err)
		}
		r.add(id, s)
	}
	if r.seen, r.lines = fi, n; len(whole) < len(text) {
		r.lines = writeAnew
	}
	return nil
}

// writeAnew is for the number of lines of a file that may end with a part of one.
const writeAnew = 1 << 30

func (r *replays) add(id tokenID, s shown) {
	if _, ok := r.shown[id]; !ok {
		r.shown[id] = s
		r.of[s.repository]++
	}
}

func parseShown(line string) (id tokenID, s shown, err error) {
	words := strings.Fields(line)
	if len(words) != 4 {
		return id, s, errors.New("want the SHA-256 of a token, a key, a repository and a time")
	}
	b, err := hex.DecodeString(words[0])
	if err != nil || copy(id[:], b) != len(id) || len(b) != len(id) {
		return id, s, fmt.Errorf("%.80q is no SHA-256", words[0])
	}
	until, err := ci.ParseTime(words[3])
	return id, shown{words[1], words[2], until}, err
}

// use returns nil if key is the first that shows the token id, or the one that did
// before: it is good until then. A token that was shown is never forgotten while it is
// good. If there is no room for another, the error is fs.ErrBusy.
func (r *replays) use(id tokenID, key, repository string, now, until time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.shown[id]; !ok {
		if err := r.note(id, shown{key, repository, until}, now); err != nil {
			return busy(err)
		}
	}
	if s := r.shown[id]; s.key != key {
		return fmt.Errorf("it was used by the key %s: a token is for one key", s.key)
	}
	return nil
}

// note notes that s is the first that has shown the token id, unless another orchestrator
// has noted one.
func (r *replays) note(id tokenID, s shown, now time.Time) error {
	add := func() error {
		if _, ok := r.shown[id]; ok {
			return nil
		}
		if r.full(s.repository) {
			r.sweep(now)
		}
		if r.full(s.repository) {
			return errors.New("too many tokens that name no key are in use: take them out (aud) to HOST:FINGERPRINT, or wait for some to end")
		}
		if r.path != "" {
			if err := r.write(id.line(s)); err != nil {
				return err
			}
		}
		r.add(id, s)
		return nil
	}
	if r.path == "" {
		return add()
	}
	return statedir.Dir(filepath.Dir(r.path)).Locked(func() error {
		if err := r.load(); err != nil {
			return err
		}
		return add()
	})
}

func (r *replays) full(repository string) bool {
	return len(r.shown) >= maxReplays || r.of[repository] >= maxReplaysOfOne
}

// sweep forgets what is good no more.
func (r *replays) sweep(now time.Time) {
	for id, s := range r.shown {
		if now.Before(s.until) {
			continue
		}
		delete(r.shown, id)
		if r.of[s.repository]--; r.of[s.repository] == 0 {
			delete(r.of, s.repository)
		}
	}
}

// write adds a line to the file. One in which most lines are of tokens that are good no
// more is written anew before that. The lock is held.
func (r *replays) write(line string) (err error) {
	if r.lines > 1000+2*len(r.shown) {
		r.sweep(time.Now())
		if err := r.rewrite(); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r.lines++
	if _, err = f.WriteString(line); err == nil {
		err = f.Sync() // the token is noted before it lets the key in
	}
	if err != nil {
		r.lines = writeAnew
		return err
	}
	r.seen, err = f.Stat()
	return err
}

// rewrite writes the file anew. The lock is held.
func (r *replays) rewrite() error {
	var b bytes.Buffer
	for id, s := range r.shown {
		b.WriteString(id.line(s))
	}
	if err := statedir.Dir(filepath.Dir(r.path)).Write(filepath.Base(r.path), b.Bytes()); err != nil {
		return err
	}
	var err error
	r.seen, err = os.Stat(r.path)
	r.lines = len(r.shown)
	return err
}
