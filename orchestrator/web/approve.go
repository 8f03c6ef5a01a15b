package web

import (
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"9ci/orchestrator/access/account"
)

// approve asks for the code of a key.
func (p *Page) approve(v *visit) error {
	if login, err := v.needLogin("/approve"); login {
		return err
	}
	return v.render(http.StatusOK, "code", "Approve a key", nil)
}

// A shown is a request as a page shows it.
type shown struct {
	Name        string // of the request
	Here        bool   // of NewHere
	Key, Kind   string
	From        string
	Made        time.Time
	Minutes     int // since then
	Browser     string
	OtherSource bool // the browser is at another address
}

var errNoRequest = &problem{http.StatusNotFound, "No key waits for that. The code may be mistyped, older than ten minutes, or used already. Start again in the terminal."}

// lookUp shows the key of a code.
func (p *Page) lookUp(v *visit) error {
	if login, err := v.needLogin("/approve"); login {
		return err
	}
	if err := v.form(); err != nil {
		return err
	}
	if err := v.mayTry(); err != nil {
		return err
	}
	r := p.approvals.find(cleanCode(v.r.PostForm.Get("code")))
	if r == nil || r.back != "" {
		v.refused("approve", errors.New("a code that no key waits for"))
		return errNoRequest
	}
	return v.show(r)
}

// approveHere shows the key of a client on the machine of the browser.
func (p *Page) approveHere(v *visit) error {
	id := v.r.PathValue("request")
	if !isRequestID(id) {
		return errNoPage
	}
	if login, err := v.needLogin("/approve/" + id); login {
		return err
	}
	r := p.approvals.find(id)
	if r == nil {
		return errNoRequest
	}
	return v.show(r)
}

func (v *visit) show(r *Request) error {
	v.leads = strings.TrimSuffix(r.back, "/")
	return v.render(http.StatusOK, "confirm", "Is this your key?", shown{
		Name: r.name, Here: r.back != "", Key: r.fingerprint, Kind: r.kind, From: r.from.String(), Made: r.made,
		Minutes: int(time.Since(r.made).Minutes()), Browser: v.from.String(), OtherSource: r.source != source(v.from),
	})
}

// answer approves or refuses a key. The form has what the page has shown: a request that
// has taken the place of another since is not approved by it.
func (p *Page) answer(v *visit) error {
	if login, err := v.needLogin("/approve"); login {
		return err
	}
	if err := v.form(); err != nil {
		return err
	}
	form := v.r.PostForm
	name := form.Get("request")
	if !isRequestID(name) {
		// This form takes codes too, from a client that has not seen the page.
		if err := v.mayTry(); err != nil {
			return err
		}
		name = cleanCode(name)
	}
	r := p.approvals.find(name)
	if r == nil || subtle.ConstantTimeCompare([]byte(r.fingerprint), []byte(form.Get("key"))) == 0 {
		v.refused("approve", errors.New("a request that no key waits for"))
		return errNoRequest
	}
	principal := v.account.Principal
	switch form.Get("answer") {
	case "approve":
		err := p.accounts.Change(principal, func(a *account.Account) error {
			a.Approve(r.fingerprint, r.from.String())
			return nil
		})
		if err != nil {
			return err
		}
		proof, ok := r.answer(principal)
		if !ok {
			return errNoRequest
		}
		v.audit("approve", principal, "key", r.fingerprint, "from", r.from.String())
		if r.back != "" {
			return v.redirect(r.back + "?" + url.Values{"code": {proof}, "state": {r.state}}.Encode())
		}
		return v.render(http.StatusOK, "done", "Approved", "The key is yours now. Go back to the terminal: it goes on by itself.")
	case "refuse":
		if _, ok := r.answer(""); !ok {
			return errNoRequest
		}
		v.refused("approve", errors.New("the key "+r.fingerprint+" was refused on the page"))
		if r.back != "" {
			return v.redirect(r.back + "?" + url.Values{"error": {"access_denied"}, "state": {r.state}}.Encode())
		}
		return v.render(http.StatusOK, "done", "Refused", "The key gets nothing. If you did not start this, somebody may have sent you their code: there is nothing else to do.")
	}
	return &problem{http.StatusBadRequest, "Approve or refuse: nothing was done."}
}
