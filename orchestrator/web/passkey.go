package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	iofs "io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"9ci/orchestrator/access/account"
)

// newWebAuthn returns what passkeys of a URL need, or why there can be none: they are
// bound to a name.
func newWebAuthn(u *url.URL) (*webauthn.WebAuthn, error) {
	host := u.Hostname()
	if _, err := netip.ParseAddr(host); err == nil {
		return nil, fmt.Errorf("passkeys are bound to a host's name, and %s has none, but an IP address: start the orchestrator with -url https://NAME (on this machine http://localhost)", u)
	}
	w, err := webauthn.New(&webauthn.Config{
		RPID: host, RPDisplayName: "9ci at " + u.Host, RPOrigins: []string{u.String()},
		AttestationPreference: protocol.PreferNoAttestation, // any maker's will do
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey: protocol.ResidentKeyRequirementRequired, RequireResidentKey: protocol.ResidentKeyRequired(), // logs in without a name
			UserVerification: protocol.VerificationRequired, // a passkey is all that is asked for
		},
		Timeouts: webauthn.TimeoutsConfig{
			Login:        webauthn.TimeoutConfig{Enforce: true, Timeout: passkeyTime, TimeoutUVD: passkeyTime},
			Registration: webauthn.TimeoutConfig{Enforce: true, Timeout: passkeyTime, TimeoutUVD: passkeyTime},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("passkeys of %s: %w", u, err)
	}
	return w, nil
}

// passkeyTime is how long somebody may look for a passkey.
const passkeyTime = 5 * time.Minute

// A holder is an account as package webauthn sees it.
type holder struct{ *account.Account }

func (h holder) WebAuthnID() []byte          { return h.Handle }
func (h holder) WebAuthnDisplayName() string { return h.Called() }

func (h holder) WebAuthnName() string {
	if h.Login != "" {
		return h.Login
	}
	return h.Called()
}

func (h holder) WebAuthnCredentials() (all []webauthn.Credential) {
	for _, p := range h.Passkeys {
		c := webauthn.Credential{ID: p.ID, PublicKey: p.Public, Authenticator: webauthn.Authenticator{SignCount: p.Count}}
		flags := protocol.FlagUserPresent | protocol.FlagUserVerified
		if p.BackupEligible {
			flags |= protocol.FlagBackupEligible
		}
		if p.BackedUp {
			flags |= protocol.FlagBackupState
		}
		c.Flags = webauthn.NewCredentialFlags(flags)
		for _, t := range p.Transports {
			c.Transport = append(c.Transport, protocol.AuthenticatorTransport(t))
		}
		all = append(all, c)
	}
	return all
}

// A ceremony is one of WebAuthn that has been begun. The browser keeps it, sealed.
type ceremony struct {
	Session   webauthn.SessionData
	Principal string // of the account that is to get a passkey
	Handle    []byte // of an account that is to be made
}

// begun tells the script what to ask the browser for.
type begun struct {
	Ceremony string `json:"ceremony"`
	Options  any    `json:"options"`
}

// An ask is what the script sends.
type ask struct {
	Token      string          `json:"token"`
	Ceremony   string          `json:"ceremony"`
	Credential json.RawMessage `json:"credential"`
	Name       string          `json:"name"`
}

// asked reads what the script sent. It returns an error if there are no passkeys, or the
// request is not from the page that this browser has seen, or one of too many.
func (v *visit) asked() (a ask, err error) {
	if v.page.passkeys == nil {
		return a, &problem{http.StatusConflict, "There are no passkeys here: " + v.page.noPasskeys.Error()}
	}
	if err := v.mayLogIn(); err != nil {
		return a, err
	}
	if err := v.readJSON(&a); err != nil {
		return a, err
	}
	return a, v.checkToken(a.Token)
}

func (v *visit) begun(purpose string, c ceremony, options any) error {
	s, err := v.page.sealer.seal(purpose, v.owner(), c)
	if err != nil {
		return err
	}
	return v.json(http.StatusOK, begun{s, options})
}

// went tells the script where to go.
func (v *visit) went(path string) error {
	return v.json(http.StatusOK, map[string]string{"location": path})
}

var errPasskey = &problem{http.StatusForbidden, "That passkey does not log in here."}

// unfit is the error for an answer of a browser that is not what was asked for.
func (v *visit) unfit(what string, err error, shown *problem) error {
	var of *protocol.Error
	if errors.As(err, &of) && of.DevInfo != "" {
		err = fmt.Errorf("%w: %s", err, of.DevInfo)
	}
	v.refused(what, err)
	return shown
}

// beginPasskeyLogin begins a login by a passkey. Nobody has said whose.
func (p *Page) beginPasskeyLogin(v *visit) error {
	if _, err := v.asked(); err != nil {
		return err
	}
	options, session, err := p.passkeys.BeginDiscoverableLogin()
	if err != nil {
		return err
	}
	return v.begun("passkey login", ceremony{Session: *session}, options)
}

var errCloned = errors.New("the passkey has counted fewer signatures than before: it may have been copied")

// finishPasskeyLogin logs in by a passkey.
func (p *Page) finishPasskeyLogin(v *visit) error {
	a, err := v.asked()
	if err != nil {
		return err
	}
	var c ceremony
	if err := p.sealer.open("passkey login", v.owner(), a.Ceremony, &c); err != nil {
		return err
	}
	answer, err := protocol.ParseCredentialRequestResponseBytes(a.Credential)
	if err != nil {
		return v.unfit("login", err, errPasskey)
	}
	who, err := p.accounts.ByHandle(answer.Response.UserHandle)
	if errors.Is(err, iofs.ErrNotExist) {
		return v.unfit("login", errors.New("a passkey of no account"), errPasskey)
	} else if err != nil {
		return err
	}
	if err := p.admits(v, who.Principal); err != nil {
		return err
	}
	var name string
	var unfit error
	err = p.accounts.Change(who.Principal, func(a *account.Account) error {
		owner := func(_, handle []byte) (webauthn.User, error) {
			if !bytes.Equal(handle, a.Handle) {
				return nil, iofs.ErrNotExist
			}
			return holder{a}, nil
		}
		cred, err := p.passkeys.ValidateDiscoverableLogin(owner, c.Session, answer)
		if err == nil && cred.Authenticator.CloneWarning {
			err = errCloned
		}
		if unfit = err; err != nil {
			return err
		}
		k := a.Passkey(cred.ID)
		k.Count, k.BackedUp, k.Used = cred.Authenticator.SignCount, cred.Flags.BackupState, time.Now()
		name = passkeyName(k.ID)
		return nil
	})
	switch {
	case errors.Is(unfit, errCloned):
		return v.unfit("login", fmt.Errorf("%s: %w", who.Principal, unfit), &problem{http.StatusForbidden, "This passkey may have been copied: it has counted fewer logins than this page. Log in another way, and revoke it."})
	case unfit != nil:
		return v.unfit("login", fmt.Errorf("%s: %w", who.Principal, unfit), errPasskey)
	case err != nil:
		return err
	}
	if err := v.begin(who.Principal, name); err != nil {
		return err
	}
	return v.went(v.next())
}

// passkeyName returns how sessions name the passkey that they were begun with.
func passkeyName(id []byte) string { return "passkey:" + passkeyID(id) }

// beginPasskey begins to give the account another passkey.
func (p *Page) beginPasskey(v *visit) error {
	if _, err := v.asked(); err != nil {
		return err
	}
	if v.account == nil {
		return errStale
	}
	var who account.Account
	err := p.accounts.Change(v.account.Principal, func(a *account.Account) error {
		if len(a.Passkeys) >= account.MaxPasskeys {
			return errPasskeys
		}
		a.NewHandle()
		who = *a
		return nil
	})
	if err != nil {
		return err
	}
	return p.register(v, "passkey", &who)
}

var errPasskeys = &problem{http.StatusConflict, fmt.Sprintf("An account has %d passkeys at most. Revoke one first.", account.MaxPasskeys)}

// register begins a registration for an account.
func (p *Page) register(v *visit, purpose string, a *account.Account) error {
	options, session, err := p.passkeys.BeginRegistration(holder{a}, webauthn.WithExclusions(webauthn.Credentials(holder{a}.WebAuthnCredentials()).CredentialDescriptors()))
	if err != nil {
		return err
	}
	return v.begun(purpose, ceremony{*session, a.Principal, a.Handle}, options)
}

// finishPasskey gives the account another passkey.
func (p *Page) finishPasskey(v *visit) error {
	a, err := v.asked()
	if err != nil {
		return err
	}
	if v.account == nil {
		return errStale
	}
	var c ceremony
	if err := p.sealer.open("passkey", v.owner(), a.Ceremony, &c); err != nil {
		return err
	}
	if c.Principal != v.account.Principal {
		return errStale
	}
	k, err := p.registered(v, c, a)
	if err != nil {
		return err
	}
	if err := p.accounts.Change(c.Principal, func(a *account.Account) error { return addPasskey(a, k) }); err != nil {
		return err
	}
	v.audit("passkey", c.Principal, "passkey", passkeyID(k.ID))
	return v.went("/account?did=added")
}

func addPasskey(a *account.Account, k account.Passkey) error {
	switch {
	case a.Passkey(k.ID) != nil:
		return &problem{http.StatusConflict, "The account has this passkey already."}
	case len(a.Passkeys) >= account.MaxPasskeys:
		return errPasskeys
	}
	a.Passkeys = append(a.Passkeys, k)
	return nil
}

// registered returns the passkey that a browser has made.
func (p *Page) registered(v *visit, c ceremony, a ask) (account.Passkey, error) {
	shown := &problem{http.StatusForbidden, "That is no passkey that could log in here later: want one that is kept on the device or key, and asks for a PIN, a fingerprint or the like."}
	answer, err := protocol.ParseCredentialCreationResponseBytes(a.Credential)
	if err != nil {
		return account.Passkey{}, v.unfit("passkey", err, shown)
	}
	cred, err := p.passkeys.CreateCredential(holder{&account.Account{Principal: c.Principal, Handle: c.Session.UserID}}, c.Session, answer)
	if err != nil {
		return account.Passkey{}, v.unfit("passkey", err, shown)
	}
	k := account.Passkey{
		ID: cred.ID, Name: strings.TrimSpace(a.Name), Public: cred.PublicKey, Count: cred.Authenticator.SignCount,
		BackupEligible: cred.Flags.BackupEligible, BackedUp: cred.Flags.BackupState, Made: time.Now(),
	}
	if k.Name == "" {
		k.Name = "Passkey of " + k.Made.UTC().Format("2006-01-02")
	}
	for _, t := range cred.Transport {
		k.Transports = append(k.Transports, string(t))
	}
	return k, nil
}
