// Package show prints to standard output and standard error. The output of a run,
// the name of a file and the words of a peer must have no power over the terminal
// on which they are read: they must not move the cursor, set the title, answer for
// the user, or look like a message of ours.
//
// [Writer.Write] prints content: the bytes of a run or of a file. A terminal gets
// the text of it and what colours text (SGR of ECMA-48). [Writer.Printf] and
// [Message] print words: our sentences, with names and words of others in them. A
// terminal gets their printable text; the rest is spelled as in a Go string.
//
// Anything but a terminal gets all bytes as they are. Terminals are taken to use
// UTF-8.
//
// [Run.Follow] prints a run.
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

// A surface is a terminal that several Writers print on.
type surface struct {
	mu     sync.Mutex // guards what follows, and the Writers' filters
	inLine bool       // the last content ended within a line
	inked  io.Writer  // the file on which content left colours, or nil
}

func newWriter(f *os.File, s *surface) *Writer {
	return &Writer{file: &output{f: f}, tty: term.IsTerminal(int(f.Fd())), surface: s}
}

// An output is a file that remembers the first error of writing to it. Several
// goroutines may use it.
type output struct {
	f io.Writer

	mu  sync.Mutex // guards err
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.f.Write(p)
	if err != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.err == nil {
			o.err = err
		}
	}
	return n, err
}

func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// Terminal reports whether w is a terminal.
func (w *Writer) Terminal() bool { return w.tty }

// Write prints content. If a control sequence or a character ends in a later Write,
// that Write prints it.
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

// content prints text that the filter has let through. The caller holds the
// surface's lock.
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

// Raw returns a writer of content that filters nothing, for a user who asks for
// that.
func (w *Writer) Raw() io.Writer { return w.file }

// Printf prints words. On a terminal, newlines in the strings and errors among
// args are spelled \n.
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

// Words returns a writer of words. The caller must not split a character over two
// Writes.
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

// settle ends the colours that content left on. It returns a newline if words
// would not begin a line without it. The caller holds the surface's lock.
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

// appendWords appends p to b. Characters that cannot be printed, but for newlines
// and tabs, are spelled as in a Go string. These include bidirectional controls,
// which can make one name read as another.
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

// Name returns a name as Printf should print it on w. On a terminal it is quoted as
// in Go if it is empty, or has a blank, a quote, a backslash or a character that
// cannot be printed.
func (w *Writer) Name(name string) string {
	plain := func(r rune) bool { return r != ' ' && r != '"' && r != '\\' && strconv.IsPrint(r) }
	if !w.tty || name != "" && utf8.ValidString(name) && strings.IndexFunc(name, func(r rune) bool { return !plain(r) }) < 0 {
		return name
	}
	return strconv.Quote(name)
}

// Message prints a message of the program on standard error. All lines but the
// first are indented: so no words of others stand where a message begins.
func Message(program, text string) {
	text = strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n\t")
	fmt.Fprintf(Err.Words(), "%s: %s\n", program, text)
}

// Close ends the colours that content left on. It returns the first error of all
// that was printed on standard output, or else on standard error: a command need
// not look at each. Printing still works afterwards.
func Close() error {
	settleScreen()
	for _, w := range []*Writer{Out, Err} {
		if o, ok := w.file.(*output); ok && o.failed() != nil {
			return o.failed()
		}
	}
	return nil
}

func settleScreen() {
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
