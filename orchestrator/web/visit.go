package web

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	iofs "io/fs"
	"mime"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
)

// A visit is one request and its answer.
type visit struct {
	page *Page
	w    http.ResponseWriter
	r    *http.Request
	from netip.Addr // the client's

	account *account.Account // nil: not logged in
	session account.Session
	secret  string // the session's
	visitor string // of a browser that is not logged in; "" until it is needed

	script bool   // the page has the script of passkeys
	reads  bool   // the page has the script of logs
	leads  string // where its forms lead besides, as a source of Content-Security-Policy

	status int // of the answer that is to be sent; 0: none
	body   []byte
}

// The names of cookies. Browsers take a cookie __Host- only by TLS, and for this host
// alone; on this machine without TLS the prefix is left out.
const (
	sessionCookie = "9ci"
	visitorCookie = "9ci-visitor" // of a browser that is not logged in, or logs in anew
)

func (p *Page) cookie(name string) string {
	if p.secure() {
		return "__Host-" + name
	}
	return name
}

// visit returns the visit of a request.
func (p *Page) visit(w http.ResponseWriter, r *http.Request) (*visit, error) {
	v := &visit{page: p, w: w, r: r}
	v.from, _ = r.Context().Value(fromKey{}).(netip.Addr)
	c, err := r.Cookie(p.cookie(sessionCookie))
	if err != nil {
		return v, nil
	}
	a, s, err := p.session(c.Value)
	switch {
	case err == nil:
		v.account, v.session, v.secret = a, s, c.Value
	case errors.Is(err, iofs.ErrNotExist), errors.Is(err, access.ErrBarred):
		v.setCookie(sessionCookie, "", -1)
	default:
		return v, err
	}
	return v, nil
}

// session returns the session of a secret, if its account may log in.
func (p *Page) session(secret string) (*account.Account, account.Session, error) {
	a, s, err := p.accounts.Session(secret)
	if err == nil {
		err = p.authority.Admits(a.Principal)
	}
	return a, s, err
}

func (v *visit) setCookie(name, value string, age time.Duration) {
	c := &http.Cookie{
		Name: v.page.cookie(name), Value: value, Path: "/", MaxAge: int(age.Seconds()),
		Secure: v.page.secure(), HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	if age < 0 {
		c.MaxAge = -1
	}
	http.SetCookie(v.w, c)
}

// visitorLife is how long a page may be open whose form then still counts.
const visitorLife = 12 * time.Hour

// secretSize is how many random bytes a visitor's cookie has.
const secretSize = 32

func newSecret() string {
	b := make([]byte, secretSize)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// browser returns what tells this browser from others before it is logged in: a cookie,
// which is set if there is none.
func (v *visit) browser() string {
	if v.visitor != "" {
		return v.visitor
	}
	if c, err := v.r.Cookie(v.page.cookie(visitorCookie)); err == nil {
		if b, err := base64.RawURLEncoding.Strict().DecodeString(c.Value); err == nil && len(b) == secretSize {
			v.visitor = c.Value
		}
	}
	if v.visitor == "" {
		v.visitor = newSecret()
		v.setCookie(visitorCookie, v.visitor, visitorLife)
	}
	return v.visitor
}

// owner returns what tells the session, or this browser if it is not logged in.
func (v *visit) owner() string {
	if v.account != nil {
		return v.secret
	}
	return v.browser()
}

// token returns what a form of this page must bring back. Another site, which can read
// neither the cookie nor the page, cannot make it.
func (v *visit) token() string {
	m := hmac.New(sha256.New, []byte(v.owner()))
	m.Write([]byte("form"))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// form returns errStale unless the request is from a form of the page, as this browser
// has seen it.
func (v *visit) form() error {
	if kind, _, _ := mime.ParseMediaType(v.r.Header.Get("Content-Type")); kind != "application/x-www-form-urlencoded" {
		return &problem{http.StatusUnsupportedMediaType, "This is for a form of this page."}
	}
	if err := v.r.ParseForm(); err != nil {
		return err
	}
	return v.checkToken(v.r.PostForm.Get("token"))
}

func (v *visit) checkToken(token string) error {
	if !hmac.Equal([]byte(token), []byte(v.token())) {
		return errStale
	}
	return nil
}

// wantsJSON reports whether the request is of the script.
func (v *visit) wantsJSON() bool { return v.r.Header.Get("Accept") == "application/json" }

// readJSON reads what the script sent.
func (v *visit) readJSON(to any) error {
	if kind, _, _ := mime.ParseMediaType(v.r.Header.Get("Content-Type")); kind != "application/json" {
		return &problem{http.StatusUnsupportedMediaType, "This is for the script of this page."}
	}
	var big *http.MaxBytesError
	if err := json.NewDecoder(v.r.Body).Decode(to); errors.As(err, &big) {
		return err
	} else if err != nil {
		return &problem{http.StatusBadRequest, "This is not what the script of this page sends."}
	}
	return nil
}

func (v *visit) json(status int, answer any) error {
	b, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	v.w.Header().Set("Content-Type", "application/json")
	v.status, v.body = status, b
	return nil
}

// redirect sends the browser to a path of the page.
func (v *visit) redirect(path string) error {
	v.w.Header().Set("Location", path)
	v.w.WriteHeader(http.StatusSeeOther)
	return nil
}

// next returns where a login leads: one of the paths that send a visitor to the login, and
// nothing else, whatever the query says.
func (v *visit) next() string { return safeNext(v.r.URL.Query().Get("next")) }

func safeNext(s string) string {
	if id, ok := strings.CutPrefix(s, "/approve/"); ok && isRequestID(id) || s == "/approve" || s == "/" || readPath.MatchString(s) {
		return s
	}
	return "/account"
}

// readPath matches the paths of pages that read the tree.
var readPath = regexp.MustCompile(`^/(runs|run|rev|log|tests|artifacts|raw|compare)(/([A-Za-z0-9._~+:@=-]|%[0-9A-Fa-f]{2})+)+(\?([A-Za-z0-9._~+:@=/&-]|%[0-9A-Fa-f]{2})*)?$`)

// needLogin reports whether the visitor is to log in first, and then sends them there.
func (v *visit) needLogin(next string) (bool, error) {
	if v.account != nil {
		return false, nil
	}
	return true, v.redirect(loginPath(next))
}

// agent returns what the browser calls itself.
func (v *visit) agent() string { return v.r.UserAgent() }

// audit writes a line of what somebody did.
func (v *visit) audit(what, principal string, attrs ...any) {
	v.page.log.Info("page", append([]any{"what", what, "principal", principal, "addr", v.from.String()}, attrs...)...)
}

// refused writes a line of what somebody may not do. What an address may try, limits
// bounds.
func (v *visit) refused(what string, err error) {
	principal := "-"
	if v.account != nil {
		principal = v.account.Principal
	}
	v.page.log.Warn("refuse", "what", "page-"+what, "principal", principal, "addr", v.from.String(), "err", clip(err.Error()))
}

func clip(s string) string {
	const most = 500
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
