package door

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/proto/ninep"
	"9ci/proto/sftp"
)

// A session is one session channel (RFC 4254 §6): a subsystem or a command.
type session struct {
	ch     ssh.Channel
	ctx    context.Context // done when the channel is closed
	cancel func()          // ends ctx
	tree   *Tree

	namespace string // where the command looks up ci, n and artifacts; "" for the key's own

	pty     bool                // the client has a terminal, which is set raw: lines end in CR LF, and ^C comes as a byte
	term    string              // its kind
	sizes   chan Size           // its last one that nobody has asked for
	signals chan syscall.Signal // for a shell

	exited sync.Once
	wg     sync.WaitGroup // of what the session started
}

// startWithin is how long a session may take to start a program. Until then nobody
// reads what the client sends, of which a channel's window holds 2 MiB.
const startWithin = time.Minute

// Session serves a session channel until it is closed. Enter returns the tree
// that the session sees; ctx is the session's.
func Session(ctx context.Context, nc ssh.NewChannel, enter func(ctx context.Context) *Tree) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &session{ch: ch, ctx: ctx, cancel: cancel, tree: enter(ctx), sizes: make(chan Size, 1), signals: make(chan syscall.Signal, 8)}
	defer s.wg.Wait()
	defer s.tree.Close()
	defer cancel()
	defer ch.Close()
	late := time.AfterFunc(startWithin, func() { ch.Close() })
	defer late.Stop()
	started := false
	for r := range reqs {
		if known, granted := s.control(r, started); known {
			r.Reply(granted, nil)
			continue
		}
		run := s.program(r)
		if run == nil || started {
			r.Reply(false, nil)
			continue
		}
		started = true
		late.Stop()
		r.Reply(true, nil)
		s.wg.Go(func() { s.exit(run()) })
	}
}

// program returns what a request asks to run, or nil.
func (s *session) program(r *ssh.Request) func() int {
	var arg struct{ Text string }
	switch r.Type {
	case "shell":
		return s.help
	case "exec", "subsystem":
		if ssh.Unmarshal(r.Payload, &arg) != nil {
			return nil
		}
	}
	switch r.Type {
	case "exec":
		return func() int { return s.exec(arg.Text) }
	case "subsystem":
		return s.subsystem(arg.Text)
	}
	return nil // env is refused
}

// What a terminal sends for its keys, and what its lines end in (termios(3)).
const (
	ctrlC         = 0x03
	ctrlBackslash = 0x1c

	exitInterrupted = 130 // as a shell has it
)

// interrupt ends the program when ^C is typed. It returns when the channel is
// closed.
func (s *session) interrupt() {
	b := make([]byte, 256)
	for {
		n, err := s.ch.Read(b)
		if bytes.ContainsAny(b[:n], string([]byte{ctrlC, ctrlBackslash})) {
			s.exit(exitInterrupted)
			s.cancel()
			return
		}
		if err != nil {
			return
		}
	}
}

// stdout returns where a command prints.
func (s *session) stdout() io.Writer { return s.terminal(s.ch) }

// stderr returns where a command complains.
func (s *session) stderr() io.Writer { return s.terminal(s.ch.Stderr()) }

func (s *session) terminal(w io.Writer) io.Writer {
	if s.pty {
		return crlf{w}
	}
	return w
}

// A crlf writes LF as CR LF, as a terminal's driver does (ONLCR).
type crlf struct{ w io.Writer }

func (c crlf) Write(p []byte) (int, error) {
	if _, err := c.w.Write(bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n"))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// subsystem returns the program of a subsystem, or nil.
func (s *session) subsystem(name string) func() int {
	if name == "sftp" {
		return s.serveSFTP
	}
	if path, ok := strings.CutPrefix(name, "9p-export"); ok && (path == "" || path[0] == '/') {
		return func() int { return s.export("9p" + path) }
	}
	if path, ok := strings.CutPrefix(name, "9p"); ok && (path == "" || path[0] == '/') {
		return func() int { return s.serve9P(strings.TrimPrefix(path, "/")) }
	}
	return nil
}

// serve9P serves the tree, or what is below path: a path of the tree, or the
// name of an executor, which is a path below n.
func (s *session) serve9P(path string) int {
	serve := s.tree.Serve9P
	if path != "" {
		if !strings.Contains(path, "/") {
			path = "n/" + path
		}
		srv := ninep.Server{User: s.tree.User, Trace: s.tree.Trace}
		srv.Attach = func(ctx context.Context, _, aname string) (fs.Dir, error) { return s.attachBelow(ctx, path, aname) }
		serve = srv.Serve
	}
	if err := serve(s.ctx, stream{s}); err != nil {
		return exitFail
	}
	return exitOK
}

type containedKey struct{}

// Contained reports whether ctx is of a client, such as sshfs, that may have
// mounted a part of the tree and follows no link that goes up. An alias that goes
// up and is not listed is a directory there.
func Contained(ctx context.Context) bool { return ctx.Value(containedKey{}) != nil }

// serveSFTP serves the tree read-only, for sftp, scp and sshfs.
func (s *session) serveSFTP() int {
	root, err := AsDir(s.tree.Walk(s.ctx, "", ""))
	if err != nil {
		return s.fail("sftp", err)
	}
	ctx := context.WithValue(fs.WithUser(s.ctx, s.tree.User), containedKey{}, true)
	if err := sftp.Serve(ctx, stream{s}, root, "wait"); err != nil {
		return exitFail
	}
	return exitOK
}

// attachBelow answers a Tattach where path is the root.
func (s *session) attachBelow(ctx context.Context, path, aname string) (fs.Dir, error) {
	d, err := AsDir(s.tree.Walk(ctx, "", path))
	if err != nil {
		return nil, err
	}
	return AsDir(fs.Walk(ctx, d, aname))
}

// export makes the channel's other end an executor's 9P server, until it hangs
// up.
func (s *session) export(path string) int {
	if s.tree.Export == nil {
		return s.fail("9p-export", errors.New("no exports are taken here: export to an orchestrator"))
	}
	if err := s.tree.Export(s.ctx, s.ch, path); err != nil {
		return s.fail("9p-export", err)
	}
	return exitOK
}

// fail prints why a program ends, and returns its exit status.
func (s *session) fail(program string, err error) int {
	io.WriteString(s.stderr(), program+": "+err.Error()+"\n")
	return worse(exitOK, err)
}

// exit ends the session with a status. The first one counts.
func (s *session) exit(status int) {
	s.exited.Do(func() {
		s.ch.SendRequest("exit-status", false, ssh.Marshal(&struct{ Status uint32 }{uint32(status)})) // RFC 4254 §6.10
		s.ch.Close()
	})
}

// A stream is the session's channel for a server that closes it: the client is
// told that the server succeeded.
type stream struct{ s *session }

func (t stream) Read(p []byte) (int, error)  { return t.s.ch.Read(p) }
func (t stream) Write(p []byte) (int, error) { return t.s.ch.Write(p) }

func (t stream) Close() error {
	t.s.exit(exitOK)
	return nil
}
