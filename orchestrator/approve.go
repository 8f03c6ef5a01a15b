package orchestrator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/wire"
)

// Approvals ask people on the page whether a key is theirs. They bound how many keys ask,
// of one address and of all.
type Approvals interface {
	// URL returns the page's.
	URL() string

	// New returns the request of a key of a client at an address, which a person answers
	// on the page in any browser, by its code. The error is fs.ErrBusy if there are too
	// many, or says to the client why there is none.
	New(key ssh.PublicKey, from net.Addr) (Approval, error)

	// NewHere returns the request of a key of a client that sees its answer by a
	// browser on its own machine, which is sent to a port of 127.0.0.1 there, with a
	// state. The error is as that of New.
	NewHere(key ssh.PublicKey, from net.Addr, port uint16, state string) (Approval, error)
}

// An Approval is the request of one key. Wait or Redeem must be called, and end it when
// ctx is done. They return the principal of who has approved it; the client is told the
// error.
type Approval struct {
	Code string // for a person to type on the page; "" of NewHere
	URL  string // to open

	Wait   func(ctx context.Context) (principal string, err error)              // of New
	Redeem func(ctx context.Context, code string) (principal string, err error) // of NewHere, with what the browser was given
}

// approve has a person approve the key on the page. A token that comes meanwhile counts.
func (j *joining) approve(ctx context.Context, t *terminal, in *input) (status int, err error) {
	r, err := j.s.approvals.New(j.key, j.nc.RemoteAddr())
	if err != nil {
		return j.noRequest(err)
	}
	waiting, cancel := context.WithTimeout(ctx, wire.ApproveTime)
	defer cancel()
	j.wait()
	t.say("open %s in any browser, and type the code %s there within %v", r.URL, r.Code, wire.ApproveTime)
	t.say("approve no other key there than this one: %s", wire.Fingerprint(j.key))
	type answer struct {
		principal string
		err       error
	}
	answered := make(chan answer, 1)
	j.wg.Go(func() {
		principal, err := r.Wait(waiting)
		answered <- answer{principal, err}
	})
	got := in.got
	for {
		select {
		case a := <-answered:
			return j.person(ctx, t, a.principal, a.err)
		case r := <-got:
			token, err := j.check(r)
			switch {
			case errors.Is(err, errInterrupted):
				return exitInterrupted, err
			case err != nil:
				return wire.LoginRefused, err
			case token != "":
				cancel()
				<-answered
				return j.show(ctx, t, token)
			}
			got = nil // its end says nothing: the person is at work
		}
	}
}

// page answers wire.CommandPage.
func (j *joining) page(t *terminal, args []string) (status int, err error) {
	if j.s.approvals == nil {
		return wire.LoginRefused, errors.New("this orchestrator has no page: log in with a token")
	}
	url := j.s.approvals.URL()
	switch len(args) {
	case 0:
	case 2:
		port, err := strconv.ParseUint(args[0], 10, 16)
		if err != nil {
			return wire.LoginRefused, fmt.Errorf("port %.20q: want a number from 1 to 65535", args[0])
		}
		if j.paged.Swap(true) {
			return wire.LoginRefused, errors.New("one request a connection: connect again")
		}
		r, err := j.s.approvals.NewHere(j.key, j.nc.RemoteAddr(), uint16(port), args[1])
		if err != nil {
			return j.noRequest(err)
		}
		j.mu.Lock()
		j.here = &r
		j.mu.Unlock()
		j.wait()
		url = r.URL
	default:
		return wire.LoginRefused, errors.New("want no arguments, or PORT STATE")
	}
	_, err = io.WriteString(t, url+"\n")
	return 0, err
}

// redeem logs in with what the browser was given.
func (j *joining) redeem(ctx context.Context, t *terminal, code string) (status int, err error) {
	j.mu.Lock()
	r := j.here
	j.here = nil
	j.mu.Unlock()
	if r == nil {
		return j.person(ctx, t, "", errors.New("this connection has asked for no code of the page: begin again"))
	}
	// There is a code only if the key has been approved.
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	principal, err := r.Redeem(ctx, code)
	return j.person(ctx, t, principal, err)
}

// endHere ends a request of NewHere that was not redeemed.
func (j *joining) endHere() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.here != nil {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		j.here.Redeem(over, "")
		j.here = nil
	}
}

// person logs in as a person who has approved the key.
func (j *joining) person(ctx context.Context, t *terminal, principal string, err error) (status int, words error) {
	switch {
	case errors.Is(err, context.Canceled): // the client has gone
		return wire.LoginRefused, err
	case errors.Is(err, context.DeadlineExceeded):
		err = errors.New("the key was not approved in time: begin again")
		fallthrough
	case err != nil:
		j.guessed("approve", err, access.NoAuth)
		return wire.LoginRefused, err
	}
	cert, err := j.s.own.Person(principal, j.key)
	if err != nil {
		return j.refused("approve", err)
	}
	return j.give(t, cert)
}

// noRequest returns the status of a client whose key there is no request of, and what it
// is told.
func (j *joining) noRequest(err error) (status int, words error) {
	if errors.Is(err, fs.ErrBusy) {
		j.s.metrics.busy.WithLabelValues("login").Inc()
		return wire.LoginBusy, errors.New("too many keys wait to be approved, of this address or of all: try again")
	}
	return wire.LoginRefused, err
}

// wait has the connection wait for a person: the client is probed, and the connection
// counts as half-open no more. It writes the line of that.
func (j *joining) wait() {
	j.waits.Do(func() {
		j.s.audit.ofStranger(j.nc.RemoteAddr(), slog.LevelInfo, "ask", wire.Fingerprint(j.key))
		j.nc.Waits()
		j.nc.SetDeadline(time.Now().Add(wire.ApproveTime + openTimeout))
		over := make(chan struct{})
		j.wg.Go(func() {
			j.ssh.Wait()
			close(over)
		})
		j.wg.Go(func() {
			for {
				select {
				case <-time.After(probeDelay()):
				case <-over:
					return
				}
				late := time.AfterFunc(keepaliveAnswer, func() { j.ssh.Close() })
				j.ssh.SendRequest("keepalive@openssh.com", true, nil)
				late.Stop()
			}
		})
	})
}

// An input is what a client writes to the standard input of a command.
type input struct {
	begun chan struct{} // closed at its first byte
	got   chan written  // gets all of it, once
}

type written struct {
	b   []byte
	err error
}

// exitInterrupted is the status of a command that ^C has ended, as a shell has it.
const exitInterrupted = 130

var errInterrupted = errors.New("interrupted")

// input reads the standard input to its end, or the end of a line on a terminal.
func (j *joining) input(t *terminal) *input {
	in := &input{begun: make(chan struct{}), got: make(chan written, 1)}
	j.wg.Go(func() { // ends with the channel
		var all []byte
		b := make([]byte, 4096)
		for {
			n, err := t.Read(b)
			if n > 0 && len(all) == 0 {
				close(in.begun)
			}
			all = append(all, b[:n]...)
			if t.pty {
				if end := bytes.IndexAny(all, terminalEnds); end >= 0 {
					if bytes.IndexByte(terminalStops, all[end]) >= 0 {
						in.got <- written{err: errInterrupted}
					} else {
						in.got <- written{b: all[:end]}
					}
					break
				}
			}
			if err == io.EOF || len(all) > wire.MaxToken {
				err = nil
			} else if err == nil {
				continue
			}
			in.got <- written{all, err}
			break
		}
		for { // what is typed after that: ^C alone means something
			n, err := t.Read(b)
			if t.pty && bytes.ContainsAny(b[:n], string(terminalStops)) {
				t.Close()
				return
			}
			if err != nil {
				return
			}
		}
	})
	return in
}

// What a terminal in raw mode sends for its keys (termios(3)): ^C and \^\ stop a command,
// and Enter and ^D end what is typed.
var terminalStops = []byte{0x03, 0x1c}

const terminalEnds = "\r\n\x03\x04\x1c"

// A terminal is the channel of a command's session. With pty the client has a terminal,
// where lines end in CR LF.
type terminal struct {
	ssh.Channel
	pty bool
}

// say writes a line to the standard error.
func (t *terminal) say(format string, args ...any) {
	end := "\n"
	if t.pty {
		end = "\r\n"
	}
	io.WriteString(t.Stderr(), strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ")+end)
}
