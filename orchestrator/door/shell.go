package door

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// A Shell is what the command sh asks for, with what RFC 4254 §6 gives a shell.
type Shell struct {
	Namespace string // of the run, or ""
	Rev       string // a name below ci
	Root      bool   // in the system beside the container of the test

	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Term           string // the kind of the terminal, of which Stdout gets all output; "" if there is none

	// Resize has the size of the terminal, at once, and each new one. Signals is
	// what the client sends, and SIGHUP when the client hangs up: the context of the
	// shell ends hangupTime later.
	Resize  <-chan Size
	Signals <-chan syscall.Signal
}

// A Size is the size of a terminal, in characters. 0 is not known.
type Size struct{ Rows, Cols uint16 }

// hangupTime is how long a shell has to end by itself after its client has hung up.
const hangupTime = 3 * time.Second

// exitLost is the exit status of a shell that there is not, or that has ended otherwise
// than by itself. It is ssh's own (ssh(1)).
const exitLost = 255

// maxTerm is how long the name of a terminal may be (term(7) has no limit).
const maxTerm = 64

// A ptyMsg asks for a terminal (RFC 4254 §6.2). The modes of it are those that a terminal
// has at first.
type ptyMsg struct {
	Term                         string
	Columns, Rows, Width, Height uint32
	Modes                        string
}

// A resizeMsg is of a terminal's new size (RFC 4254 §6.7).
type resizeMsg struct{ Columns, Rows, Width, Height uint32 }

// signals are those of RFC 4254 §6.10.
var signals = []string{"ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"}

// control takes a request for a terminal, of its size, or of a signal, and reports whether
// r is such a one and whether it is granted. One goroutine calls it.
func (s *session) control(r *ssh.Request, started bool) (known, granted bool) {
	switch r.Type {
	case "pty-req":
		var m ptyMsg
		if started || ssh.Unmarshal(r.Payload, &m) != nil {
			return true, false
		}
		s.pty, s.term = true, termName(m.Term)
		s.resize(m.Rows, m.Columns)
		return true, true
	case "window-change":
		var m resizeMsg
		if ssh.Unmarshal(r.Payload, &m) != nil {
			return true, false
		}
		s.resize(m.Rows, m.Columns)
		return true, true
	case "signal":
		var m struct{ Name string }
		if ssh.Unmarshal(r.Payload, &m) != nil {
			return true, false
		}
		for _, name := range signals {
			if name == m.Name {
				return true, s.signal(unix.SignalNum("SIG" + name))
			}
		}
		return true, false
	}
	return false, false
}

// resize has the terminal get a size, in the place of one that it has not got yet.
func (s *session) resize(rows, cols uint32) {
	size := Size{uint16(min(rows, 1<<16-1)), uint16(min(cols, 1<<16-1))}
	select {
	case <-s.sizes:
	default:
	}
	s.sizes <- size
}

// signal has the program get a signal, and reports false if it has too many already.
func (s *session) signal(sig syscall.Signal) bool {
	select {
	case s.signals <- sig:
		return true
	default:
		return false
	}
}

// termName returns the name of a terminal if it is a plain word, else that of one that
// every system knows.
func termName(name string) string {
	for _, c := range []byte(name) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '.' && c != '+' && c != '_' {
			return "dumb"
		}
	}
	if name == "" || len(name) > maxTerm {
		return "dumb"
	}
	return name
}

// sh runs a shell in the machine of a held run.
func (s *session) sh(_ io.Writer, args []string) int {
	sh := Shell{
		Namespace: s.namespace, Rev: "held", Term: s.term,
		Stdin: s.ch, Stdout: s.ch, Stderr: s.ch.Stderr(), Resize: s.sizes, Signals: s.signals,
	}
	if len(args) > 0 && args[0] == "-root" {
		sh.Root, args = true, args[1:]
	}
	if len(args) > 1 {
		return s.misused("sh", errors.New("name one run"))
	}
	if len(args) == 1 {
		elems := strings.Split(strings.Trim(args[0], "/"), "/")
		n := len(elems)
		if sh.Rev = elems[n-1]; sh.Rev == "" || n > 1 && elems[n-2] != "ci" {
			return s.misused("sh", fmt.Errorf("%.80q is no run: want ci/ID", args[0]))
		}
		if n > 2 {
			sh.Namespace = strings.Join(elems[:n-2], "/")
		}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.ctx))
	defer cancel()
	defer context.AfterFunc(s.ctx, func() { // the client has hung up
		s.signal(syscall.SIGHUP)
		select {
		case <-time.After(hangupTime):
			cancel()
		case <-ctx.Done():
		}
	})()
	status, err := s.tree.Shell(ctx, sh)
	if err != nil {
		return max(s.fail("sh", err), exitLost)
	}
	return status
}
