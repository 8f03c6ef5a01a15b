// Package show prints to standard output and standard error. What a run prints,
// what a file is called and what a peer says must not get at the terminal on
// which it is read: not move the cursor, set the title, answer for the user, or
// look like a message of ours.
//
// There are content, which [Writer.Write] prints, and words of ours with names
// and others' words in them, which [Writer.Printf] and [Message] print. Of
// content a terminal gets text and what colours it (SGR of ECMA-48), of words
// printable text alone: the rest is shown as Go spells it in a string.
//
// What is no terminal gets all bytes as they are. The terminal is taken to be
// one of UTF-8.
package show

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// Out and Err are standard output and standard error. Nothing else of a command
// writes there.
var (
	screen surface
	Out    = newWriter(os.Stdout, &screen)
	Err    = newWriter(os.Stderr, &screen)
)

// A Writer is standard output or standard error.
type Writer struct {
	file    io.Writer
	tty     bool
	surface *surface
	filter  filter
}

// A surface is what Writers print on together.
type surface struct {
	mu     sync.Mutex // guards what follows, and the Writers' filters
	inLine bool       // content ended within a line
	inked  io.Writer  // where content left colours on, or nil
}

func newWriter(f *os.File, s *surface) *Writer {
	return &Writer{file: f, tty: term.IsTerminal(int(f.Fd())), surface: s}
}

// Terminal reports whether w is a terminal.
func (w *Writer) Terminal() bool { return w.tty }

// Write prints content. A control sequence, or a character, that ends in a
// later Write is printed with that.
func (w *Writer) Write(p []byte) (int, error) {
	if !w.tty {
		return w.file.Write(p)
	}
	w.surface.mu.Lock()
	defer w.surface.mu.Unlock()
	if err := w.content(w.filter.append(make([]byte, 0, len(p)), p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// content prints what the filter let through. The surface is locked.
func (w *Writer) content(text []byte) error {
	f, s := &w.filter, w.surface
	if f.line != none {
		s.inLine = f.line == begun
	}
	switch {
	case f.ink == begun:
		s.inked = w.file
	case f.ink == ended && s.inked == w.file:
		s.inked = nil
	}
	f.line, f.ink = none, none
	_, err := w.file.Write(text)
	return err
}

// Raw returns a writer of content that lets everything through: the user asked
// for it.
func (w *Writer) Raw() io.Writer { return w.file }

// Printf prints words of ours. On a terminal the strings and errors among args
// make no lines.
func (w *Writer) Printf(format string, args ...any) (int, error) {
	if w.tty {
		args = slices.Clone(args)
		for i, a := range args {
			switch a := a.(type) {
			case string:
				args[i] = oneLine(a)
			case error:
				args[i] = oneLine(a.Error())
			}
		}
	}
	return fmt.Fprintf(w.Words(), format, args...)
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", `\n`) }

// Words returns a writer of words of ours, for what wants a writer. No character
// is split over Writes.
func (w *Writer) Words() io.Writer { return words{w} }

type words struct{ w *Writer }

func (x words) Write(p []byte) (int, error) {
	w := x.w
	if !w.tty {
		return w.file.Write(p)
	}
	w.surface.mu.Lock()
	defer w.surface.mu.Unlock()
	if _, err := w.file.Write(appendWords(w.surface.settle(), p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// settle ends the colours that content left on, and returns what makes words
// begin a line. The surface is locked.
func (s *surface) settle() []byte {
	if s.inked != nil {
		io.WriteString(s.inked, "\x1b[m")
		s.inked = nil
	}
	if s.inLine {
		s.inLine = false
		return []byte("\n")
	}
	return nil
}

// appendWords appends p with what is not printable as in a string of Go's, but
// for newlines and tabs. Bidirectional controls, which make a name read as
// another, are not printable.
func appendWords(b, p []byte) []byte {
	for len(p) > 0 {
		r, n := utf8.DecodeRune(p)
		switch {
		case r == utf8.RuneError && n == 1:
			b = fmt.Appendf(b, `\x%02x`, p[0])
		case r == '\n' || r == '\t' || strconv.IsPrint(r):
			b = append(b, p[:n]...)
		default:
			q := strconv.AppendQuoteRune(nil, r)
			b = append(b, q[1:len(q)-1]...)
		}
		p = p[n:]
	}
	return b
}

// Name returns a name as it is to be printed on w: on a terminal quoted as in
// Go, if one could not tell where it begins and ends or what is in it.
func (w *Writer) Name(name string) string {
	plain := func(r rune) bool { return r != ' ' && r != '"' && r != '\\' && strconv.IsPrint(r) }
	if !w.tty || name != "" && utf8.ValidString(name) && strings.IndexFunc(name, func(r rune) bool { return !plain(r) }) < 0 {
		return name
	}
	return strconv.Quote(name)
}

// Message prints a message of the program that is named, on standard error. Its
// lines are indented but for the first, so that none of others' words stands
// where a message of ours begins.
func Message(program, text string) {
	text = strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n\t")
	fmt.Fprintf(Err.Words(), "%s: %s\n", program, text)
}

// Close leaves the terminal as it was found. What is printed afterwards is
// printed all the same.
func Close() {
	screen.mu.Lock()
	defer screen.mu.Unlock()
	for _, w := range []*Writer{Out, Err} {
		if rest := w.filter.end(nil); w.tty && len(rest) > 0 {
			w.content(rest)
		}
	}
	screen.inLine = false
	screen.settle()
}
