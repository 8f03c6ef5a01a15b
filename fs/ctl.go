package fs

import (
	"context"
	"fmt"
	"io"
	iofs "io/fs"
	"slices"
	"strings"
	"sync"
	"time"
)

const rootManual = `run [ATTR=VALUE...] REV [TARGET...]
cancel ID
keep ID
forget ID
gc
`

const runManual = `cancel
hold DURATION
keep
forget
`

// maxCommand bounds one write to a ctl.
const maxCommand = 64 << 10

// CtlFile returns a file that reads as its manual and does the lines that are
// written to it. After a write the same open file reads the reply once, at
// whatever offset: what do returned, line by line, or the text of the error
// that the write got. Only who is known may write: an authenticated User, who
// on a Unix socket must be this process's user or root.
func CtlFile(name, manual string, do func(ctx context.Context, line string) (reply string, err error)) Node {
	return ctlFile{name: name, q: rootPath.child(name), manual: manual, do: do, made: time.Now()}
}

type ctlFile struct {
	name   string
	q      qpath
	manual string
	do     func(ctx context.Context, line string) (string, error)
	ro     bool
	made   time.Time
}

func (f ctlFile) Stat(context.Context) (Stat, error) {
	mode := iofs.FileMode(0o666)
	if f.ro {
		mode = 0o444
	}
	return Stat{Name: f.name, Mode: mode, Size: int64(len(f.manual)), ModTime: f.made, UID: uid, GID: gid, Path: f.q.path()}, nil
}

func (f ctlFile) Open(ctx context.Context, mode OpenMode) (File, error) {
	if mode&(OpenWrite|OpenTrunc) != 0 && (f.ro || !mayWrite(ctx)) {
		return nil, iofs.ErrPermission
	}
	return &openCtl{ctl: f, writable: mode&OpenWrite != 0}, nil
}

// mayWrite reports whether the User of ctx may command us.
func mayWrite(ctx context.Context) bool {
	u := UserOf(ctx)
	return !u.Anonymous && (u.UID < 0 || u.UID == 0 || u.UID == self.UID)
}

type openCtl struct {
	ctl      ctlFile
	writable bool

	mu      sync.Mutex // guards what follows
	written bool       // it reads replies from now on
	reply   []byte
}

func (f *openCtl) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.written {
		if off >= int64(len(f.ctl.manual)) {
			return 0, io.EOF
		}
		return copy(p, f.ctl.manual[off:]), nil
	}
	if len(f.reply) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.reply)
	f.reply = f.reply[n:]
	return n, nil
}

func (f *openCtl) WriteAt(ctx context.Context, p []byte, _ int64) (int, error) {
	if !f.writable {
		return 0, iofs.ErrPermission
	}
	reply, err := f.command(ctx, p)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written, f.reply = true, reply
	if err != nil {
		f.reply = append(f.reply, err.Error()+"\n"...)
		return 0, err
	}
	return len(p), nil
}

// command does the lines of a write, and stops at one that fails.
func (f *openCtl) command(ctx context.Context, p []byte) (reply []byte, err error) {
	if len(p) > maxCommand {
		return nil, badCommand("a command is over %d bytes", maxCommand)
	}
	for line, rest := "", string(p); rest != ""; {
		line, rest = cutLine(rest)
		line = strings.TrimRight(line, "\r\n")
		if strings.Trim(line, " \t") == "" {
			continue
		}
		r, err := f.ctl.do(ctx, line)
		if r != "" {
			reply = append(append(reply, strings.TrimSuffix(r, "\n")...), '\n')
		}
		if err != nil {
			return reply, err
		}
	}
	return reply, nil
}

// cutLine cuts a message behind its first line. A newline between quotes is
// part of a word.
func cutLine(s string) (line, rest string) {
	quoted := false
	for i := range len(s) {
		switch s[i] {
		case '\'':
			quoted = !quoted
		case '\n':
			if !quoted {
				return s[:i], s[i+1:]
			}
		}
	}
	return s, ""
}

func (f *openCtl) Close() error { return nil }

// badCommand is the error of a command that cannot be done as it is.
func badCommand(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), iofs.ErrInvalid)
}

// command does a line that was written to /ctl.
func (t *tree) command(ctx context.Context, line string) (string, error) {
	words, err := SplitWords(line)
	if err != nil {
		return "", badCommand("%w", err)
	}
	switch words[0] {
	case "run":
		rev := slices.IndexFunc(words[1:], func(w string) bool { return !strings.Contains(w, "=") })
		if rev < 0 {
			return "", badCommand("run: no revision is named: run [ATTR=VALUE...] REV [TARGET...]")
		}
		return t.c.Command(ctx, line)
	case "cancel", "keep", "forget":
		if len(words) != 2 {
			return "", badCommand("%s: name one run: %[1]s ID", words[0])
		}
		e, err := t.lookup(ctx, words[1])
		if err != nil {
			return "", fmt.Errorf("%s: %s: %w", words[0], words[1], bare(err))
		}
		if words[0] == "cancel" {
			if e.Run == nil {
				return "", badCommand("cancel: %s has ended", e.ID)
			}
			return t.c.Command(ctx, "cancel "+e.ID)
		}
		return "", t.keepOrForget(words[0], e.ID)
	case "gc":
		if len(words) != 1 {
			return "", badCommand("gc takes no arguments")
		}
		n, err := t.s.GC()
		return fmt.Sprintf("%d", n), err
	}
	return "", badCommand("%.40q is not a command: run, cancel, keep, forget and gc are", words[0])
}

// runCommand does a line that was written to the ctl of a run.
func (t *tree) runCommand(ctx context.Context, id, line string) (string, error) {
	words, err := SplitWords(line)
	if err != nil {
		return "", badCommand("%w", err)
	}
	switch words[0] {
	case "cancel":
		if len(words) != 1 {
			return "", badCommand("cancel takes no arguments")
		}
		if e, err := t.s.Get(id); err != nil || e.Run == nil {
			return "", badCommand("cancel: %s has ended", id)
		}
		return t.c.RunCommand(ctx, id, line)
	case "hold":
		if len(words) != 2 {
			return "", badCommand("hold: name a time: hold DURATION")
		}
		if d, err := time.ParseDuration(words[1]); err != nil || d < 0 {
			return "", badCommand("hold: %.40q is not a time such as 90s, 10m or 2h", words[1])
		}
		return t.c.RunCommand(ctx, id, line)
	case "keep", "forget":
		if len(words) != 1 {
			return "", badCommand("%s takes no arguments here", words[0])
		}
		return "", t.keepOrForget(words[0], id)
	}
	return "", badCommand("%.40q is not a command: cancel, hold, keep and forget are", words[0])
}

func (t *tree) keepOrForget(what, id string) error {
	if what == "keep" {
		return t.s.Keep(id)
	}
	return t.s.Forget(id)
}
