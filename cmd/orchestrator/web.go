package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"net"
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
	listeners   []net.Listener
	certificate func() *tls.Certificate // nil: no TLS
}

// openApprovals returns the requests of keys of the page at o.url, nil if there is none.
func openApprovals(o options, passed []net.Listener) (*web.Approvals, error) {
	if o.web == "" && len(passed) == 0 {
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

// openPage returns the page of the state directory of s, where people log in by known, and
// approve what waits in pages. It listens on o.web and on the sockets that systemd has
// passed, and is nil if pages is.
func openPage(o options, s *orchestrator.Server, accounts *account.Store, known forges, pages *web.Approvals, passed []net.Listener, log *slog.Logger) (*page, error) {
	if pages == nil {
		return nil, nil
	}
	p := &page{listeners: passed}
	var err error
	if p.Page, err = web.New(web.Options{URL: o.url, Accounts: accounts, Forges: known, Authority: s.Authority(), Approvals: pages, Trees: trees{s}, Log: log}); err != nil {
		return nil, fmt.Errorf("-url: %w", err)
	}
	cert, key := filepath.Join(o.state, access.PageCertFile), filepath.Join(o.state, access.PageKeyFile)
	if _, err := os.Stat(cert); err == nil {
		if p.certificate, err = access.Pair(cert, key, log); err != nil {
			return nil, fmt.Errorf("-web: %w", err)
		}
	} else if !errors.Is(err, iofs.ErrNotExist) {
		return nil, fmt.Errorf("-web: %w", err)
	}
	if o.web != "" {
		l, err := ninep.Listen(o.web)
		if err != nil {
			return nil, fmt.Errorf("-web: %w", err)
		}
		p.listeners = append(p.listeners, l)
	}
	for _, l := range p.listeners {
		if err := p.CheckListener(l, p.certificate != nil); err != nil {
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
	err := p.Serve(until, l, p.certificate)
	if err != nil && until.Err() != nil {
		return ctx.Err() // nil at drain: all else goes on
	}
	return err
}
