package orchestrator

import (
	"errors"
	"io"
	"net"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/access"
)

// A knock is a client's connection until it has logged in or failed to. It sees
// what the ssh package does not tell of.
type knock struct {
	*access.Conn
	in    io.Reader // all that follows sshPrefix
	got   int       // bytes of sshPrefix that have come
	tries int       // that failed
}

// sshPrefix is what a client's first line begins with. The ssh package skips lines
// before it, which only a server may send (RFC 4253 §4.2): by such a line a client
// that is no balancer could send a PROXY header.
const sshPrefix = "SSH-"

var errNotSSH = errors.New("the client does not speak SSH")

// Read is where the goroutine of an idle connection stands, so it is small.
func (k *knock) Read(p []byte) (int, error) {
	if k.got == len(sshPrefix) {
		return k.in.Read(p)
	}
	return k.first(p)
}

// first is Read until the prefix has come.
func (k *knock) first(p []byte) (int, error) {
	n, err := k.Conn.Read(p)
	if want := sshPrefix[k.got:]; n > 0 {
		m := min(n, len(want))
		if string(p[:m]) != want[:m] {
			return 0, errNotSSH
		}
		if k.got += m; k.got == len(sshPrefix) {
			k.in = k.Rest()
		}
	}
	return n, err
}

// config returns the configuration of this handshake alone.
func (k *knock) config(c *ssh.ServerConfig) *ssh.ServerConfig {
	own := *c
	own.AuthLogCallback = func(_ ssh.ConnMetadata, method string, err error) {
		if err != nil && method != "none" {
			k.tries++
		}
	}
	return &own
}

// failure returns what a handshake that ended with err was.
func (k *knock) failure(err error) access.Failure {
	var late net.Error
	switch {
	case errors.As(err, &late) && late.Timeout():
		return access.TooSlow
	case k.tries > 0:
		return access.NoAuth
	case errors.Is(err, errNotSSH):
		return access.NoSpeech
	}
	return access.Left
}
