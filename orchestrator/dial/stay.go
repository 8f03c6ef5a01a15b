package dial

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs/ci"
	"9ci/orchestrator/internal/client"
)

const (
	// lookEvery is how often the next certificate is looked for in the file, if the
	// orchestrator does not make it.
	lookEvery = time.Minute

	// askAgain is for how long an orchestrator that has refused to make it is not
	// asked again: the person may log in on the page, too.
	askAgain = 30 * time.Minute
)

// A Stay keeps the certificate good by which a person has logged in, and which stands in a
// file. After two thirds of its life a connection that it has let in takes over the next
// one: what the file has by then, or else what the orchestrator makes, which Stay puts into
// the file. What is served and read goes on. Conns of one key share a Stay, and other
// processes the file.
//
// A file without the certificate is that of somebody who has logged out, or in elsewhere:
// then nothing is renewed.
type Stay struct {
	file CertificateFile
	turn chan struct{} // holds a token unless a connection renews; guards what follows
	told []byte        // the certificate that Refused was told of
	ask  time.Time     // when the orchestrator may be asked about it again
}

// A CertificateFile is where a Stay has its certificate.
type CertificateFile interface {
	Read() (*ssh.Certificate, error) // what the file has now; nil: nothing
	Write(next *ssh.Certificate) error

	// Refused is told once that the orchestrator does not make another, and why: what is
	// there is not a person's certificate of that orchestrator, or the person is to log
	// in again before its end.
	Refused(end time.Time, why error)
}

// NewStay returns a Stay of a certificate in a file.
func NewStay(file CertificateFile) *Stay {
	s := &Stay{file: file, turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	return s
}

var (
	errElsewhere = errors.New("the file has no certificate of this login any more")
	errNotYet    = errors.New("the file has no other certificate yet")
)

// keep has the connection l, which logged in by cert, take over each next certificate
// until the connection ends.
func (s *Stay) keep(c *Conn, l *client.Link, cert *ssh.Certificate) {
	ctx, cancel := c.during(l)
	defer cancel()
	bound := backoffFirst
	for wait := untilDue(cert); ; {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		next, err := s.next(ctx, c, l, cert)
		_, refused := errors.AsType[*client.RenewalError](err)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			cert, bound = next, backoffFirst
			wait = untilDue(cert)
			_, end := validity(cert)
			c.log.Info("renew", "addr", c.addr, "principal", principal(cert), "end", ci.FormatTime(end))
			continue
		case refused, errors.Is(err, errElsewhere), errors.Is(err, errNotYet):
			wait = lookEvery
			continue
		}
		wait = rand.N(bound)
		bound = min(2*bound, renewMost)
		_, end := validity(cert)
		c.log.Warn("renew", "addr", c.addr, "delay", wait, "end", ci.FormatTime(end), "err", err)
	}
}

// untilDue returns how long a certificate is used before the next is asked for.
func untilDue(cert *ssh.Certificate) time.Duration {
	begin, end := validity(cert)
	life := end.Sub(begin) // some 292 years at most
	due := begin.Add(life / 3 * 2).Add(-rand.N(max(life, 0)/16 + 1))
	return max(time.Until(due), renewAtLeast)
}

// next has l, which logged in by cert, take over the next certificate, and returns it.
func (s *Stay) next(ctx context.Context, c *Conn, l *client.Link, cert *ssh.Certificate) (*ssh.Certificate, error) {
	select {
	case <-s.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { s.turn <- struct{}{} }()
	now, err := s.file.Read()
	switch {
	case err != nil:
		return nil, err
	case now == nil || !sameLogin(now, cert):
		return nil, errElsewhere
	case now.ValidBefore > cert.ValidBefore:
		return now, l.Renew(ctx, now)
	case bytes.Equal(s.told, cert.Marshal()) && time.Now().Before(s.ask):
		return nil, errNotYet
	}
	next, err := l.RenewPerson(ctx)
	if refused, ok := errors.AsType[*client.RenewalError](err); ok {
		if !bytes.Equal(s.told, cert.Marshal()) {
			_, end := validity(cert)
			s.file.Refused(end, refused)
		}
		s.told, s.ask = cert.Marshal(), time.Now().Add(askAgain)
	}
	if err != nil {
		return nil, err
	}
	if !sameLogin(next, cert) || next.ValidBefore < cert.ValidBefore {
		return nil, errors.New("renewal: the orchestrator's answer is another login's certificate")
	}
	if err := s.file.Write(next); err != nil { // this connection has it all the same
		c.log.Warn("renew", "addr", c.addr, "err", err)
	}
	return next, nil
}

// sameLogin reports whether two certificates are of one key, principal and authority.
func sameLogin(a, b *ssh.Certificate) bool {
	return bytes.Equal(a.Key.Marshal(), b.Key.Marshal()) && bytes.Equal(a.SignatureKey.Marshal(), b.SignatureKey.Marshal()) &&
		a.CertType == b.CertType && slices.Equal(a.ValidPrincipals, b.ValidPrincipals)
}
