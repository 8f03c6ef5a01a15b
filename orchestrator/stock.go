package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/internal/wire"
)

// Payloads of OpenSSH's forwardings (RFC 4254 §7 and OpenSSH's PROTOCOL).
type (
	forwardTCPMsg struct {
		Addr string
		Port uint32
	}
	forwardUnixMsg struct {
		Path string
	}
	forwardedTCPMsg struct {
		Addr       string
		Port       uint32
		OriginAddr string
		OriginPort uint32
	}
	forwardedUnixMsg struct {
		Path     string
		Reserved string
	}
	directTCPMsg struct {
		Host       string
		Port       uint32
		OriginAddr string
		OriginPort uint32
	}
)

// port9P is the port that ssh -R names to export: 9P's own (RFC 6335 registry).
const port9P = 564

// forwardTCP answers ssh -R [NAME:]564:HOST:PORT, where the 9P server of an
// executor listens at HOST:PORT. It opens no port here.
func (c *conn) forwardTCP(ctx context.Context, payload []byte) error {
	var msg forwardTCPMsg
	if err := ssh.Unmarshal(payload, &msg); err != nil {
		return err
	}
	if msg.Port != port9P {
		return fmt.Errorf("forwarding of port %d: only %d, to export", msg.Port, port9P)
	}
	name := msg.Addr
	switch name {
	case "", "*", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::":
		name = ""
	}
	a, err := c.stockAnnounce("", name)
	if err != nil {
		return err
	}
	_, err = c.join(ctx, a, forwardExport{c, "forwarded-tcpip",
		ssh.Marshal(&forwardedTCPMsg{Addr: msg.Addr, Port: msg.Port, OriginAddr: "127.0.0.1", OriginPort: port9P})})
	return err
}

// forwardUnix answers ssh -R /9p[/NAMESPACE[/n/NAME]]:PATH, where the 9P server
// of an executor listens at the socket PATH.
func (c *conn) forwardUnix(ctx context.Context, payload []byte) error {
	var msg forwardUnixMsg
	if err := ssh.Unmarshal(payload, &msg); err != nil {
		return err
	}
	a, err := c.exportPath(strings.TrimPrefix(msg.Path, "/"))
	if err != nil {
		return err
	}
	_, err = c.join(ctx, a, forwardExport{c, "forwarded-streamlocal@openssh.com", ssh.Marshal(&forwardedUnixMsg{Path: msg.Path})})
	return err
}

// maxWarning is how many bytes of a path stock ssh prints in a warning.
const maxWarning = 100

// explain has stock ssh print why a forwarding is refused, and returns err. A refusal
// carries no reason (RFC 4254 §4), ssh shows a debug message only with -v, and to
// disconnect would end the other forwardings. But ssh warns of a channel for a path
// that it does not forward (OpenSSH's channel_connect_by_listen_path), and prints
// the path: this one is the reason. The channel is refused, and nothing else comes
// of it.
func (c *conn) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	line := ""
	for word := range strings.FieldsSeq(err.Error()) {
		if line != "" && len(line)+1+len(word) > maxWarning {
			c.warn(ctx, line)
			line = ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	c.warn(ctx, line)
	return err
}

func (c *conn) warn(ctx context.Context, line string) {
	if ch, err := c.dial(ctx, "forwarded-streamlocal@openssh.com", ssh.Marshal(&forwardedUnixMsg{Path: line})); err == nil {
		ch.Close()
	}
}

// cancelForward undoes forwardTCP and forwardUnix.
func (c *conn) cancelForward(kind string, payload []byte) {
	var name string
	var tcp forwardTCPMsg
	var unix forwardUnixMsg
	switch {
	case strings.HasPrefix(kind, "cancel-tcpip") && ssh.Unmarshal(payload, &tcp) == nil:
		name = string(ssh.Marshal(&forwardedTCPMsg{Addr: tcp.Addr, Port: tcp.Port, OriginAddr: "127.0.0.1", OriginPort: port9P}))
	case ssh.Unmarshal(payload, &unix) == nil:
		name = string(ssh.Marshal(&forwardedUnixMsg{Path: unix.Path}))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, m := range c.members {
		if e, ok := m.exporter.(forwardExport); ok && string(e.payload) == name {
			c.drop(n, m, false)
		}
	}
}

// exportPath returns the announcement that a path 9p[/NAMESPACE[/n/NAME]] stands
// for: it says where in the mux the tree is to stand.
func (c *conn) exportPath(path string) (wire.Announce, error) {
	rest, ok := strings.CutPrefix(path, "9p")
	if !ok || rest != "" && rest[0] != '/' {
		return wire.Announce{}, fmt.Errorf("forwarding of %q: only 9p[/NAMESPACE[/n/NAME]], to export", path)
	}
	rest = strings.TrimPrefix(rest, "/")
	ns, name := rest, ""
	if i := strings.LastIndex("/"+rest, "/n/"); i >= 0 && !strings.Contains(rest[i+2:], "/") {
		name, ns = rest[i+2:], strings.TrimSuffix(rest[:i], "/")
	}
	return c.stockAnnounce(ns, name)
}

// stockAnnounce returns the announcement of a stock client, which cannot make
// one. If ns or name is "", it comes from the line of the client's key: from its
// namespace option, and from the host in its comment.
func (c *conn) stockAnnounce(ns, name string) (wire.Announce, error) {
	l := c.login
	if ns == "" {
		if ns = l.Home(); ns == "" {
			return wire.Announce{}, errors.New("which namespace? -R /9p/HOST/OWNER/REPO:SOCKET names it, or namespace= in authorized_keys")
		}
	}
	if name == "" {
		name = l.Name
		if _, host, ok := strings.Cut(name, "@"); ok {
			name = host
		}
		if wire.CheckExecutor(name) != nil {
			return wire.Announce{}, errors.New("which name? -R /9p/HOST/OWNER/REPO/n/NAME:SOCKET says it, or a comment user@host in authorized_keys")
		}
	}
	a := wire.Announce{Name: name, Namespaces: []string{ns}}
	return a, a.Check()
}
