package fs

import (
	"context"
	"fmt"
	"io"
	iofs "io/fs"
	"strings"
	"sync"
	"time"
)

// maxCommand bounds one write to a ctl, in bytes.
const maxCommand = 64 << 10

// CtlFile returns a file at the root of a tree that reads as its manual, and
// does the lines that are written to it. After a write the same open file reads
// the reply once, at whatever offset: what do returned, line by line, or the
// text of the error that the write got. A newline between single quotes does
// not end a line. An Anonymous User cannot write. Where the peer's uid is
// known, as on a Unix socket, it is this process's or root's.
func CtlFile(name, manual string, do func(ctx context.Context, line string) (reply string, err error)) Node {
	return Ctl{Name: name, Qid: RootQid.Child(name), Manual: manual, Do: do, ModTime: time.Now()}
}

// A Ctl is what CtlFile returns, at any place and of any time.
type Ctl struct {
	Name     string
	Qid      Qid
	Manual   string
	ReadOnly bool // no User may write
	ModTime  time.Time

	// Do does one line, which has neither its newline nor is blank. An error
	// ends the write: the lines behind it are not done.
	Do func(ctx context.Context, line string) (reply string, err error)
}

// Stat implements Node.
func (f Ctl) Stat(context.Context) (Stat, error) {
	st := FileStat(f.Name, f.Qid, int64(len(f.Manual)), f.ModTime)
	if !f.ReadOnly {
		st.Mode = 0o666
	}
	return st, nil
}

// Open implements Node.
func (f Ctl) Open(ctx context.Context, mode OpenMode) (File, error) {
	if mode&(OpenWrite|OpenTrunc) != 0 && (f.ReadOnly || !MayCommand(UserOf(ctx))) {
		return nil, iofs.ErrPermission
	}
	o := &openCtl{ctl: f, writable: mode&OpenWrite != 0}
	o.life, o.end = context.WithCancel(context.Background())
	return o, nil
}

type lifeKey struct{}

// CtlLife returns a context that ends when the open ctl is closed whose Do got ctx. It
// returns nil for any other ctx.
func CtlLife(ctx context.Context) context.Context {
	life, _ := ctx.Value(lifeKey{}).(context.Context)
	return life
}

// MayCommand reports whether a user may give this process commands.
func MayCommand(u User) bool {
	return !u.Anonymous && (u.UID < 0 || u.UID == 0 || u.UID == self.UID)
}

type openCtl struct {
	ctl      Ctl
	writable bool
	life     context.Context // see CtlLife
	end      context.CancelFunc

	mu      sync.Mutex // guards what follows
	written bool       // it reads replies from now on
	reply   []byte
}

func (f *openCtl) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.written {
		if off >= int64(len(f.ctl.Manual)) {
			return 0, io.EOF
		}
		return copy(p, f.ctl.Manual[off:]), nil
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
	reply, err := f.command(context.WithValue(ctx, lifeKey{}, f.life), p)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written, f.reply = true, reply
	if err != nil {
		f.reply = append(f.reply, err.Error()+"\n"...)
		return 0, err
	}
	return len(p), nil
}

// command does the lines of a write, and stops at the first that fails.
func (f *openCtl) command(ctx context.Context, p []byte) (reply []byte, err error) {
	if len(p) > maxCommand {
		return nil, fmt.Errorf("a command is over %d bytes: %w", maxCommand, iofs.ErrInvalid)
	}
	for line, rest := "", string(p); rest != ""; {
		line, rest = cutLine(rest)
		line = strings.TrimRight(line, "\r\n")
		if strings.Trim(line, " \t") == "" {
			continue
		}
		r, err := f.ctl.Do(ctx, line)
		if r != "" {
			reply = append(append(reply, strings.TrimSuffix(r, "\n")...), '\n')
		}
		if err != nil {
			return reply, err
		}
	}
	return reply, nil
}

// cutLine cuts s behind its first line. A newline between quotes is part of a
// word.
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

func (f *openCtl) Close() error {
	f.end()
	return nil
}
