package main

import (
	"context"
	"errors"
	iofs "io/fs"
	"log/slog"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator"
	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
	"9ci/orchestrator/access/forge"
	"9ci/orchestrator/web"
)

// people are what the mux takes for people: their accounts, and the forges that vouched
// for them.
type people struct {
	accounts *account.Store
	forges   *forge.Forges
	log      *slog.Logger
}

func (p people) Grant(principal string) (access.Grant, error) {
	a, err := p.accounts.Get(principal)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return access.Grant{}, access.ErrNoAccount
	case err != nil: // names a file, and may quote it
		p.log.Error("account", "principal", principal, "err", err)
		return access.Grant{}, errors.New("this account cannot be read: the orchestrator's log says why")
	}
	return access.Grant{Namespaces: a.Namespaces, Read: true, Publish: true}, nil
}

func (p people) Host(principal string) string { return p.forges.Host(principal) }

func (p people) Learn(ctx context.Context, principal, namespace string, since time.Time) (access.Rights, error) {
	a, err := p.forges.Access(ctx, principal, namespace, since)
	var absent *forge.AbsentError
	switch {
	case err == nil:
		return access.Rights{Read: a.Read, Publish: a.Publish, Asked: a.Asked}, nil
	case errors.As(err, &absent) && absent.Install != "":
		return access.Rights{}, &access.AbsentError{Words: "if it is private, its owner installs the app: " + absent.Install}
	case errors.Is(err, forge.ErrLogin):
		return access.Rights{}, &access.RefusedError{Words: "log in again, for your forge is to be asked: 9ci login", Err: err}
	}
	return access.Rights{}, err
}

var errNoSession = errors.New("no browser is logged in any more")

func (p people) Renew(principal string) error {
	a, err := p.accounts.Get(principal)
	if err == nil && !a.Live(time.Now()) {
		err = errNoSession
	}
	if err != nil {
		return &access.RefusedError{Words: "log in again: " + errNoSession.Error(), Err: err}
	}
	return nil
}

// forgetTime is how long a forge may take to hear that its token is used no more.
const forgetTime = 20 * time.Second

// LoggedOut gives back what a forge gave, as the page does when its last browser logs out.
func (p people) LoggedOut(principal string) {
	var token []byte
	err := p.accounts.Change(principal, func(a *account.Account) error {
		token = a.TakeToken(time.Now())
		return nil
	})
	switch {
	case err != nil && !errors.Is(err, iofs.ErrNotExist):
		p.log.Error("account", "principal", principal, "err", err)
		return
	case token == nil:
		return
	}
	go func() { // it is gone here, whether or not the forge hears
		ctx, cancel := context.WithTimeout(context.Background(), forgetTime)
		defer cancel()
		if err := p.forges.Forget(ctx, principal, token); err != nil {
			p.log.Warn("forge", "principal", principal, "err", err)
		}
	}()
}

// approvals are what the mux takes for the requests of keys on the page.
type approvals struct{ *web.Approvals }

func (a approvals) New(key ssh.PublicKey, from net.Addr) (orchestrator.Approval, error) {
	r, err := a.Approvals.New(key, from)
	if err != nil {
		return orchestrator.Approval{}, err
	}
	return orchestrator.Approval{Code: r.Code, URL: r.URL, Wait: r.Wait}, nil
}

func (a approvals) NewHere(key ssh.PublicKey, from net.Addr, port uint16, state string) (orchestrator.Approval, error) {
	r, err := a.Approvals.NewHere(key, from, port, state)
	if err != nil {
		return orchestrator.Approval{}, err
	}
	return orchestrator.Approval{URL: r.URL, Redeem: r.Redeem}, nil
}
