package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"

	"9ci/fs"
	"9ci/orchestrator"
	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
	"9ci/orchestrator/web"
	"9ci/proto/ninep"
)

// A page is the page for people, and where it is served.
type page struct {
	*web.Page
	listeners []net.Listener
	tls       *tls.Config // nil: no TLS
	acme      *web.ACME   // nil: the certificate is in files
}

// openApprovals returns the requests of keys of the page at o.url, nil if there is none.
func openApprovals(o options, passed []net.Listener) (*web.Approvals, error) {
	if o.web == "" && len(passed) == 0 {
		if o.acme != "" {
			return nil, errors.New("-acme is for the page: it needs -web ADDR")
		}
		return nil, nil
	}
	if o.url == "" {
		return nil, errors.New("-web needs -url https://HOST, the name by which browsers reach the page; on this machine alone, -url http://localhost:PORT")
	}
	a, err := web.NewApprovals(o.url)
	if err != nil {
		return nil, fmt.Errorf("-url: %w", err)
	}
	return a, nil
}

// openPage returns the page of the state directory of s, which ssh reaches at sshd, and where
// people log in by known and approve what waits in pages. It listens on o.web and on the sockets that systemd has
// passed, and is nil if pages is.
func openPage(o options, s *orchestrator.Server, accounts *account.Store, known forges, pages *web.Approvals, sshd, passed []net.Listener, log *slog.Logger) (*page, error) {
	if pages == nil {
		return nil, nil
	}
	p := &page{listeners: passed}
	var err error
	if p.Page, err = web.New(web.Options{URL: o.url, Accounts: accounts, Forges: known, Authority: s.Authority(), Approvals: pages, Trees: trees{s}, SSHPort: sshPort(sshd), Log: log}); err != nil {
		return nil, fmt.Errorf("-url: %w", err)
	}
	if err := p.certify(o, log); err != nil {
		return nil, err
	}
	if o.web != "" {
		l, err := ninep.Listen(o.web)
		if err != nil {
			return nil, fmt.Errorf("-web: %w", err)
		}
		p.listeners = append(p.listeners, l)
	}
	for _, l := range p.listeners {
		if err := p.CheckListener(l, p.tls != nil); err != nil {
			p.close()
			return nil, fmt.Errorf("-web: %w", err)
		}
	}
	// Orchestrator invite prints URLs of the page.
	if err := account.SetURL(o.state, p.URL()); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// sshPort returns the port that others reach of some listeners: the first that is not of this
// machine alone, or else the first. It is 0 if there is none.
func sshPort(listeners []net.Listener) (port int) {
	for _, l := range listeners {
		a, ok := l.Addr().(*net.TCPAddr)
		if ok && !a.IP.IsLoopback() {
			return a.Port
		}
		if ok && port == 0 {
			port = a.Port
		}
	}
	return port
}

// certify finds the page's certificate: in files of the state directory, or a CA's by ACME.
// There is none if there are no such files.
func (p *page) certify(o options, log *slog.Logger) error {
	cert, key := filepath.Join(o.state, access.PageCertFile), filepath.Join(o.state, access.PageKeyFile)
	_, err := os.Stat(cert)
	switch {
	case err == nil && o.acme != "":
		return fmt.Errorf("-acme: %s is there too, and it can only be one: remove it, or leave out -acme", cert)
	case err == nil:
		pair, err := access.Pair(cert, key, log)
		if err != nil {
			return fmt.Errorf("-web: %w", err)
		}
		p.tls = web.Certificate(pair)
	case !errors.Is(err, iofs.ErrNotExist):
		return fmt.Errorf("-web: %w", err)
	case o.acme != "":
		if p.acme, err = p.ACME(o.acme, filepath.Join(o.state, access.PageACMEDir), &http.Client{}); err != nil {
			return fmt.Errorf("-acme: %w", err)
		}
		p.tls = p.acme.Config()
	}
	return nil
}

// Trees are what visitors of the page read: the mux's trees.
type trees struct{ s *orchestrator.Server }

// Tree implements web.Trees.
func (t trees) Tree(_ context.Context, a *account.Account, from netip.Addr) (fs.Dir, func(), error) {
	if a == nil {
		return t.s.Tree("", from)
	}
	return t.s.Tree(a.Principal, from)
}

func (p *page) close() {
	if p != nil {
		for _, l := range p.listeners {
			l.Close()
		}
	}
}

// serve serves the page on l until ctx or drain is done.
func (p *page) serve(ctx, drain context.Context, l net.Listener) error {
	until, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(drain, cancel)()
	err := p.Serve(until, l, p.tls)
	if err != nil && until.Err() != nil {
		return ctx.Err() // nil at drain: all else goes on
	}
	return err
}
