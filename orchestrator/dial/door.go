package dial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/internal/client"
	"9ci/orchestrator/internal/wire"
)

// A Direct is an executor's own SSH server at an address of its own: see
// Options.
type Direct = client.Direct

// A ShellFunc runs a shell for one that has proved a key: see Options.
type ShellFunc = client.ShellFunc

// NewDirect returns a Direct with the host key host, that others reach at address,
// host:port. Its Serve must be called. It reports an error if host is a certificate.
func NewDirect(host ssh.Signer, address string) (*Direct, error) {
	return client.NewDirect(host, address)
}

// ErrNoAddress is the error of a Door that leads to no address.
var ErrNoAddress = errors.New("the executor has no address of its own")

// errNoDoors is the error of a Door over TLS: an executor's own SSH server lets in a
// key that has logged in to the orchestrator.
var errNoDoors = errors.New("an orchestrator at tls:// relays, and opens no way to an executor's own SSH server")

// A Door is an executor's own SSH server, which lets this client in as long as the
// Door is open. It must be closed, which ends the connections that were made by it.
type Door struct {
	conn   *Conn
	link   *client.Link
	where  wire.ReachMsg
	door   wire.Door
	hold   io.Closer
	ctx    context.Context // done when the Door is closed
	cancel context.CancelFunc
}

// Door asks the orchestrator to have the executor of that name in the namespace let
// this client in. The orchestrator answers if this client may read the namespace;
// what it says of the executor is the executor's host key, and its address.
func (c *Conn) Door(ctx context.Context, namespace, name string) (*Door, error) {
	if c.tls {
		return nil, errNoDoors
	}
	l, err := c.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("orchestrator: %s: %w", c.addr, err)
	}
	d := &Door{conn: c, link: l, where: wire.ReachMsg{Namespace: namespace, Name: name}}
	rch, err := l.Reach(ctx, wire.ChannelDoor, d.where)
	if err != nil {
		return nil, fmt.Errorf("orchestrator: %s: %w", c.addr, err)
	}
	ch := wire.NewConn(rch)
	stop := context.AfterFunc(ctx, func() { ch.Close() })
	text, err := io.ReadAll(io.LimitReader(ch, wire.MaxDoor+1))
	if !stop() {
		err = ctx.Err()
	}
	if err == nil && len(text) == 0 {
		err = fmt.Errorf("%s opens no more doors for this key at present", name)
	}
	if err == nil {
		d.door, err = wire.ParseDoor(text)
	}
	if err != nil {
		ch.Close()
		return nil, err
	}
	d.hold = ch
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d, nil
}

// Close ends the connections that were made by the Door. From then on this client
// is not let in.
func (d *Door) Close() error {
	d.cancel()
	return d.hold.Close()
}

// Direct connects to the executor at its own address. It reports ErrNoAddress if
// there is none, and ErrHostKeyChanged if another server is there.
func (d *Door) Direct(ctx context.Context) (*Entry, error) {
	if d.door.Address == "" {
		return nil, ErrNoAddress
	}
	var dialer net.Dialer
	nc, err := dialer.DialContext(ctx, "tcp", d.door.Address)
	if err != nil {
		return nil, err
	}
	return d.enter(ctx, nc, d.door.Address, d.door.User)
}

// Through connects to the executor by way of the orchestrator, which carries what
// it cannot read. It reports ErrHostKeyChanged if the server at the other end is
// another one.
func (d *Door) Through(ctx context.Context) (*Entry, error) {
	ch, err := d.link.Reach(ctx, wire.ChannelSSH, d.where)
	if err != nil {
		return nil, fmt.Errorf("orchestrator: %s: %w", d.conn.addr, err)
	}
	return d.enter(ctx, client.ChannelConn{Channel: ch}, d.where.Name, d.conn.user)
}

// enter logs in to the executor's own SSH server at the other end of nc.
func (d *Door) enter(ctx context.Context, nc net.Conn, addr, user string) (*Entry, error) {
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	stop := context.AfterFunc(d.ctx, func() { nc.Close() })
	signers, problem := d.conn.signers()
	if len(signers) == 0 && d.conn.opts.Pass != nil {
		signers = []ssh.Signer{d.conn.opts.Pass.key} // the executor asks for the proof of the key alone
	}
	var hostErr error
	sc, chans, reqs, err := ssh.NewClientConn(nc, addr, &ssh.ClientConfig{
		Config:            ssh.Config{Ciphers: wire.Ciphers()},
		User:              user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signers...)},
		HostKeyAlgorithms: algorithms(d.door.Key.Type()),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if !bytes.Equal(key.Marshal(), d.door.Key.Marshal()) {
				hostErr = fmt.Errorf("%w: it is %s, and %s has %s", ErrHostKeyChanged,
					ssh.FingerprintSHA256(key), d.where.Name, ssh.FingerprintSHA256(d.door.Key))
			}
			return hostErr
		},
		ClientVersion: wire.Version,
	})
	if err != nil {
		stop()
		nc.Close()
		switch {
		case hostErr != nil:
			err = hostErr
		case ctx.Err() != nil:
			err = ctx.Err()
		case problem != nil:
			err = fmt.Errorf("%w; %w", err, problem)
		}
		return nil, fmt.Errorf("ssh: %s: %w", addr, err)
	}
	e := &Entry{link: client.New(sc, nil, nil), stop: stop}
	e.wg.Go(func() { e.link.Serve(chans, reqs) })
	return e, nil
}

// An Entry is a connection to an executor's own SSH server. It must be closed.
type Entry struct {
	link *client.Link
	stop func() bool
	wg   sync.WaitGroup // of link
}

// Import opens a connection to the executor's tree of the Door's namespace for
// ninep.Import, on a channel of its own.
func (e *Entry) Import(ctx context.Context) (io.ReadWriteCloser, error) { return e.link.Import(ctx) }

// Close ends the connection.
func (e *Entry) Close() error {
	e.stop()
	err := e.link.Close()
	e.wg.Wait()
	return err
}
