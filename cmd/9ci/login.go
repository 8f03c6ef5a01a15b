package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/host"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/show"
	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/dial"
)

// A desk is what login, logout and whoami work with: the user's key, and an
// orchestrator.
type desk struct {
	config *config.Config
	key    ssh.Signer
	url    string // ssh://HOST[:PORT]

	cert  *ssh.Certificate // beside the key; nil: none
	login string           // where 9ci login got it, or ""
}

// newDesk returns the desk of an orchestrator: what the argument HOST names, or, if that
// is "", CI_ORCHESTRATOR, or else the one that the user has logged in at.
func newDesk(ctx context.Context, arg string) (*desk, error) {
	rp, _ := repo.Open(ctx, ".") // nil outside a repository
	c, err := loadConfig(ctx, rp)
	if err != nil {
		return nil, err
	}
	d := &desk{config: c}
	if d.key, err = sign.LoadKey(c.Key); err != nil {
		return nil, err
	}
	if d.cert, d.login, err = sign.ReadCertificate(c.Key); err != nil {
		return nil, err
	}
	if arg == "" && c.Orchestrator == "" {
		arg = d.login
	}
	d.url, err = orchestratorURL(arg, c.Orchestrator)
	return d, err
}

// orchestratorURL returns the URL of the orchestrator that arg names, a URL or
// HOST[:PORT]. The host alone of CI_ORCHESTRATOR, and "", stand for that.
func orchestratorURL(arg, configured string) (string, error) {
	text := arg
	if arg != "" && !strings.Contains(arg, "://") {
		text = "ssh://" + arg
	}
	var own *url.URL
	if configured != "" {
		own, _ = dial.ParseURL(configured)
	}
	var u *url.URL
	switch {
	case text == "" && configured == "":
		return "", errors.New("which orchestrator? Give its HOST[:PORT], or set CI_ORCHESTRATOR")
	case text == "":
		u = own
	default:
		var err error
		if u, err = dial.ParseURL(text); err != nil {
			return "", fmt.Errorf("HOST: %w", err)
		}
		if own != nil && own.Scheme == "ssh" && u.Scheme == "ssh" && u.Port() == "" && strings.EqualFold(u.Hostname(), own.Hostname()) {
			u = own
		}
	}
	if u == nil || u.Scheme != "ssh" {
		return "", errors.New("people log in at ssh://HOST[:PORT]; at tls:// the certificate of CI_TLS_CERT does")
	}
	return "ssh://" + u.Host, nil
}

// same reports whether two URLs of orchestratorURL are of one address.
func same(a, b string) bool {
	address := func(s string) string {
		u, err := url.Parse(s)
		if err != nil {
			return ""
		}
		port := u.Port()
		if port == "" {
			port = "22"
		}
		return strings.ToLower(u.Hostname()) + " " + port
	}
	return address(a) != "" && address(a) == address(b)
}

// open returns a connection to the orchestrator, which is made when it is used. With
// signers, they log in and nothing else does.
func (d *desk) open(signers ...ssh.Signer) (*dial.Conn, error) {
	o, err := host.DialOptions(d.key, d.config, d.url)
	if err != nil {
		return nil, err
	}
	if len(signers) > 0 {
		o.Signers, o.Login, o.Pass, o.Stay = signers, nil, nil, nil
	}
	return dial.Open(d.url, o)
}

func (d *desk) host() string { return strings.TrimPrefix(d.url, "ssh://") }

// end returns when the certificate beside the key ends.
func (d *desk) end() string { return ends(d.cert) }

func ends(cert *ssh.Certificate) string {
	if cert.ValidBefore == ssh.CertTimeInfinity {
		return "it is revoked"
	}
	return ci.FormatTime(time.Unix(int64(cert.ValidBefore), 0))
}

// over reports whether the certificate beside the key has ended.
func (d *desk) over() bool {
	return d.cert.ValidBefore != ssh.CertTimeInfinity && uint64(time.Now().Unix()) >= d.cert.ValidBefore
}

// loginCommand has a person log in on an orchestrator's page. The certificate for the
// user's key is put beside the key.
func loginCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("login")
	code := f.Bool("code", false, "")
	force := f.Bool("f", false, "")
	if err := parseFlags(f, args, 0, 1); err != nil {
		return exitError, err
	}
	d, err := newDesk(ctx, f.Arg(0))
	if err != nil {
		return exitError, err
	}
	file := sign.CertificateFile(d.config.Key)
	if d.cert != nil && d.login == "" && !d.over() && !*force {
		return exitError, fmt.Errorf("%s is a certificate of the authority %s until %s, and not of 9ci login: move it away, or have 9ci login -f take its place", file, sign.Fingerprint(d.cert.SignatureKey), d.end())
	}
	if d.config.Token != "" && same(d.url, d.config.Orchestrator) {
		say("CI_TOKEN is set, and logs in there instead of the key: unset it for what follows")
	}
	cert, err := d.ask(ctx, *code)
	switch {
	case errors.Is(err, dial.ErrLogin), errors.Is(err, dial.ErrKey):
		return 1, err
	case err != nil:
		return failed(exitError, err)
	}
	if err := sign.WriteCertificate(d.config.Key, cert, d.url); err != nil {
		return exitError, fmt.Errorf("the login as %s cannot be kept: %w", cert.KeyId, err)
	}
	if d.cert != nil && !d.over() && !same(d.login, d.url) {
		was := d.login
		if was == "" {
			was = "the certificate of another authority"
		}
		say("it takes the place of %s, in %s", was, file)
	}
	say("logged in at %s as %s until %s", d.host(), cert.KeyId, ends(cert))
	return 0, nil
}

// ask has the person approve the key, in a browser that 9ci opens if it can, or else by
// a code that the person types on the page.
func (d *desk) ask(ctx context.Context, code bool) (*ssh.Certificate, error) {
	conn, err := d.open()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	commands := browsers()
	if !code && len(commands) > 0 {
		cert, err := d.askHere(ctx, conn, commands)
		if !errors.Is(err, dial.ErrBrowser) {
			return cert, err
		}
		say("%v", err)
	}
	return conn.LogIn(ctx, d.key, func(line string) { say("%s", line) }, nil)
}

// askHere has the person approve the key in a browser on this machine.
func (d *desk) askHere(ctx context.Context, conn *dial.Conn, commands []browser) (*ssh.Certificate, error) {
	l, err := listenLanding()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", dial.ErrBrowser, err)
	}
	defer l.Close()
	noBrowser := make(chan error, 1)
	return conn.LogIn(ctx, d.key, nil, &dial.Browser{
		Port:  l.port,
		State: l.state,
		Open: func(page string) error {
			say("approve the key %s in the browser, at %s", sign.Fingerprint(d.key.PublicKey()), page)
			go func() { noBrowser <- openIn(commands, page) }() // a browser may outlive this process
			return nil
		},
		Code: func(ctx context.Context) (string, error) { return l.code(ctx, noBrowser) },
	})
}

// logoutCommand has the orchestrator revoke the certificate of 9ci login, and removes it
// here.
func logoutCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("logout")
	if err := parseFlags(f, args, 0, 1); err != nil {
		return exitError, err
	}
	d, err := newDesk(ctx, f.Arg(0))
	if err != nil {
		return exitError, err
	}
	file := sign.CertificateFile(d.config.Key)
	switch {
	case d.cert == nil:
		return 1, fmt.Errorf("nobody is logged in with the key %s: there is no %s", sign.Fingerprint(d.key.PublicKey()), file)
	case d.login != "" && !same(d.login, d.url):
		return 1, fmt.Errorf("%s is of the login at %s, and not at %s: 9ci logout %[2]s", file, d.login, d.url)
	case d.over() && d.login != "":
		if err := sign.RemoveCertificate(d.config.Key); err != nil {
			return exitError, err
		}
		say("the login as %s had ended at %s: %s is removed", d.cert.KeyId, d.end(), file)
		return 0, nil
	}
	err = d.revoke(ctx)
	if err != nil && d.login == "" {
		return failed(1, fmt.Errorf("%s stays, for 9ci login has not made it: %w", file, err))
	}
	if rerr := sign.RemoveCertificate(d.config.Key); rerr != nil {
		return exitError, errors.Join(rerr, err)
	}
	switch {
	case errors.Is(err, dial.ErrKey):
		say("logged out: the certificate of %s let nobody in any more, and %s is removed", d.cert.KeyId, file)
	case err != nil:
		return failed(1, fmt.Errorf("%s is removed, but the orchestrator has not revoked it, and a copy lets this key in until %s: the account's page revokes it; %w", file, d.end(), err))
	default:
		say("logged out at %s: %s is removed", d.host(), file)
	}
	return 0, nil
}

// revoke has the orchestrator revoke the certificate beside the key.
func (d *desk) revoke(ctx context.Context) error {
	signer, err := ssh.NewCertSigner(d.cert, d.key)
	if err != nil {
		return err
	}
	conn, err := d.open(signer)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Exec(ctx, dial.CommandLogout)
	return err
}

// whoamiCommand prints who this user is at an orchestrator, and what the user may do
// there.
func whoamiCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("whoami")
	if err := parseFlags(f, args, 0, 1); err != nil {
		return exitError, err
	}
	d, err := newDesk(ctx, f.Arg(0))
	if err != nil {
		return exitError, err
	}
	conn, err := d.open()
	if err != nil {
		return exitError, err
	}
	defer conn.Close()
	text, err := conn.Exec(ctx, dial.CommandWhoami)
	switch {
	case errors.Is(err, dial.ErrKey), errors.Is(err, dial.ErrToken):
		return 1, fmt.Errorf("nobody is logged in: %w", err)
	case errors.Is(err, fs.ErrBusy):
		return exitBusy, err
	case err != nil:
		return exitError, err
	}
	show.Out.Words().Write([]byte(text))
	return 0, nil
}
