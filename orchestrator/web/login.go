package web

import (
	"bytes"
	"context"
	"errors"
	iofs "io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
)

// loginPath returns the path of the login page that leads to next.
func loginPath(next string) string { return "/login?next=" + url.QueryEscape(next) }

// login shows the ways to log in.
func (p *Page) login(v *visit) error {
	next := v.next()
	if v.account != nil {
		return v.redirect(next)
	}
	v.script = p.passkeys != nil
	return v.render(http.StatusOK, "login", "Log in", struct {
		Forges     []Forge
		Next       string
		NoPasskeys error
	}{p.list(), next, p.noPasskeys})
}

func (p *Page) list() []Forge {
	if p.forges == nil {
		return nil
	}
	return p.forges.List()
}

// forge returns the forge that a path names.
func (p *Page) forge(v *visit) (Forge, error) {
	all := p.list()
	i := slices.IndexFunc(all, func(f Forge) bool { return f.Name == v.r.PathValue("name") })
	if i < 0 {
		return Forge{}, errNoPage
	}
	return all[i], nil
}

// redirectURI returns where a forge sends browsers back to. Each forge has another, so
// that the answer of one is never taken for that of another (RFC 9700 §4.4.2).
func (p *Page) redirectURI(f Forge) string { return p.path("/callback/" + url.PathEscape(f.Name)) }

// An underWay is a login at a forge that has been begun. The forge keeps it, sealed, as
// its state.
type underWay struct {
	Next     string
	Nonce    string
	Verifier string // RFC 7636 §4.1
}

// forgeTime is how long a forge may take to say who somebody is.
const forgeTime = 20 * time.Second

// beginLogin sends the browser to a forge.
func (p *Page) beginLogin(v *visit) error {
	f, err := p.forge(v)
	if err != nil {
		return err
	}
	if v.r.Header.Get("Sec-Fetch-Site") == "cross-site" { // a login begins on this page
		return v.redirect(loginPath(v.next()))
	}
	if err := v.mayLogIn(); err != nil {
		return err
	}
	u := underWay{Next: v.next(), Nonce: newSecret(), Verifier: newSecret()}
	state, err := p.sealer.seal("login "+f.Name, v.browser(), u)
	if err != nil {
		return err
	}
	to, err := p.forges.Begin(f.Name, p.redirectURI(f), state, u.Nonce, u.Verifier)
	if err != nil {
		p.log.Error("forge", "name", f.Name, "err", err)
		return &problem{http.StatusBadGateway, f.Label + " cannot be reached for a login. The orchestrator's log says why."}
	}
	return v.redirect(to)
}

// finishLogin answers a browser that a forge has sent back.
func (p *Page) finishLogin(v *visit) error {
	f, err := p.forge(v)
	if err != nil {
		return err
	}
	if err := v.mayLogIn(); err != nil {
		return err
	}
	answer := v.r.URL.Query()
	var u underWay
	if err := p.sealer.open("login "+f.Name, v.browser(), answer.Get("state"), &u); err != nil {
		if errors.Is(err, errStale) {
			v.refused("login", errors.New("an answer of "+f.Name+" to a login that this browser has not begun, or that is over"))
			return &problem{http.StatusForbidden, "This login was too old, was finished already, or was begun by another browser. Begin again."}
		}
		return err
	}
	if code := answer.Get("error"); code != "" { // RFC 6749 §4.1.2.1
		v.refused("login", errors.New(f.Name+": "+code+": "+answer.Get("error_description")))
		if code == "access_denied" {
			return &problem{http.StatusForbidden, "You did not log in at " + f.Label + "."}
		}
		return &problem{http.StatusForbidden, f.Label + " refused the login. The orchestrator's log says why."}
	}
	ctx, cancel := context.WithTimeout(v.r.Context(), forgeTime)
	defer cancel()
	person, token, err := p.forges.Finish(ctx, f.Name, p.redirectURI(f), answer, u.Nonce, u.Verifier)
	if err == nil {
		err = checkPerson(person)
	}
	if err != nil {
		v.refused("login", err)
		if errors.Is(err, fs.ErrBusy) || ctx.Err() != nil {
			return &problem{http.StatusBadGateway, f.Label + " does not answer at present. Try again in a minute."}
		}
		var refused *access.RefusedError
		if errors.As(err, &refused) {
			return &problem{http.StatusForbidden, f.Label + " did not let you in here: " + refused.Words + "."}
		}
		return &problem{http.StatusForbidden, f.Label + " did not say who you are. The orchestrator's log says why."}
	}
	if err := p.admits(v, person.Principal); err != nil {
		p.forget(v, person.Principal, token)
		return err
	}
	before, err := p.accounts.Token(person.Principal)
	if err == nil {
		err = p.accounts.Enter(person, f.Name, token)
	}
	if err != nil {
		p.forget(v, person.Principal, token)
		return err
	}
	if !bytes.Equal(before, token) { // the new one takes its place
		p.forget(v, person.Principal, before)
	}
	if err := v.begin(person.Principal, f.Name); err != nil {
		return err
	}
	return v.redirect(safeNext(u.Next))
}

// checkPerson returns why a person for whom a forge vouches gets no account. A principal
// of a token, or of an account without a forge, is no forge's.
func checkPerson(p account.Person) error {
	forge, id, ok := strings.Cut(p.Principal, ":")
	if !ok || forge == "" || id == "" || forge == "token" || forge == "passkey" || strings.HasPrefix(id, "repo:") {
		return errors.New("principal " + p.Principal + " is no person's at a forge")
	}
	return access.CheckPrincipal(p.Principal)
}

// admits returns an error if the operator lets an account in no more.
func (p *Page) admits(v *visit, principal string) error {
	err := p.authority.Admits(principal)
	if errors.Is(err, access.ErrBarred) {
		v.refused("login", err)
		return &problem{http.StatusForbidden, "The operator of this orchestrator has barred this account."}
	}
	return err
}

// begin logs the browser in: it gets a new session, whatever it has shown before.
func (v *visit) begin(principal, by string) error {
	secret, err := v.page.accounts.NewSession(principal, by, v.from.String(), v.agent())
	if err != nil {
		return err
	}
	if v.account != nil { // the session that it had before
		if err := v.endSession(v.account.Principal, v.session.ID); err != nil {
			return err
		}
	}
	v.setCookie(sessionCookie, secret, account.SessionLife)
	v.audit("login", principal, "by", by)
	return nil
}

func (v *visit) endSession(principal, id string) error {
	err := v.page.accounts.Change(principal, func(a *account.Account) error {
		a.EndSession(id)
		return nil
	})
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	return err
}

// logout logs the browser out. The token of the forge goes with the last session, if
// there is no certificate either whose reading is decided by it.
func (p *Page) logout(v *visit) error {
	if v.account == nil {
		return v.redirect("/login")
	}
	if err := v.form(); err != nil {
		return err
	}
	principal := v.account.Principal
	certs, err := p.authority.Certificates(principal)
	if err != nil {
		return err
	}
	var token []byte
	err = p.accounts.Change(principal, func(a *account.Account) error {
		a.EndSession(v.session.ID)
		if len(certs) == 0 {
			token = a.TakeToken(time.Now())
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.forget(v, principal, token)
	v.setCookie(sessionCookie, "", -1)
	v.audit("logout", principal)
	return v.redirect("/login")
}

// forget tells a forge that a token is used no more. Whether it hears is no matter for the
// visitor: here the token is gone.
func (p *Page) forget(v *visit, principal string, token []byte) {
	if p.forges == nil || len(token) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(v.r.Context(), forgeTime)
	defer cancel()
	if err := p.forges.Forget(ctx, principal, token); err != nil {
		p.log.Warn("forge", "principal", principal, "err", err)
	}
}
