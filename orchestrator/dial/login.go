package dial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/internal/wire"
)

// A Browser is one that this machine can open. The page sends it to a port of 127.0.0.1
// when the person has answered there.
type Browser struct {
	Port  uint16 // which is listened on
	State string // that the browser brings back: 128 printable ASCII characters at most

	// Open opens the page. Code then returns the code that the browser brings back; its
	// context ends when the login does.
	Open func(url string) error
	Code func(ctx context.Context) (string, error)
}

// Errors of LogIn.
var (
	ErrLogin   = errors.New("the login is refused")
	ErrBrowser = errors.New("the browser does not open") // a login without one may succeed
)

// Commands of Exec.
const (
	CommandLogout = "logout" // revokes the certificates of the key that has logged in
	CommandWhoami = "whoami" // prints attr=value lines
)

// LoginTime is how long a person has to log in on the page and to approve the key.
const LoginTime = wire.ApproveTime

// answerTime is what the orchestrator has besides, to say how the login has ended.
const answerTime = 15 * time.Second

var errLoginLate = fmt.Errorf("nobody has approved the key on the page within %v", LoginTime)

// LogIn has a person log in on the orchestrator's page, and approve key there, which is a
// plain key. It returns a certificate for the key. Without a browser, say is called with
// each line of what the person is to do, as the orchestrator says it: where to type which
// code.
//
// It reports ErrLogin if the orchestrator or the person refuses, ErrBrowser if the browser
// does not open, ErrKey if the orchestrator does not take the key or has no logins,
// fs.ErrBusy, or the cause of ctx.
func (c *Conn) LogIn(ctx context.Context, key ssh.Signer, say func(line string), browser *Browser) (*ssh.Certificate, error) {
	cert, err := c.askPerson(ctx, key, say, browser)
	if errors.Is(err, ErrBrowser) { // that is of this machine
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("orchestrator: %s: %w", c.addr, err)
	}
	return cert, nil
}

func (c *Conn) askPerson(ctx context.Context, key ssh.Signer, say func(line string), browser *Browser) (*ssh.Certificate, error) {
	if c.tls {
		return nil, errors.New("over TLS a certificate logs in, and nobody by a page")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, LoginTime+answerTime, errLoginLate)
	defer cancel()
	began, stop := context.WithTimeout(ctx, dialTimeout)
	defer stop()
	o, err := retry(began, func() (opened, error) { return c.open(began, wire.UserJoin, []ssh.Signer{key}) })
	switch {
	case errors.Is(err, ErrKey):
		return nil, fmt.Errorf("%w: %s: it is revoked there, or %w", ErrKey, wire.Fingerprint(key.PublicKey()), errNoLogins)
	case err != nil:
		return nil, cause(ctx, err)
	}
	cl := ssh.NewClient(o.conn, o.chans, o.reqs)
	defer cl.Close()
	defer context.AfterFunc(ctx, func() { cl.Close() })()
	shown := ""
	if browser != nil {
		if shown, err = browser.bring(ctx, cl); err != nil {
			return nil, cause(ctx, err)
		}
	}
	text, err := join(cl, wire.CommandLogin, shown, say)
	if err != nil {
		return nil, cause(ctx, err)
	}
	cert, err := take(text, key)
	if err != nil {
		return nil, err
	}
	return cert.Certificate, nil
}

// cause returns what has ended ctx, or if nothing has, err.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// join executes a command of the user join, which has shown on standard input, and returns
// what it prints.
func join(cl *ssh.Client, command, shown string, say func(line string)) ([]byte, error) {
	s, err := cl.NewSession()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	name, _, _ := strings.Cut(command, " ")
	out, words := &bounded{max: maxCertificate}, &spoken{command: name, say: say}
	s.Stdin, s.Stdout, s.Stderr = strings.NewReader(shown), out, words
	err = s.Run(command)
	if err := loginEnd(err, words.end(), ErrLogin); err != nil {
		return nil, err
	}
	if out.over {
		return nil, errLongAnswer
	}
	return out.kept, nil
}

// bring has the person approve the key in the browser, and returns what the browser brings
// back as it is shown to the orchestrator.
func (b *Browser) bring(ctx context.Context, cl *ssh.Client) (string, error) {
	line, err := join(cl, fmt.Sprintf("%s %d %s", wire.CommandPage, b.Port, b.State), "", nil)
	if err != nil {
		return "", err
	}
	page := strings.TrimSpace(string(line))
	if err := checkPage(page); err != nil {
		return "", err
	}
	if err := b.Open(page); err != nil {
		return "", fmt.Errorf("%w: %w", ErrBrowser, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // ends with the connection
		cl.Wait()
		cancel(errLost)
	}()
	code, err := b.Code(ctx)
	if err != nil {
		return "", cause(ctx, err)
	}
	return wire.CodePrefix + code, nil
}

// errLost is the error of a connection that ends before the person has answered.
var errLost = errors.New("the orchestrator has ended the connection: start again")

// checkPage returns an error unless text is the URL of a page, which a program is given to
// open: by TLS, or of this machine.
func checkPage(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"'`\\<>", r) }) {
		return fmt.Errorf("the orchestrator says that its page is at %.200q, which is no URL", text)
	}
	ip, err := netip.ParseAddr(u.Hostname())
	here := u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !here) {
		return fmt.Errorf("the orchestrator's page is at %.200q, and only https:// is opened", text)
	}
	return nil
}

// spoken is the standard error of a command that logs in. A line that begins with the
// command and a colon says how that has ended; others are for the person.
type spoken struct {
	command string
	say     func(line string) // nil: nowhere
	part    []byte            // of a line
	all     int               // bytes
	last    string            // how it has ended
}

func (s *spoken) Write(p []byte) (int, error) {
	room := min(4*maxWords-s.all, len(p)) // what comes after that is dropped
	s.all += room
	s.part = append(s.part, p[:room]...)
	for {
		line, rest, ok := bytes.Cut(s.part, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		s.part = rest
		s.take(string(line))
	}
}

func (s *spoken) take(line string) {
	line = strings.TrimSpace(line)
	if last, ok := strings.CutPrefix(line, s.command+": "); ok {
		s.last = last
	} else if line != "" && s.say != nil {
		s.say(line)
	}
}

// end returns the line that says how the command has ended, or "".
func (s *spoken) end() string {
	s.take(string(s.part))
	return s.last
}

// A CommandError is the end of a command with another status than 0.
type CommandError struct {
	Status int    // of the command
	Said   string // the first line of standard error
}

func (e *CommandError) Error() string { return fmt.Sprintf("the orchestrator says %q", e.Said) }

// Exec has the orchestrator execute a command without input, as ssh HOST COMMAND does, and
// returns its standard output. It reports a CommandError, or as Dial does.
func (c *Conn) Exec(ctx context.Context, command string) (string, error) {
	out, err := c.exec(ctx, command)
	if err != nil {
		return "", fmt.Errorf("orchestrator: %s: %w", c.addr, err)
	}
	return out, nil
}

func (c *Conn) exec(ctx context.Context, command string) (string, error) {
	if c.tls {
		return "", errors.New("at tls:// there are no commands: want ssh://")
	}
	l, err := c.connect(ctx)
	if err != nil {
		return "", err
	}
	ctx, cancel := answerSoon(ctx)
	defer cancel()
	s, err := l.Session(ctx)
	if err != nil && ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", err
	}
	defer s.Close()
	out, words := &bounded{max: maxOut}, &bounded{max: maxWords}
	s.Stdout, s.Stderr = out, words
	ended := make(chan error, 1)
	go func() { ended <- s.Run(command) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		l.Close() // a peer that is silent never ends the session
		<-ended
		return "", context.Cause(ctx)
	}
	exit, ok := errors.AsType[*ssh.ExitError](err)
	switch {
	case ok:
		said, _, _ := strings.Cut(strings.TrimSpace(string(words.kept)), "\n")
		return "", &CommandError{exit.ExitStatus(), said}
	case err != nil:
		return "", fmt.Errorf("%s is cut short: %w", command, err)
	case out.over:
		return "", fmt.Errorf("%s prints more than %d bytes", command, maxOut)
	}
	return string(out.kept), nil
}

// answerSoon returns the context of what the orchestrator is to answer, once the
// connection is up.
func answerSoon(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, execTimeout, fmt.Errorf("it did not answer within %v: %w", execTimeout, context.DeadlineExceeded))
}

const (
	execTimeout = 30 * time.Second
	maxOut      = 1 << 20 // bytes of the output of a command
)
