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
// UTF-8. Words begin a line everywhere: where content has ended within one, a newline
// comes first.
//
// [Writer.Status] shows a line that is to change in place, on a terminal alone.
//
// [Run.Follow] prints a run.
package show

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unicode/utf8"

	"golang.org/x/term"
)

// Out and Err are standard output and standard error. Nothing else of a command
// writes there.
var (
	screen surface // Err's
	Err    = newWriter(os.Stderr, &screen)
	Out    = newWriter(os.Stdout, outSurface())
)

// A Writer is standard output or standard error.
type Writer struct {
	file    io.Writer
	tty     bool
	columns func() int // the width of the terminal; nil where a line cannot be erased
	surface *surface
	filter  filter
}

// A surface is a terminal, or another file, that several Writers print on.
type surface struct {
	mu     sync.Mutex // guards what follows, and the Writers' filters
	inLine bool       // the last content ended within a line
	inked  io.Writer  // the file on which content left colours, or nil
	status string     // what Status shows, or ""
	shown  io.Writer  // the file on which it does
}

func newWriter(f *os.File, s *surface) *Writer {
	w := &Writer{file: &output{f: f}, tty: term.IsTerminal(int(f.Fd())), surface: s}
	if name := os.Getenv("TERM"); w.tty && name != "" && name != "dumb" {
		w.columns = func() int {
			n, _, err := term.GetSize(int(f.Fd()))
			if err != nil {
				return 0
			}
			return n
		}
	}
	return w
}

// outSurface is the surface of standard output: that of standard error, if they are
// one file or both are terminals.
func outSurface() *surface {
	out, oerr := os.Stdout.Stat()
	err, eerr := os.Stderr.Stat()
	same := oerr == nil && eerr == nil && os.SameFile(out, err)
	if same || term.IsTerminal(int(os.Stdout.Fd())) && term.IsTerminal(int(os.Stderr.Fd())) {
		return &screen
	}
	return new(surface)
}

// Piped reports whether another program reads standard output, and may print it on the
// terminal that standard error is.
func Piped() bool {
	fi, err := os.Stdout.Stat()
	return err != nil || fi.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0
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
	w.surface.mu.Lock()
	defer w.surface.mu.Unlock()
	if !w.tty {
		return w.plain(p)
	}
	if err := w.content(w.filter.append(make([]byte, 0, len(p)), p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// plain prints content as it is. The caller holds the surface's lock.
func (w *Writer) plain(p []byte) (int, error) {
	w.surface.erase()
	if len(p) > 0 {
		w.surface.inLine = p[len(p)-1] != '\n'
	}
	return w.file.Write(p)
}

// content prints text that the filter has let through. The caller holds the
// surface's lock.
func (w *Writer) content(text []byte) error {
	f, s := &w.filter, w.surface
	if len(text) > 0 {
		s.erase()
	}
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
func (w *Writer) Raw() io.Writer { return raw{w} }

type raw struct{ w *Writer }

func (r raw) Write(p []byte) (int, error) {
	s := r.w.surface
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.w.tty && bytes.IndexByte(p, esc) >= 0 {
		s.inked = r.w.file // perhaps
	}
	return r.w.plain(p)
}

// Status shows words on the last line of a terminal, in the place of those that it has
// shown before; "" takes them away. What is printed next takes their place. Status shows
// nothing where a line cannot be erased or is too short, or where content has ended
// within one or has left colours on.
func (w *Writer) Status(text string) {
	if w.columns == nil {
		return
	}
	s := w.surface
	s.mu.Lock()
	defer s.mu.Unlock()
	if text == s.status {
		return
	}
	line := appendWords(nil, []byte(oneLine(text)))
	s.erase()
	if text == "" || s.inLine || s.inked != nil || utf8.RuneCount(line) >= w.columns() {
		return
	}
	if _, err := w.file.Write(line); err == nil {
		s.status, s.shown = text, w.file
	}
}

// erase takes away what Status shows. The caller holds the lock.
func (s *surface) erase() {
	if s.status != "" {
		io.WriteString(s.shown, "\r\x1b[K") // EL of ECMA-48
		s.status = ""
	}
}

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
	w.surface.mu.Lock()
	defer w.surface.mu.Unlock()
	text := w.surface.settle()
	if w.tty {
		text = appendWords(text, p)
	} else {
		text = append(text, p...)
	}
	if _, err := w.file.Write(text); err != nil {
		return 0, err
	}
	return len(p), nil
}

// settle takes away what Status shows, and ends the colours that content left on. It
// returns a newline if words would not begin a line without it. The caller holds the
// surface's lock.
func (s *surface) settle() []byte {
	s.erase()
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

// Outlive has a write to a reader that is gone fail. Without it, that kills the process:
// right for a command that does nothing but print, and wrong for one that runs or serves.
func Outlive() {
	// Nobody reads the channel. Ignored, the signal would be so in all commands that
	// are started here too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
}

// Lasting returns a writer that passes on what it gets to w, and goes on if w fails: what
// is printed is not what the printing is for. Close reports the error.
func Lasting(w io.Writer) io.Writer { return lasting{w} }

type lasting struct{ w io.Writer }

func (l lasting) Write(p []byte) (int, error) {
	l.w.Write(p)
	return len(p), nil
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
	for _, w := range []*Writer{Out, Err} {
		w.settle()
	}
}

func (w *Writer) settle() {
	w.surface.mu.Lock()
	defer w.surface.mu.Unlock()
	if rest := w.filter.end(nil); w.tty && len(rest) > 0 {
		w.content(rest)
	}
	w.surface.inLine = false
	w.surface.settle()
}
