// Package access says who may enter an orchestrator, and what they may read and
// publish there.
//
// A client shows a key or a certificate (it may show several, one after the
// other). A Policy makes of it an Identity and says what that may do: a Grant of
// the two rights that there are, read and publish, in some namespaces. There are
// no roles. Keys is the Policy of authorized_keys and of trusted authorities. An
// Authority makes certificates itself, for those that have a token; a Joint is the
// Policy of both. TLS does the same for the certificates of mutual TLS.
//
// Sources are where connections come from: an address that floods the server, or
// guesses, has to wait, unless a key has logged in from it.
package access

import (
	"fmt"
	"math"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
)

// A Policy knows who may enter. Its methods may be called from several
// goroutines, and for each channel that a client opens.
type Policy interface {
	// Identify returns the identity that key, which may be a certificate,
	// proves. The error says why the key may not enter; it is for the log, and
	// no client sees it.
	Identify(key ssh.PublicKey) (Identity, error)

	// Grant returns what id, which Identify has returned, may do at present. The
	// error says why it may do nothing any more.
	Grant(id Identity) (Grant, error)

	// Changed returns a channel that is closed when any identity may have other
	// grants than at present.
	Changed() <-chan struct{}
}

// An Identity is a key that a client has shown, and its name.
type Identity struct {
	Key  ssh.PublicKey // nil with a URI
	URI  string        // the identity in a TLS certificate; "" over SSH
	Name string        // the comment of the key's line, the principal of the certificate, or the URI's last element
}

// String returns the name of the identity in lines and logs. It is the key's
// fingerprint. The key of a certificate may be another one every hour: its name
// is PRINCIPAL@FINGERPRINT, with the fingerprint of its authority. Over TLS the name
// is the URI, which is never one of these.
func (id Identity) String() string {
	if id.URI != "" {
		return id.URI
	}
	if cert, ok := id.Key.(*ssh.Certificate); ok {
		return id.Name + "@" + ssh.FingerprintSHA256(cert.SignatureKey)
	}
	return ssh.FingerprintSHA256(id.Key)
}

// Owner returns the fingerprint of the key that the client holds, with or without
// a certificate, or over TLS its URI. It tells whether two logins are of one owner;
// what a login may do depends on its identity.
func (id Identity) Owner() string {
	if id.URI != "" {
		return id.URI
	}
	return wire.Fingerprint(id.Key)
}

// User returns the identity as trees know it.
func (id Identity) User() fs.User { return fs.User{Name: id.String(), UID: -1} }

// A Login is an identity and what it may do.
type Login struct {
	Identity
	Grant
}

// Ends returns when the login ends: with its grant or its certificate. It is zero if
// neither does.
func (l *Login) Ends() time.Time {
	ends := l.Expires
	// No certificate of the years that time.Time can name ends after them.
	if cert, ok := l.Key.(*ssh.Certificate); ok && cert.ValidBefore < math.MaxInt64 {
		if t := time.Unix(int64(cert.ValidBefore), 0); ends.IsZero() || t.Before(ends) {
			ends = t
		}
	}
	return ends
}

// Enter returns the login that p gives to key at an address.
func Enter(p Policy, key ssh.PublicKey, from net.Addr) (*Login, error) {
	id, err := p.Identify(key)
	if err != nil {
		return nil, err
	}
	g, err := p.Grant(id)
	if err != nil {
		return nil, err
	}
	if !g.From.Match(from) {
		return nil, fmt.Errorf("the line of this key does not let it in from %v", from)
	}
	return &Login{id, g}, nil
}
