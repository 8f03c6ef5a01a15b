package web

import (
	"errors"
	"net/http"

	"9ci/orchestrator/access/account"
)

// invited returns the invitation that the path names.
func (p *Page) invited(v *visit) (code string, i *account.Invite, err error) {
	code = v.r.PathValue("code")
	i, err = p.accounts.Invite(code)
	if errors.Is(err, account.ErrNoInvite) {
		v.refused("invite", err)
		return "", nil, errNoInvite
	}
	return code, i, err
}

var errNoInvite = &problem{http.StatusNotFound, "This invitation is wrong, was used already, or has ended. Ask the operator for another."}

// invite shows an invitation.
func (p *Page) invite(v *visit) error {
	if err := v.mayLogIn(); err != nil {
		return err
	}
	code, i, err := p.invited(v)
	if err != nil {
		return err
	}
	v.script = p.passkeys != nil
	return v.render(http.StatusOK, "invite", "You are invited", struct {
		Code       string
		Invite     *account.Invite
		NoPasskeys error
	}{code, i, p.noPasskeys})
}

// beginInvite begins to make the passkey of an invitation.
func (p *Page) beginInvite(v *visit) error {
	if _, err := v.asked(); err != nil {
		return err
	}
	_, i, err := p.invited(v)
	if err != nil {
		return err
	}
	a := &account.Account{Principal: account.NewPrincipal(), Name: i.Name}
	if i.Account != "" {
		if err := p.admits(v, i.Account); err != nil {
			return err
		}
		err = p.accounts.Change(i.Account, func(had *account.Account) error {
			had.NewHandle()
			a = had
			return nil
		})
		if err != nil {
			return err
		}
	}
	a.NewHandle()
	return p.register(v, "invite "+i.ID, a)
}

// finishInvite makes the account of an invitation, or gives it a passkey, and logs the
// browser in.
func (p *Page) finishInvite(v *visit) error {
	a, err := v.asked()
	if err != nil {
		return err
	}
	code, i, err := p.invited(v)
	if err != nil {
		return err
	}
	var c ceremony
	if err := p.sealer.open("invite "+i.ID, v.owner(), a.Ceremony, &c); err != nil {
		return err
	}
	if err := p.admits(v, c.Principal); err != nil {
		return err
	}
	k, err := p.registered(v, c, a)
	if err != nil {
		return err
	}
	err = p.accounts.Accept(code, c.Principal, func(i *account.Invite, a *account.Account) error {
		if a.Handle == nil {
			a.Handle = c.Handle
		}
		if string(a.Handle) != string(c.Handle) {
			return errStale
		}
		return addPasskey(a, k)
	})
	if errors.Is(err, account.ErrNoInvite) {
		return errNoInvite
	} else if err != nil {
		return err
	}
	v.audit("invite", c.Principal, "invite", i.ID, "passkey", passkeyID(k.ID))
	if err := v.begin(c.Principal, passkeyName(k.ID)); err != nil {
		return err
	}
	return v.went("/account?did=invited")
}
