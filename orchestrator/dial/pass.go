package dial

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/internal/client"
	"9ci/orchestrator/internal/wire"
)

const (
	// loginTimeout is for a token to be had and to become a certificate. The
	// orchestrator may have to ask the token's issuer for its keys.
	loginTimeout = 30 * time.Second

	// renewAtLeast is how long a certificate is used before the next is asked for,
	// however short its life is.
	renewAtLeast = 5 * time.Second

	// maxLife is the longest time that a certificate is used, whatever it says.
	maxLife = 24 * time.Hour

	// renewMost is the longest pause between two tries to renew.
	renewMost = 2 * time.Minute

	// refusedFor is for how long a token that was refused is not shown again: each
	// refusal counts against this address. What the orchestrator takes may change.
	refusedFor = time.Minute

	// maxCertificate is how many bytes of an answer to a login are read, and
	// maxWords how many of what is said with it.
	maxCertificate = 16 << 10
	maxWords       = 1 << 10
)

// ErrToken is the error of a token that may not log in.
var ErrToken = errors.New("it may not log in")

// errNoLogins is the error of a login at what knows nothing of logins.
var errNoLogins = errors.New("it has no logins by token or page: it is too old, or no orchestrator")

// Extensions of the certificate that an orchestrator gives to a CI job: what the job may
// do, of which publish is a word, and the only commit whose runs it publishes.
const (
	ExtensionRights = wire.ExtensionRights
	ExtensionCommit = wire.ExtensionCommit
)

// tokenForm is the form of a repository token (wire.TokenPrefix).
var tokenForm = regexp.MustCompile(`^` + wire.TokenPrefix + `[A-Za-z0-9_-]{43}$`)

// CheckToken reports an error unless text has the form of a repository's token. The
// error does not repeat it.
func CheckToken(text string) error {
	if !tokenForm.MatchString(text) {
		return fmt.Errorf("it is no token of a repository, which is %s and 43 letters, digits, - and _: orchestrator token NAMESPACE prints one", wire.TokenPrefix)
	}
	return nil
}

// A Token logs in by being shown: a repository's, or that of a CI job. It is a secret.
type Token struct {
	Name string // what it is, for errors: CI_TOKEN
	Mend string // what its user does if it is refused, as a sentence without a full stop

	// Get returns the token. Audience is what the token of a CI job is to be made out
	// to. It is called for each login, so that a token may be of short life. Its
	// error says what the user can do, and is not to have the token in it.
	Get func(ctx context.Context, audience string) (string, error)
}

// A Pass is a certificate that an orchestrator gives for a token, for one key. Conns to
// one orchestrator may share a Pass, and then use one certificate.
//
// A certificate lives an hour or so. As long as a connection that logged in by it is
// open, the Pass gets the next one after two thirds of that, and the connection takes
// it over (wire.RequestRenew): what is served and read goes on. If none can be had, the
// Pass tries again until the orchestrator ends the connection.
type Pass struct {
	key   ssh.Signer
	token Token

	mu      sync.Mutex // guards what follows
	now     *certificate
	old     *certificate // the one before
	entered bool         // there was one: the token logs in, and no key need be tried
	flight  *flight      // the login under way
	refused error        // why the token was, until again
	again   time.Time
}

// NewPass returns a Pass without a certificate. Key is a plain key, to which the
// certificates are bound.
func NewPass(key ssh.Signer, token Token) *Pass { return &Pass{key: key, token: token} }

// A certificate is one that the orchestrator gave.
type certificate struct {
	*ssh.Certificate
	signer ssh.Signer
	due    time.Time // when the next is asked for
	end    time.Time
}

func (c *certificate) lives() bool { return c != nil && time.Now().Before(c.end) }

// A flight is a login under way, for all that wait for it.
type flight struct {
	done chan struct{} // closed by the login's goroutine when what follows is set
	cert *certificate
	err  error
	left bool // the Conn that the login is made by was closed
}

// Signer returns the key with a certificate that is good at present, or nil if there is
// none. What it signs now may say that it was made up to a few minutes before: if two
// certificates are good, the older one is used.
func (p *Pass) Signer() ssh.Signer {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range []*certificate{p.old, p.now} {
		if c.lives() {
			return c.signer
		}
	}
	return nil
}

// handshakePass is handshake of a Conn with a Pass.
func (c *Conn) handshakePass(ctx context.Context, signers []ssh.Signer, problem error) (*client.Link, error) {
	p := c.opts.Pass
	var kerr error
	if len(signers) > 0 && !p.hasEntered() {
		l, err := c.enter(ctx, signers, problem)
		if !errors.Is(err, ErrKey) {
			return l, err
		}
		kerr = err
	}
	for again := true; ; again = false {
		cert, err := p.get(ctx, c, nil)
		switch {
		case err != nil && kerr != nil && ctx.Err() == nil:
			return nil, fmt.Errorf("%w; %w", kerr, err)
		case err != nil:
			return nil, err
		}
		l, err := c.logIn(ctx, []ssh.Signer{cert.signer}, nil)
		if err == nil {
			c.wg.Go(func() { c.renew(l, cert) })
			return l, nil
		}
		if !errors.Is(err, ErrKey) {
			return nil, err
		}
		p.drop(cert) // it is revoked, or of an authority that the orchestrator had
		if !again {
			return nil, fmt.Errorf("%s: %w: the orchestrator does not take the certificate of %s that it has just made", p.token.Name, ErrKey, principal(cert.Certificate))
		}
	}
}

// renew has the connection l, which logged in by cert, take over each next certificate
// of the Pass, until the connection ends.
func (c *Conn) renew(l *client.Link, cert *certificate) {
	ctx, cancel := c.during(l)
	defer cancel()
	bound := backoffFirst
	for wait := time.Until(cert.due); ; {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		next, err := c.opts.Pass.get(ctx, c, cert)
		if err == nil {
			err = l.Renew(ctx, next.Certificate)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			wait = rand.N(bound)
			bound = min(2*bound, renewMost)
			c.log.Warn("renew", "addr", c.addr, "delay", wait, "end", ci.FormatTime(cert.end), "err", err)
			continue
		}
		cert, bound = next, backoffFirst
		wait = time.Until(cert.due)
		c.log.Info("renew", "addr", c.addr, "principal", principal(cert.Certificate), "end", ci.FormatTime(cert.end))
	}
}

// during returns a context that is done when the connection l has ended, or c.
func (c *Conn) during(l *client.Link) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(c.ctx)
	c.wg.Go(func() {
		select {
		case <-l.Done():
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, cancel
}

func (p *Pass) hasEntered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.entered
}

// drop forgets a certificate that the orchestrator does not take.
func (p *Pass) drop(c *certificate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == c {
		p.now = nil
	}
}

// get returns a certificate that is good at present and is not the one given, which
// may be nil. If there is none, get logs in for it, by the transport of c, or waits for
// a login that is under way. A login goes on if ctx ends.
func (p *Pass) get(ctx context.Context, c *Conn, not *certificate) (*certificate, error) {
	for {
		p.mu.Lock()
		f := p.flight
		switch {
		case p.now != not && p.now.lives():
			defer p.mu.Unlock()
			return p.now, nil
		case f == nil && p.refused != nil && time.Now().Before(p.again):
			defer p.mu.Unlock()
			return nil, p.refused
		case f == nil:
			f = &flight{done: make(chan struct{})}
			p.flight = f
			c.wg.Go(func() { p.fly(c, f) })
		}
		p.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("the login with %s takes too long: %w", p.token.Name, context.Cause(ctx))
		}
		if !f.left || c.ctx.Err() != nil {
			return f.cert, f.err
		}
	}
}

// fly does a login for all that wait for it.
func (p *Pass) fly(c *Conn, f *flight) {
	ctx, cancel := context.WithTimeout(c.ctx, loginTimeout)
	defer cancel()
	f.cert, f.err = p.logIn(ctx, c)
	f.left = f.err != nil && c.ctx.Err() != nil
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(f.done)
	p.flight = nil
	switch {
	case f.err == nil:
		p.old, p.now, p.entered, p.refused = p.now, f.cert, true, nil
	case errors.Is(f.err, ErrToken):
		p.refused, p.again = f.err, time.Now().Add(refusedFor)
	}
}

// logIn gets a certificate for the token.
func (p *Pass) logIn(ctx context.Context, c *Conn) (*certificate, error) {
	host, _, err := net.SplitHostPort(c.addr)
	if err != nil {
		return nil, err
	}
	token, err := p.token.Get(ctx, wire.Audience(strings.ToLower(host), p.key.PublicKey()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.token.Name, err)
	}
	o, err := c.open(ctx, wire.UserJoin, []ssh.Signer{p.key})
	if errors.Is(err, ErrKey) {
		err = fmt.Errorf("%s: %w", p.token.Name, errNoLogins)
	}
	if err != nil {
		return nil, err
	}
	cl := ssh.NewClient(o.conn, o.chans, o.reqs)
	defer cl.Close()
	defer context.AfterFunc(ctx, func() { cl.Close() })()
	answer, err := p.show(cl, token)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("the orchestrator did not answer within %v: %w", loginTimeout, ctx.Err())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.token.Name, err)
	}
	cert, err := take(answer, p.key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.token.Name, err)
	}
	return cert, nil
}

// show shows the token to the orchestrator, and returns the answer.
func (p *Pass) show(cl *ssh.Client, token string) ([]byte, error) {
	s, err := cl.NewSession()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	out, words := &bounded{max: maxCertificate}, &bounded{max: maxWords}
	s.Stdin, s.Stdout, s.Stderr = strings.NewReader(token), out, words
	err = s.Run(wire.CommandLogin)
	said, _, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(string(words.kept), token, "***")), "\n")
	err = loginEnd(err, said, ErrToken)
	switch {
	case err == nil && out.over:
		return nil, errLongAnswer
	case errors.Is(err, ErrToken):
		return nil, fmt.Errorf("%w: %s", err, p.token.Mend)
	}
	return out.kept, err
}

var errLongAnswer = fmt.Errorf("the answer to the login has more than %d bytes", maxCertificate)

// loginEnd returns the error of a command that logs in, which ended with err and said why.
// It is refused if the orchestrator does not let the client in.
func loginEnd(err error, said string, refused error) error {
	said = strings.TrimPrefix(said, wire.CommandLogin+": ")
	exit, ok := errors.AsType[*ssh.ExitError](err)
	switch {
	case err == nil:
		return nil
	case ok && exit.ExitStatus() == wire.LoginRefused:
		return fmt.Errorf("%w: the orchestrator says %q", refused, said)
	case ok && exit.ExitStatus() == wire.LoginBusy:
		return fmt.Errorf("the orchestrator says %q: %w", said, fs.ErrBusy)
	case ok:
		return fmt.Errorf("%w: login ends with status %d and %q", errNoLogins, exit.ExitStatus(), said)
	}
	return fmt.Errorf("the login is cut short: %w", err)
}

// take reads and checks the answer to a login by key.
func take(answer []byte, key ssh.Signer) (*certificate, error) {
	cert, err := wire.ParseCertificate(answer, key.PublicKey())
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		return nil, err
	}
	begin, end := validity(cert)
	now := time.Now()
	if !begin.Before(end) || !now.Before(end) { // its begin is by the orchestrator's clock, which may be ahead
		return nil, fmt.Errorf("the orchestrator gave a certificate that is good from %s to %s, and it is %s here: one of the two clocks is wrong", ci.FormatTime(begin), ci.FormatTime(end), ci.FormatTime(now))
	}
	// A clock that is behind does not make a life longer.
	left := min(end.Sub(now), end.Sub(begin), maxLife)
	wait := left * 2 / 3
	wait -= rand.N(left/16 + 1) // executors that came together do not come back together
	return &certificate{Certificate: cert, signer: signer, due: now.Add(max(wait, renewAtLeast)), end: end}, nil
}

// validity returns from when to when a certificate is good.
func validity(cert *ssh.Certificate) (begin, end time.Time) {
	const most = 1 << 37 // seconds, some 4000 years: a certificate may say more, and a time cannot
	return time.Unix(int64(min(cert.ValidAfter, most)), 0), time.Unix(int64(min(cert.ValidBefore, most)), 0)
}

// principal returns the name that a certificate gives, for people.
func principal(c *ssh.Certificate) string {
	if len(c.ValidPrincipals) == 0 {
		return "nobody"
	}
	return fmt.Sprintf("%.80q", c.ValidPrincipals[0])
}

// bounded keeps the first max bytes that are written to it. It takes all: a peer that
// writes more is not to block.
type bounded struct {
	kept []byte
	max  int
	over bool // more came
}

func (b *bounded) Write(p []byte) (int, error) {
	room := min(b.max-len(b.kept), len(p))
	b.kept = append(b.kept, p[:room]...)
	b.over = b.over || room < len(p)
	return len(p), nil
}
