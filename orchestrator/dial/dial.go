// Package dial is the client's side of an orchestrator: it connects, checks the
// host key, imports the mux's tree, and exports an executor's. An export comes
// with an SSH server of the executor's own, which the orchestrator only carries.
//
// A key logs in, or a certificate for it. A Pass gets such a certificate for a token,
// and puts the next in its place before it ends: nothing that is open notices.
package dial

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs/ci"
	"9ci/orchestrator/internal/client"
	"9ci/orchestrator/internal/wire"
)

const (
	// dialTimeout is for a connection to be made and authenticated.
	dialTimeout = 10 * time.Second

	// Find has less: a run that could be under way waits for it.
	connectTimeout = 5 * time.Second

	// handshakeTrips is how many round trips a handshake takes at least: the
	// versions, the key exchange, the service, and none, query and signature of
	// the login (RFC 4253 and 4252; the ssh package leaves none of them out).
	handshakeTrips = 6
)

// ErrKey is the error of a login with keys that may not enter.
var ErrKey = errors.New("this key may not enter")

// Options are what a client logs in with, and checks the server by.
type Options struct {
	Signers []ssh.Signer // keys and certificates, tried in this order: six at most

	// Login, if set, is called for each connection instead of Signers: a
	// certificate may have been renewed. If no signer may enter, its error
	// is told too.
	Login func() ([]ssh.Signer, error)

	// Pass, if set, logs in where no signer may enter, and from then on. There may be
	// no signer at all. Over TLS it is not used.
	Pass *Pass

	// Stay, if set, keeps a certificate of Login good as long as a connection is open that it
	// has let in. Over TLS it is not used.
	Stay *Stay

	// Key signs the runs of the executor that is exported, and is the host key
	// of its own SSH server. If it is nil, the first of Signers that is no
	// certificate is it.
	Key ssh.Signer

	KnownHosts string       // a known_hosts file; one that is not there knows no host
	MoreHosts  []string     // more such files, which errors do not say to write to
	Log        *slog.Logger // of reconnects; nil: nowhere

	// Direct, if not nil, lets those in at its address for whom the orchestrator
	// opens a Door to what this client exports.
	Direct *Direct

	// Shell, if not nil, runs shells for those that enter what this client exports by
	// its own SSH server. It decides who gets one.
	Shell ShellFunc

	// TLS has the files by which a connection to tls:// is made.
	TLS TLSFiles

	// Proxy is a command whose standard input and output are the connection, in
	// place of TCP, as ProxyCommand in ssh_config(5); "" or none: there is none.
	// ProxySaid, if set, is called with each line that it writes to standard
	// error, once.
	Proxy     string
	ProxySaid func(line string)

	// Dial connects to host:port; nil: by Proxy, or over TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// A Conn is a client's connection to an orchestrator. When it is lost, the next
// use makes it anew.
type Conn struct {
	addr, namespace string
	tls             bool   // over TLS
	instance        string // by which the orchestrator knows this Conn when it is back
	user            string
	opts            Options
	log             *slog.Logger

	ctx    context.Context // done when the Conn is closed
	cancel context.CancelFunc
	wg     sync.WaitGroup // of the links

	said said // what the proxy has written

	turn chan struct{} // holds a token unless a goroutine connects; guards link
	link *client.Link

	mu      sync.Mutex     // guards what follows
	made    chan struct{}  // closed, and made anew, when a connection is up
	exports map[string]int // calls of Export that go on, by namespace
}

// Dial connects to the orchestrator at rawURL, ssh://[USER@]HOST[:PORT][/NAMESPACE] or
// tls://HOST:PORT[/NAMESPACE]. The default port is 22, as for any ssh URL; TLS has none.
//
// It reports ErrUnknownHost or ErrHostKeyChanged if the host key is not the one in
// known_hosts, ErrKey if no signer may enter, ErrToken if the token of a Pass may not
// log in, and ErrCertificate if a TLS certificate may not.
func Dial(ctx context.Context, rawURL string, o Options) (*Conn, error) {
	c, err := Open(rawURL, o)
	if err != nil {
		return nil, err
	}
	if _, err := c.connect(ctx); err != nil {
		return nil, fmt.Errorf("orchestrator: %s: %w", c.addr, err)
	}
	return c, nil
}

// Open returns a Conn that connects when it is first used. Its only error is of
// rawURL.
func Open(rawURL string, o Options) (*Conn, error) {
	c := &Conn{opts: o, log: o.Log, instance: crand.Text(), turn: make(chan struct{}, 1), made: make(chan struct{}), exports: map[string]int{}}
	c.turn <- struct{}{}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if err := c.parse(rawURL); err != nil {
		return nil, err
	}
	return c, nil
}

// ParseURL reads the URL of an orchestrator, ssh://[USER@]HOST[:PORT][/PATH] or
// tls://HOST:PORT[/PATH]. A key, a certificate or a token logs in, so a password has no
// place in it. No error repeats the URL: if it was mistyped, a password may stand
// anywhere in it.
func ParseURL(rawURL string) (*url.URL, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "ssh" && u.Scheme != "tls" || u.Hostname() == "" || u.RawQuery != "" || u.ForceQuery ||
		strings.ContainsAny(rawURL, "#") || strings.ContainsAny(u.Path, "@:") {
		return nil, errors.New("want ssh://HOST[:PORT][/NAMESPACE] or tls://HOST:PORT[/NAMESPACE]")
	}
	if u.Scheme == "tls" && (u.User != nil || u.Port() == "") {
		return nil, errors.New("want tls://HOST:PORT[/NAMESPACE]: a certificate logs in, and no user, and there is no port by default")
	}
	if _, ok := u.User.Password(); ok {
		return nil, errors.New("it has a password, and a key logs in: leave the password out, as in ssh://HOST[:PORT][/NAMESPACE]")
	}
	return u, nil
}

func (c *Conn) parse(rawURL string) error {
	u, err := ParseURL(rawURL)
	if err != nil {
		return fmt.Errorf("orchestrator: URL: %w", err)
	}
	port := u.Port()
	if port == "" {
		port = "22"
	}
	c.tls = u.Scheme == "tls"
	c.addr = net.JoinHostPort(u.Hostname(), port)
	c.user = "9ci"
	if name := u.User.Username(); name != "" {
		c.user = name
	}
	if c.user == wire.UserJoin {
		return fmt.Errorf("orchestrator: URL: the user %s is for tokens alone: leave %[1]s@ out", wire.UserJoin)
	}
	if ns := strings.Trim(u.Path, "/"); ns != "" {
		c.namespace, err = ci.CleanNamespace(ns)
	}
	return err
}

// Namespace returns the namespace that the URL names, or "".
func (c *Conn) Namespace() string { return c.namespace }

// Close ends the connection. Operations on it end with an error. It returns when
// all that the connection started has ended.
func (c *Conn) Close() error {
	c.cancel()
	<-c.turn
	l := c.link
	c.turn <- struct{}{}
	if l != nil {
		l.Close()
	}
	c.wg.Wait()
	return nil
}

// connect returns the link if it is up, or makes one.
func (c *Conn) connect(ctx context.Context) (*client.Link, error) {
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { c.turn <- struct{}{} }()
	if c.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	if c.link != nil {
		select {
		case <-c.link.Done():
		default:
			return c.link, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	l, err := retry(ctx, func() (*client.Link, error) { return c.handshake(ctx) })
	if err != nil {
		return nil, err
	}
	c.link = l
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.made)
	c.made = make(chan struct{})
	return l, nil
}

// next returns a channel that is closed when the next connection is up.
func (c *Conn) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made
}

// An orchestrator to which many connect at once hangs up on some of them at
// random, as sshd does (MaxStartups). So a connection is tried a few times.
const (
	dialTries = 4
	dialAgain = 400 * time.Millisecond
)

// retry has connect make a connection, and tries again if the orchestrator hangs up.
func retry[T any](ctx context.Context, connect func() (T, error)) (T, error) {
	made, err := connect()
	for tries := 1; (errors.Is(err, errHungUp) || errors.Is(err, errHungUpTLS)) && tries < dialTries; tries++ {
		select {
		case <-time.After(dialAgain/2 + rand.N(dialAgain/2)):
		case <-ctx.Done():
			return made, err
		}
		made, err = connect()
	}
	return made, err
}

var errHungUp = errors.New("it hung up: it is no SSH server, or has too many connections already")

// transport connects to the orchestrator's address.
func (c *Conn) transport(ctx context.Context) (net.Conn, error) {
	connect := c.opts.Dial
	switch {
	case connect != nil:
	case c.opts.Proxy != "" && c.opts.Proxy != "none":
		connect = c.proxy
	default:
		connect = new(net.Dialer).DialContext
	}
	return connect(ctx, "tcp", c.addr)
}

func (c *Conn) handshake(ctx context.Context) (*client.Link, error) {
	if c.tls {
		return c.handshakeTLS(ctx)
	}
	signers, problem := c.signers()
	if c.opts.Pass != nil {
		return c.handshakePass(ctx, signers, problem)
	}
	return c.enter(ctx, signers, problem)
}

// enter connects with the signers of the options.
func (c *Conn) enter(ctx context.Context, signers []ssh.Signer, problem error) (*client.Link, error) {
	l, err := c.logIn(ctx, signers, problem)
	if s := c.opts.Stay; err == nil && s != nil && len(signers) > 0 {
		if cert, ok := signers[0].PublicKey().(*ssh.Certificate); ok {
			c.wg.Go(func() { s.keep(c, l, cert) })
		}
	}
	return l, err
}

// logIn connects, with the signers, to what is there.
func (c *Conn) logIn(ctx context.Context, signers []ssh.Signer, problem error) (*client.Link, error) {
	o, err := c.open(ctx, c.user, signers)
	if errors.Is(err, ErrKey) {
		err = keyError(signers, problem)
	}
	if err != nil {
		return nil, err
	}
	l := client.New(o.conn, o.peer, c.key(signers))
	l.Direct, l.Shell = c.opts.Direct, c.opts.Shell
	l.RTT = o.rtt
	c.wg.Go(func() { l.Serve(o.chans, o.reqs) })
	return l, nil
}

// opened is an SSH connection that has logged in.
type opened struct {
	conn  ssh.Conn
	chans <-chan ssh.NewChannel
	reqs  <-chan *ssh.Request
	peer  ssh.PublicKey // the orchestrator's host key
	rtt   time.Duration
}

// open connects and logs in as user. It reports ErrKey, as it is, if no signer may
// enter.
func (c *Conn) open(ctx context.Context, user string, signers []ssh.Signer) (opened, error) {
	hosts, err := openKnownHosts(c.opts.KnownHosts, c.opts.MoreHosts...)
	if err != nil {
		return opened{}, err
	}
	nc, err := c.transport(ctx)
	if err != nil {
		return opened{}, err
	}
	began := time.Now()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	var o opened
	var hostErr error
	o.conn, o.chans, o.reqs, err = ssh.NewClientConn(nc, c.addr, &ssh.ClientConfig{
		Config:            ssh.Config{Ciphers: wire.Ciphers()},
		User:              user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signers...)},
		HostKeyAlgorithms: hosts.algorithms(c.addr, nc.RemoteAddr()),
		HostKeyCallback: func(addr string, remote net.Addr, key ssh.PublicKey) error {
			o.peer, hostErr = key, hosts.check(addr, remote, key)
			return hostErr
		},
		ClientVersion: wire.Version,
	})
	switch {
	case hostErr != nil:
		err = hostErr
	case err != nil && ctx.Err() != nil:
		err = fmt.Errorf("the handshake took too long: %w", ctx.Err())
	case err != nil && strings.Contains(err.Error(), "unable to authenticate"): // the package has no error for it
		err = ErrKey
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		err = fmt.Errorf("%w: %w", errHungUp, err)
		if p, ok := nc.(*proxied); ok {
			err = p.failed(err)
		}
	}
	if err != nil {
		nc.Close()
		return opened{}, err
	}
	if !stop() {
		o.conn.Close()
		return opened{}, ctx.Err()
	}
	o.rtt = time.Since(began) / handshakeTrips
	return o, nil
}

// key returns the key that signs the runs of what is exported, or nil.
func (c *Conn) key(signers []ssh.Signer) ssh.Signer {
	key := c.opts.Key
	for i := 0; key == nil && i < len(signers); i++ {
		if _, ok := signers[i].PublicKey().(*ssh.Certificate); !ok {
			key = signers[i]
		}
	}
	return key
}

// signers returns what this client logs in with. If some of it cannot be used, the
// error says why.
func (c *Conn) signers() ([]ssh.Signer, error) {
	if c.opts.Login != nil {
		return c.opts.Login()
	}
	return c.opts.Signers, nil
}

// keyError returns the error of a login that no key could do: it names the keys
// and says what would help.
func keyError(signers []ssh.Signer, problem error) error {
	var err error
	if len(signers) == 0 {
		err = fmt.Errorf("%w: none was given", ErrKey)
	} else {
		var keys []string
		for _, s := range signers {
			if f := wire.Fingerprint(s.PublicKey()); !slices.Contains(keys, f) {
				keys = append(keys, f)
			}
		}
		err = fmt.Errorf("%w: %s; 9ci login lets in a person that has an account there, and its operator adds a key to authorized_keys in the orchestrator's state directory", ErrKey, strings.Join(keys, ", "))
	}
	if problem != nil {
		err = fmt.Errorf("%w; %w", err, problem)
	}
	return err
}
