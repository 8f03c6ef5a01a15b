package orchestrator

import (
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/access"
)

// logout revokes the certificates of the key that the client has logged in with: that of
// this connection, and those that were renewed since or before. All connections that have
// logged in with one end, this one too.
func (c *conn) logout() (words string, err error) {
	l := c.latest.Load()
	cert, ok := l.Key.(*ssh.Certificate)
	if !ok {
		return "", errors.New("this connection was not made with a certificate: a line of authorized_keys or authorized_tls lets it in, and an operator can take it out")
	}
	c.loggedOut.Store(true)
	if err := c.s.own.Logout(cert); err != nil {
		c.loggedOut.Store(false)
		var refused *access.RefusedError
		if errors.As(err, &refused) {
			return "", errors.New(refused.Words)
		}
		c.s.log.Error("logout", "addr", c.ssh.RemoteAddr().String(), "err", err)
		return "", fmt.Errorf("the orchestrator could not write its state, as its log says: %w", fs.ErrBusy)
	}
	c.s.policy.Changed() // now, not at the next look
	return l.Name + " is logged out with this key: its certificates are good no more", nil
}
