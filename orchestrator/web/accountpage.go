package web

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
)

// A device is something that lets an account in, as the page shows it.
type device struct {
	ID, Name  string
	About     []string // in words, more about it
	Made, End time.Time
	Current   bool // what this visit came with
}

// didWords are what the page says after a change, by the query's did=.
var didWords = map[string]string{
	"added":       "The passkey was added. It logs you in from now on.",
	"invited":     "Your account is made, and you are logged in. Add a second passkey, so that losing one keeps you out of nothing.",
	"passkey":     "The passkey was revoked. It logs nobody in any more.",
	"key":         "The key was revoked, and its certificates with it.",
	"certificate": "The certificate was revoked.",
	"session":     "The browser was logged out.",
}

// account shows an account.
func (p *Page) account(v *visit) error {
	if login, err := v.needLogin("/account"); login {
		return err
	}
	a := v.account
	certs, err := p.authority.Certificates(a.Principal)
	if err != nil {
		return err
	}
	var keys, certificates, passkeys, browsers []device
	for _, k := range slices.Backward(a.Keys) {
		keys = append(keys, device{ID: k.Fingerprint, Name: k.Fingerprint, About: []string{"asked from " + k.From}, Made: k.Made})
	}
	for _, c := range slices.Backward(certs) {
		serial := strconv.FormatUint(c.Serial, 10)
		certificates = append(certificates, device{ID: serial, Name: "Certificate " + serial, About: []string{"of the key " + c.Key}, End: c.Expires})
	}
	for _, k := range a.Passkeys {
		d := device{ID: passkeyID(k.ID), Name: k.Name, Made: k.Made, Current: v.session.By == passkeyName(k.ID)}
		switch {
		case k.BackedUp:
			d.About = append(d.About, "is copied to your other devices")
		case k.BackupEligible:
			d.About = append(d.About, "can be copied to your other devices")
		default:
			d.About = append(d.About, "stays on one device")
		}
		if !k.Used.IsZero() {
			d.About = append(d.About, "last used "+k.Used.UTC().Format("2006-01-02"))
		}
		passkeys = append(passkeys, d)
	}
	for _, s := range slices.Backward(a.Sessions) {
		if time.Now().Before(s.Expires) {
			browsers = append(browsers, device{ID: s.ID, Name: browserName(s), About: []string{"at " + s.From, "by " + byWords(a, s.By)}, Made: s.Made, End: s.Expires, Current: s.ID == v.session.ID})
		}
	}
	v.script = p.passkeys != nil
	return v.render(http.StatusOK, "account", "Your account", struct {
		Keys, Certificates, Passkeys, Browsers []device
		NoPasskeys                             error
		MorePasskeys                           bool
		Did                                    string
	}{keys, certificates, passkeys, browsers, p.noPasskeys, len(passkeys) < account.MaxPasskeys, didWords[v.r.URL.Query().Get("did")]})
}

// browserName returns what a browser calls itself, in short if it is a common one: the
// first of each list that its User-Agent has in it. All of these say that they are others
// too.
func browserName(s account.Session) string {
	first := func(names ...string) string {
		for _, n := range names {
			sign, name, _ := strings.Cut(n, " ")
			if strings.Contains(s.Agent, sign) {
				return name
			}
		}
		return ""
	}
	browser := first("Firefox/ Firefox", "Edg/ Edge", "OPR/ Opera", "Chrome/ Chrome", "CriOS/ Chrome", "FxiOS/ Firefox", "Safari/ Safari")
	system := first("Android Android", "iPhone iOS", "iPad iPadOS", "CrOS ChromeOS", "Windows Windows", "Macintosh macOS", "Linux Linux", "OpenBSD OpenBSD", "FreeBSD FreeBSD")
	switch {
	case browser != "" && system != "":
		return browser + " on " + system
	case s.Agent != "":
		return s.Agent
	}
	return "A browser without a name"
}

// byWords returns what a session was begun with, in words.
func byWords(a *account.Account, by string) string {
	for _, k := range a.Passkeys {
		if passkeyName(k.ID) == by {
			return "the passkey " + k.Name
		}
	}
	return by
}

// passkeyID returns a short name of a passkey for forms, logs and sessions.
func passkeyID(id []byte) string {
	sum := sha256.Sum256(id)
	return hex.EncodeToString(sum[:6])
}

// changeAccount takes something back that lets the account in.
func (p *Page) changeAccount(v *visit) error {
	if login, err := v.needLogin("/account"); login {
		return err
	}
	if err := v.form(); err != nil {
		return err
	}
	do, id := v.r.PostForm.Get("do"), v.r.PostForm.Get("id")
	var err error
	switch do {
	case "key":
		err = p.revokeKey(v, id)
	case "certificate":
		err = p.authority.RevokeOf(v.account.Principal, func(c access.Certificate) bool { return strconv.FormatUint(c.Serial, 10) == id })
	case "passkey":
		err = p.revokePasskey(v, id)
	case "session":
		err = v.endSession(v.account.Principal, id)
	case "everything":
		return p.endEverything(v)
	default:
		return &problem{http.StatusBadRequest, "Nothing of that name can be taken back."}
	}
	if err != nil {
		return err
	}
	v.audit("revoke", v.account.Principal, do, clip(id))
	return v.redirect("/account?did=" + do)
}

// revokeKey takes a key's approval back, and revokes its certificates.
func (p *Page) revokeKey(v *visit, fingerprint string) error {
	err := p.accounts.Change(v.account.Principal, func(a *account.Account) error {
		a.Keys = slices.DeleteFunc(a.Keys, func(k account.Key) bool { return k.Fingerprint == fingerprint })
		return nil
	})
	if err != nil {
		return err
	}
	return p.authority.RevokeOf(v.account.Principal, func(c access.Certificate) bool { return c.Key == fingerprint })
}

// revokePasskey takes a passkey back, and logs out the browsers that it let in, but for
// this one.
func (p *Page) revokePasskey(v *visit, id string) error {
	return p.accounts.Change(v.account.Principal, func(a *account.Account) error {
		if a.Forge == "" && len(a.Passkeys) == 1 {
			return &problem{http.StatusConflict, "This is the only way into the account. Add another passkey first, and revoke this one then."}
		}
		a.Passkeys = slices.DeleteFunc(a.Passkeys, func(k account.Passkey) bool { return passkeyID(k.ID) == id })
		a.Sessions = slices.DeleteFunc(a.Sessions, func(s account.Session) bool {
			return s.By == "passkey:"+id && s.ID != v.session.ID
		})
		return nil
	})
}

// endEverything logs the account out everywhere: all browsers, all certificates, and the
// token of the forge.
func (p *Page) endEverything(v *visit) error {
	principal := v.account.Principal
	token, err := p.accounts.End(principal)
	if err != nil {
		return err
	}
	if err := p.authority.RevokeOf(principal, func(access.Certificate) bool { return true }); err != nil {
		return err
	}
	p.forget(v, principal, token)
	v.setCookie(sessionCookie, "", -1)
	v.audit("logout", principal, "everywhere", true)
	return v.redirect("/login")
}
