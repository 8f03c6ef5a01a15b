package access

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"iter"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// A watched is what a file says, or several together. It reads the files again when
// one of them has changed. While one cannot be read, cannot be understood or is gone,
// it stays as it last was: a slip of an operator's hand locks nobody out, and lets
// nobody in whose key was revoked. It logs once that this is so, and once that it is
// over.
type watched[T any] struct {
	paths []string
	parse func(texts [][]byte) (T, error)
	fresh func() // nil, or is called when the files say something else
	log   *slog.Logger

	mu    sync.Mutex      // guards what follows
	seen  []iofs.FileInfo // of the files that were read last; nil: they are to be read again
	texts [][]byte        // their content
	read  bool            // whether they have been read once
	good  T
	err   error  // why the files do not say what they are to say
	told  string // the error that was logged last; "" if all is well
}

// watch returns watched files. It is no error if one is not there yet: then they say
// what empty files say.
func watch[T any](paths []string, parse func(texts [][]byte) (T, error), fresh func(), log *slog.Logger) (*watched[T], error) {
	w := &watched[T]{paths: paths, parse: parse, fresh: fresh, log: log}
	w.good, _ = parse(make([][]byte, len(paths)))
	w.load()
	if errors.Is(w.err, iofs.ErrNotExist) {
		w.err = nil
	}
	return w, w.err
}

// watchFile is watch of one file.
func watchFile[T any](path string, parse func(text []byte) (T, error), fresh func(), log *slog.Logger) (*watched[T], error) {
	return watch([]string{path}, func(texts [][]byte) (T, error) { return parse(texts[0]) }, fresh, log)
}

// get returns what the files say.
func (w *watched[T]) get() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.load()
	switch {
	case w.err == nil && w.told != "":
		w.told = ""
		w.log.Info("state file is well again", "file", strings.Join(w.paths, ","))
	case w.err != nil && w.told != w.err.Error() && (w.read || !errors.Is(w.err, iofs.ErrNotExist)):
		w.told = w.err.Error()
		w.log.Error("state file", "err", fmt.Errorf("%w: what it said before stands", w.err))
	}
	return w.good
}

// load reads the files if one has changed.
func (w *watched[T]) load() {
	now := time.Now()
	infos, err := w.stat()
	if err == nil && slices.EqualFunc(infos, w.seen, sameFile) {
		return
	}
	w.seen = nil
	texts := make([][]byte, len(w.paths))
	for i, path := range w.paths {
		if err == nil {
			texts[i], err = os.ReadFile(path)
		}
	}
	if w.err = err; err != nil {
		return
	}
	// A file that was written just now may be written once more with the same
	// size and time: it is read again.
	if !slices.ContainsFunc(infos, func(fi iofs.FileInfo) bool { return now.Sub(fi.ModTime()) <= clockTick }) {
		w.seen = infos
	}
	if w.read && slices.EqualFunc(texts, w.texts, bytes.Equal) {
		return
	}
	v, err := w.parse(texts)
	if err != nil {
		w.err = fmt.Errorf("%s: %w", strings.Join(w.paths, ", "), err)
		return
	}
	w.good, w.texts, w.read = v, texts, true
	if w.fresh != nil {
		w.fresh()
	}
}

func (w *watched[T]) stat() ([]iofs.FileInfo, error) {
	infos := make([]iofs.FileInfo, len(w.paths))
	for i, path := range w.paths {
		fi, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !fi.Mode().IsRegular() { // a pipe would be read without end
			return nil, fmt.Errorf("%s: it is no regular file", path)
		}
		infos[i] = fi
	}
	return infos, nil
}

// clockTick is more than a file's time is late by: a tick of the kernel's clock,
// 10 ms at most.
const clockTick = 20 * time.Millisecond

func sameFile(a, b iofs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// changes tell that watched files say something else. The zero value is ready.
type changes struct {
	mu sync.Mutex    // guards c
	c  chan struct{} // nil, or closed at the next note
}

// note notes that a file says something else.
func (c *changes) note() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c != nil {
		close(c.c)
		c.c = nil
	}
}

// next returns a channel that is closed at the next note.
func (c *changes) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c == nil {
		c.c = make(chan struct{})
	}
	return c.c
}

// numbered returns the lines of text that are neither blank nor a comment, and their
// numbers.
func numbered(text []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		n := 0
		for line := range bytes.Lines(text) {
			n++
			if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && !yield(n, line) {
				return
			}
		}
	}
}

// eachLine calls f with each line of text, as numbered has them, and logs the lines
// that f cannot read, as PATH:NUMBER.
func eachLine(path string, text []byte, log *slog.Logger, f func(line []byte) error) {
	for n, line := range numbered(text) {
		if err := f(line); err != nil {
			log.Error("state file", "err", fmt.Errorf("%s:%d: the line is skipped: %w", path, n, err))
		}
	}
}
