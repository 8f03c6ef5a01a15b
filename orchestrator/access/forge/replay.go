package forge

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"9ci/fs/ci"
)

const (
	maxReplays      = 65536 // tokens remembered, of 200 bytes each
	maxReplaysOfOne = 256   // and those of one repository: none can fill the room of all
)

// replays remember which key has shown a token that names none. They are kept in a file,
// a line a token: its SHA-256, the key, the repository, and until when it is good.
type replays struct {
	path string // "": none

	mu    sync.Mutex // guards what follows
	shown map[tokenID]shown
	of    map[string]int // how many of each repository
	lines int            // of the file
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
	if path == "" {
		return r, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, iofs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	// A last line without its end was being written when the process died: nobody has
	// been let in by it.
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		id, s, err := parseShown(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w; take the line out", path, n, err)
		}
		if _, ok := r.shown[id]; !ok {
			r.shown[id] = s
			r.of[s.repository]++
		}
	}
	r.sweep(time.Now())
	return r, r.rewrite()
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
	if s, ok := r.shown[id]; ok {
		if s.key != key {
			return fmt.Errorf("it was used by the key %s: a token is for one key", s.key)
		}
		return nil
	}
	if len(r.shown) >= maxReplays || r.of[repository] >= maxReplaysOfOne {
		r.sweep(now)
	}
	if len(r.shown) >= maxReplays || r.of[repository] >= maxReplaysOfOne {
		return busy(errors.New("too many tokens that name no key are in use: take them out (aud) to HOST:FINGERPRINT, or wait for some to end"))
	}
	s := shown{key, repository, until}
	if err := r.write(id.line(s)); err != nil {
		return busy(err)
	}
	r.shown[id] = s
	r.of[repository]++
	return nil
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
// more is written anew before that.
func (r *replays) write(line string) error {
	if r.path == "" {
		return nil
	}
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
	r.lines++
	if _, err = f.WriteString(line); err != nil {
		r.lines = 1 << 30 // it may have a part of the line: write it anew
	}
	return errors.Join(err, f.Close())
}

// rewrite writes the file anew.
func (r *replays) rewrite() error {
	var b bytes.Buffer
	for id, s := range r.shown {
		b.WriteString(id.line(s))
	}
	anew := r.path + ".new"
	if err := os.WriteFile(anew, b.Bytes(), 0o600); err != nil {
		return err
	}
	if err := os.Rename(anew, r.path); err != nil {
		return err
	}
	r.lines = len(r.shown)
	return nil
}
