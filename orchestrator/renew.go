package orchestrator

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"strconv"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access"
)

// How often a connection may renew its certificate, which takes the server a signature
// to check: at once, and each second after that.
const (
	renewalsBurst = 8
	renewalsPer   = 0.2
)

// renew answers a RequestRenew of package wire. Serve alone calls it.
func (c *conn) renew(payload []byte) (reply []byte, err error) {
	if c.overTLS() {
		return nil, errors.New("over TLS there is no SSH certificate to renew: connect again with the next certificate")
	}
	if !c.renewals.Allow() {
		return nil, fmt.Errorf("too many renewals: %w", fs.ErrBusy)
	}
	was := c.latest.Load()
	old, ok := was.Key.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("renewal: this connection was made with a key, not with a certificate")
	}
	var cert *ssh.Certificate
	if len(payload) == 0 {
		if cert, err = c.nextCertificate(old); err != nil {
			return nil, err
		}
		reply = cert.Marshal()
	} else {
		key, err := ssh.ParsePublicKey(payload)
		if err != nil {
			return nil, fmt.Errorf("renewal: %w", err)
		}
		if cert, ok = key.(*ssh.Certificate); !ok {
			return nil, errors.New("renewal: not a certificate")
		}
	}
	// The ssh package has held the client to its options, source-address, at the login.
	if !maps.Equal(cert.CriticalOptions, old.CriticalOptions) {
		return nil, errors.New("renewal: a certificate with other critical options: connect with it")
	}
	l, err := c.enter(cert)
	if err != nil {
		return nil, fmt.Errorf("renewal: %w", err)
	}
	if l.String() != was.String() || l.Owner() != was.Owner() {
		return nil, fmt.Errorf("renewal: the certificate is of %s and the key %s, and this connection of %s and %s", l, l.Owner(), was, was.Owner())
	}
	if !reflect.DeepEqual(l.Grant, was.Grant) {
		return nil, errors.New("renewal: the certificate may do something else than the one before: connect with it")
	}
	c.latest.Store(l)
	c.audit(slog.LevelInfo, "renew", append(serialOf(l), slog.String("expires", ci.FormatTime(l.Ends())))...)
	return reply, nil
}

// nextCertificate makes the next certificate of a person. The error is for the client.
func (c *conn) nextCertificate(old *ssh.Certificate) (*ssh.Certificate, error) {
	cert, err := c.s.own.Renew(old)
	var refused *access.RefusedError
	switch {
	case errors.As(err, &refused):
		c.s.log.Info("renew", "addr", c.ssh.RemoteAddr().String(), "principal", old.KeyId, "err", err)
		return nil, fmt.Errorf("renewal: %s", refused.Words)
	case err != nil:
		c.s.log.Error("renew", "addr", c.ssh.RemoteAddr().String(), "err", err)
		return nil, fmt.Errorf("renewal: the orchestrator cannot tell at present, as its log says: %w", fs.ErrBusy)
	}
	return cert, nil
}

// serialOf returns the attribute of a line with the serial number of a certificate, if
// the login has one.
func serialOf(l *access.Login) []slog.Attr {
	cert, ok := l.Key.(*ssh.Certificate)
	if !ok || cert.Serial == 0 {
		return nil
	}
	return []slog.Attr{slog.String("serial", strconv.FormatUint(cert.Serial, 10))}
}
