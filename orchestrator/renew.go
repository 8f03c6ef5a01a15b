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
func (c *conn) renew(payload []byte) error {
	if c.overTLS() {
		return errors.New("over TLS there is no SSH certificate to renew: connect again with the next certificate")
	}
	if !c.renewals.Allow() {
		return fmt.Errorf("too many renewals: %w", fs.ErrBusy)
	}
	key, err := ssh.ParsePublicKey(payload)
	if err != nil {
		return fmt.Errorf("renewal: %w", err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return errors.New("renewal: not a certificate")
	}
	was := c.latest.Load()
	old, ok := was.Key.(*ssh.Certificate)
	if !ok {
		return errors.New("renewal: this connection was made with a key, not with a certificate")
	}
	// The ssh package has held the client to its options, source-address, at the login.
	if !maps.Equal(cert.CriticalOptions, old.CriticalOptions) {
		return errors.New("renewal: a certificate with other critical options: connect with it")
	}
	l, err := c.enter(cert)
	if err != nil {
		return fmt.Errorf("renewal: %w", err)
	}
	if l.String() != was.String() || l.Owner() != was.Owner() {
		return fmt.Errorf("renewal: the certificate is of %s and the key %s, and this connection of %s and %s", l, l.Owner(), was, was.Owner())
	}
	if !reflect.DeepEqual(l.Grant, was.Grant) {
		return errors.New("renewal: the certificate may do something else than the one before: connect with it")
	}
	c.latest.Store(l)
	c.audit(slog.LevelInfo, "renew", append(serialOf(l), slog.String("expires", ci.FormatTime(l.Ends())))...)
	return nil
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
