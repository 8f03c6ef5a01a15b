package access

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// A watched is what a file says. It reads the file again when the file has
// changed. While the file cannot be read, cannot be understood or is gone, it
// stays as it last was: a slip of an operator's hand locks nobody out, and lets
// nobody in whose key was revoked. It logs once that this is so, and once that it
// is over.
type watched[T any] struct {
	path  string
	parse func(text []byte) (T, error)
	log   *slog.Logger

	mu   sync.Mutex    // guards what follows
	seen iofs.FileInfo // of the file that was read last; nil: it is to be read again
	text []byte        // its content
	read bool          // whether it has been read once
	good T
	err  error  // why the file does not say what it is to say
	told string // the error that was logged last; "" if all is well
}

// watch returns a watched file. It is no error if the file is not there yet: then
// it says what an empty file says.
func watch[T any](path string, parse func(text []byte) (T, error), log *slog.Logger) (*watched[T], error) {
	w := &watched[T]{path: path, parse: parse, log: log}
	w.good, _ = parse(nil)
	w.load()
	if errors.Is(w.err, iofs.ErrNotExist) {
		w.err = nil
	}
	return w, w.err
}

// get returns what the file says, and whether that is new since the last call.
func (w *watched[T]) get() (v T, fresh bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh = w.load()
	switch {
	case w.err == nil && w.told != "":
		w.told = ""
		w.log.Info("state file is well again", "file", w.path)
	case w.err != nil && w.told != w.err.Error() && (w.read || !errors.Is(w.err, iofs.ErrNotExist)):
		w.told = w.err.Error()
		w.log.Error("state file", "err", fmt.Errorf("%w: what it said before stands", w.err))
	}
	return w.good, fresh
}

// load reads the file if it has changed, and reports whether it says something
// else now.
func (w *watched[T]) load() (fresh bool) {
	now := time.Now()
	fi, err := os.Stat(w.path)
	if err == nil && sameFile(fi, w.seen) {
		return false
	}
	w.seen = nil
	if err == nil && !fi.Mode().IsRegular() { // a pipe would be read without end
		err = fmt.Errorf("%s: it is no regular file", w.path)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(w.path)
	}
	if w.err = err; err != nil {
		return false
	}
	// A file that was written just now may be written once more with the same
	// size and time: it is read again.
	if now.Sub(fi.ModTime()) > clockTick {
		w.seen = fi
	}
	if w.read && bytes.Equal(text, w.text) {
		return false
	}
	v, err := w.parse(text)
	if err != nil {
		w.err = fmt.Errorf("%s: %w", w.path, err)
		return false
	}
	w.good, w.text, w.read = v, text, true
	return true
}

// clockTick is more than a file's time is late by: a tick of the kernel's clock,
// 10 ms at most.
const clockTick = 20 * time.Millisecond

func sameFile(a, b iofs.FileInfo) bool {
	return b != nil && os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// eachLine calls f with each line of text that is neither blank nor a comment,
// and logs the lines that f cannot read, as PATH:NUMBER.
func eachLine(path string, text []byte, log *slog.Logger, f func(line []byte) error) {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if err := f(line); err != nil {
			log.Error("state file", "err", fmt.Errorf("%s:%d: the line is skipped: %w", path, n, err))
		}
	}
}
