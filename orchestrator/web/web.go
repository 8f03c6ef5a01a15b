// Package web is the page of an orchestrator, for people: they log in, by a forge or a
// passkey, say which SSH keys are theirs, and see and take back what lets them in.
//
// They read there what 9P shows them: namespaces, runs, logs and artifacts. Trees give the
// page that tree, as a session of their account would see it, and the page knows no more.
//
// All of it is HTML that the server writes, in package html/template, which escapes what
// others have called themselves. Only passkeys and what lives need a script. Of people, a
// page says nothing that the state directory does not hold: accounts are of package account,
// and certificates of package access.
//
// What others may try, and what keeps them from it:
//
//   - Requests from other sites: http.CrossOriginProtection, SameSite cookies, and in each
//     form a token that is made from the cookie that the browser shows.
//   - Another name for this server (DNS rebinding, a forged Host): only the host of the
//     URL is answered, and URLs are made from that alone.
//   - Sessions that somebody else has begun: each login makes a new one. What is under way
//     before, and a ceremony of WebAuthn, is sealed to the browser that began it, and is
//     good for one answer.
//   - Answers of another forge (mix-up, RFC 9700 §4.4): each has a redirect URI of its own.
//   - Logs and artifacts, which anybody may have written who has a repository: of a log,
//     colours are obeyed and nothing else (see spans); an artifact is sent with a sandbox
//     and as a file to keep, and only pictures are shown.
//   - Executors that serve what they like: all that is read of one is bounded, in bytes and
//     in time.
//   - Guesses: see limits. Codes and sessions are random, and nothing says which part of a
//     guess was right.
package web

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	iofs "io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
)

// A Page is the page of an orchestrator. It is an http.Handler.
type Page struct {
	url       *url.URL // of the page; its path is empty
	accounts  *account.Store
	forges    Forges // nil: none
	authority Authority
	approvals *Approvals
	log       *slog.Logger

	trees     Trees // nil: the page shows no runs
	ssh       sshServer
	index     index
	followers followers

	passkeys   *webauthn.WebAuthn // nil: noPasskeys says why
	noPasskeys error
	sealer     *sealer
	limits     *limits
	handler    http.Handler
}

// Options are what a Page needs.
type Options struct {
	URL       string         // by which browsers reach the page: https://HOST[:PORT], or http on this machine
	Accounts  *account.Store // of the people who log in
	Forges    Forges         // that vouch for people; nil: none
	Authority Authority      // whose certificates people see
	Approvals *Approvals     // of keys that ask; made for the same URL
	Trees     Trees          // what people may read; nil: the page shows no runs
	SSHPort   int            // of the host of URL, at which the orchestrator is reached by ssh; 0: 22
	Log       *slog.Logger   // nil: nowhere
}

// Forges know people by accounts that they have elsewhere.
type Forges interface {
	// List returns the forges that people may log in by.
	List() []Forge

	// Begin returns the URL to which a browser is sent to log in by the forge of a name:
	// the code flow with PKCE S256 of that verifier. The forge sends the browser back to
	// redirectURI, with state. Nonce is for an id_token.
	Begin(name, redirectURI, state, nonce, verifier string) (string, error)

	// Finish returns the person whom the forge has sent back with that query. Token is
	// what Forges need to ask the forge as that person, sealed; nil if there is nothing.
	// The error is for the log; if it is fs.ErrBusy, the forge cannot be asked at present.
	Finish(ctx context.Context, name, redirectURI string, answer url.Values, nonce, verifier string) (p account.Person, token []byte, err error)

	// Forget tells the forge, if it has a way to be told, that a token of Finish, which
	// may have been refreshed since, is used no more.
	Forget(ctx context.Context, principal string, token []byte) error
}

// A Forge is one that people may log in by.
type Forge struct {
	Name  string // in URLs
	Label string // for people
}

// An Authority says which accounts may log in, and keeps their certificates.
type Authority interface {
	Admits(principal string) error
	Certificates(principal string) ([]access.Certificate, error)
	RevokeOf(principal string, match func(access.Certificate) bool) error
}

// New returns a page. The error is of Options.
func New(o Options) (*Page, error) {
	u, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	p := &Page{url: u, trees: o.Trees, ssh: sshServer{u.Hostname(), cmp.Or(o.SSHPort, 22)}, accounts: o.Accounts, forges: o.Forges, authority: o.Authority, approvals: o.Approvals, log: o.Log, sealer: newSealer(), limits: newLimits()}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.passkeys, p.noPasskeys = newWebAuthn(u); p.noPasskeys != nil {
		p.log.Warn("passkeys", "err", p.noPasskeys)
	}
	p.followers.behind = make(chan struct{}, liveBehind)
	p.handler = p.routes()
	return p, nil
}

// parseURL reads the URL of a page. Without TLS anybody on the way reads the cookies.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("URL %.200q: want https://HOST[:PORT], the name by which browsers reach the orchestrator", s)
	}
	u.Host, u.Path = strings.ToLower(u.Host), ""
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		return nil, fmt.Errorf("URL %s: want https, for http is read by anybody on the way; it is for http://localhost alone", u)
	}
	if port := u.Port(); port == "443" && u.Scheme == "https" || port == "80" && u.Scheme == "http" {
		u.Host = strings.TrimSuffix(u.Host, ":"+port)
	}
	return u, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && ip.IsLoopback()
}

// secure reports whether browsers come by TLS.
func (p *Page) secure() bool { return p.url.Scheme == "https" }

// URL returns the URL of the page, without a slash at its end.
func (p *Page) URL() string { return p.url.String() }

// path returns a URL of the page.
func (p *Page) path(path string) string { return p.url.String() + path }

// ServeHTTP answers a request.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.handler.ServeHTTP(w, r) }

// routes returns the handler of all that there is.
func (p *Page) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, f := range map[string]func(*visit) error{
		"GET /{$}":                                p.first,
		"GET /runs/{ns...}":                       p.read(p.runs),
		"GET /compare/{ns...}":                    p.read(p.compare),
		"GET /rev/{rev}/{ns...}":                  p.read(p.revision),
		"GET /run/{executor}/{id}/{ns...}":        p.read(p.run),
		"GET /log/{executor}/{id}/{step}/{ns...}": p.read(p.showLog),
		"GET /tests/{executor}/{id}/{ns...}":      p.read(p.tests),
		"GET /artifacts/{executor}/{id}/{ns...}":  p.read(p.artifacts),
		"GET /live/{executor}/{id}/{ns...}":       p.live,
		"GET /raw/{executor}/{id}/{ns...}":        p.read(p.raw),
		"GET /login":                              p.login,
		"GET /login/{name}":                       p.beginLogin,
		"GET /callback/{name}":                    p.finishLogin,
		"POST /logout":                            p.logout,
		"POST /passkey/login/begin":               p.beginPasskeyLogin,
		"POST /passkey/login":                     p.finishPasskeyLogin,
		"POST /passkey/add/begin":                 p.beginPasskey,
		"POST /passkey/add":                       p.finishPasskey,
		"GET /invite/{code}":                      p.invite,
		"POST /invite/{code}/begin":               p.beginInvite,
		"POST /invite/{code}":                     p.finishInvite,
		"GET /approve":                            p.approve,
		"POST /approve":                           p.lookUp,
		"POST /approve/answer":                    p.answer,
		"GET /approve/{request}":                  p.approveHere,
		"GET /account":                            p.account,
		"POST /account":                           p.changeAccount,
		"/":                                       func(*visit) error { return errNoPage },
	} {
		mux.Handle(pattern, p.page(f))
	}
	mux.HandleFunc("GET /badge/{ns...}", p.badge)
	for _, f := range files {
		mux.Handle("GET "+f.path, f)
	}
	csrf := http.NewCrossOriginProtection()
	if err := csrf.AddTrustedOrigin(p.url.String()); err != nil { // a proxy may send another Host
		panic(err)
	}
	csrf.SetDenyHandler(p.page(func(*visit) error { return errForeign }))
	return p.guard(csrf.Handler(mux))
}

// guard sets the headers that hold for every answer, and refuses what is not asked of this
// page.
func (p *Page) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", policy(false, ""))
		// With no-referrer a browser would send Origin: null with its own forms.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		if p.secure() {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		from, proxied := client(r)
		r = r.WithContext(context.WithValue(r.Context(), fromKey{}, from))
		refuse := func(err error) { p.page(func(*visit) error { return err }).ServeHTTP(w, r) }
		host, plain := r.Host, false
		if proxied {
			if f := r.Header.Get("X-Forwarded-Host"); f != "" {
				host = f
			}
			plain = r.Header.Get("X-Forwarded-Proto") == "http"
		}
		switch {
		case !strings.EqualFold(p.hostOf(host), p.url.Host):
			refuse(&problem{http.StatusMisdirectedRequest, "This server is not known by that name. It is " + p.url.String() + "."})
		case plain && p.secure() && (r.Method == http.MethodGet || r.Method == http.MethodHead):
			http.Redirect(w, r, p.path("/"), http.StatusSeeOther)
		case plain && p.secure():
			refuse(&problem{http.StatusForbidden, "This came without TLS, where others may have read it: use " + p.url.String() + "."})
		case len(r.TransferEncoding) > 0:
			// No browser sends such a body with a form. If the request says a length too, a
			// proxy may see another end of it (RFC 9112 §11.2).
			h.Set("Connection", "close")
			refuse(errNoLength)
		default:
			give, err := take(&p.limits.requests, source(from))
			if err != nil {
				refuse(err)
				return
			}
			defer give()
			next.ServeHTTP(w, r)
		}
	})
}

// hostOf returns a Host header as the page's URL has it, without the port that goes
// without saying.
func (p *Page) hostOf(host string) string {
	if p.secure() {
		return strings.TrimSuffix(host, ":443")
	}
	return strings.TrimSuffix(host, ":80")
}

// policy returns the Content-Security-Policy of a page, which may have a script, and whose
// forms lead to this page and to where leads says. Nothing is inline, and nothing comes
// from elsewhere.
func policy(script bool, leads string) string {
	s := "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; form-action 'self'"
	if leads != "" {
		s += " " + leads
	}
	if script {
		s += "; script-src 'self'; connect-src 'self'"
	}
	return s
}

// maxBody is how many bytes a request may have: an answer of WebAuthn has a few thousand.
const maxBody = 64 << 10

// fromKey is the key of the client's netip.Addr in a request's context.
type fromKey struct{}

// client returns the address that a request comes from, and whether a proxy on this
// machine may have passed it on: then the address is the last in X-Forwarded-For, which is
// the one that the proxy itself has written.
func client(r *http.Request) (from netip.Addr, proxied bool) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil { // a Unix socket
		from = netip.IPv6Loopback()
	} else if from, err = netip.ParseAddr(host); err != nil {
		return netip.IPv6Unspecified(), false
	}
	from = from.Unmap().WithZone("")
	if !from.IsLoopback() {
		return from, false
	}
	all := r.Header.Values("X-Forwarded-For")
	if len(all) == 0 {
		return from, true
	}
	last := all[len(all)-1]
	last = strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
	if ip, err := netip.ParseAddr(last); err == nil {
		return ip.Unmap().WithZone(""), true
	}
	if ap, err := netip.ParseAddrPort(last); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	return from, true
}

// A problem is an error that a person sees.
type problem struct {
	status int
	words  string // sentences
}

func (e *problem) Error() string { return e.words }

var (
	errNoPage   = &problem{http.StatusNotFound, "There is no such page."}
	errNoLength = &problem{http.StatusLengthRequired, "This page takes nothing whose length is not said before."}
	errForeign  = &problem{http.StatusForbidden, "This was asked for by another site, so nothing was done. If it was you, begin here."}
	errStale    = &problem{http.StatusForbidden, "This page was too old, or opened by another browser, so nothing was done. Open it again."}
	errOften    = &problem{http.StatusTooManyRequests, "That was too often for a while. Try again in a few minutes."}
	errMany     = &problem{http.StatusTooManyRequests, "You have too much open here at once. Close some of it, and try again in a minute."}
	errTooMany  = &problem{http.StatusServiceUnavailable, "There is too much to do at the moment. Try again in a minute."}
)

// problemOf returns what a person sees of an error, and whether the log is to have it.
func problemOf(err error) (shown *problem, logged bool) {
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &shown):
		return shown, false
	case errors.As(err, &big):
		return &problem{http.StatusRequestEntityTooLarge, "That was too long."}, false
	case errors.Is(err, fs.ErrBusy):
		return errTooMany, true
	}
	return &problem{http.StatusInternalServerError, "That could not be done. The orchestrator's log says why."}, true
}

// page returns the handler of a function that answers a visit.
func (p *Page) page(f func(*visit) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, err := p.visit(w, r)
		if err == nil {
			err = f(v)
		}
		defer v.send()
		if err == nil {
			return
		}
		shown, logged := problemOf(err)
		if logged {
			p.note(v.from, slog.LevelError, "path", ci.Dash(r.Pattern), "err", clip(err.Error()))
		}
		if shown.status == http.StatusTooManyRequests || shown.status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "60") // seconds
		}
		if v.wantsJSON() {
			v.json(shown.status, map[string]string{"error": shown.words})
			return
		}
		if err := v.render(shown.status, "problem", "It did not work", shown.words); err != nil {
			p.note(v.from, slog.LevelError, "path", ci.Dash(r.Pattern), "err", clip(err.Error()))
		}
	})
}

// layout and the pages are parsed once.
var pages = func() map[string]*template.Template {
	all := make(map[string]*template.Template)
	layout := template.Must(template.New("layout.html").Funcs(funcs).ParseFS(pageFiles, "pages/layout.html", "pages/parts.html"))
	names, err := iofs.Glob(pageFiles, "pages/*.html")
	if err != nil {
		panic(err)
	}
	for _, n := range names {
		name := strings.TrimSuffix(strings.TrimPrefix(n, "pages/"), ".html")
		if name != "layout" && name != "parts" {
			all[name] = template.Must(template.Must(layout.Clone()).ParseFS(pageFiles, n))
		}
	}
	return all
}()

var funcs = template.FuncMap{
	"day":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
	"machine": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"file":    func(name string) string { return files[name].path },
	"took":    took,
	"mark":    mark,
	"short":   short,
	"size":    size,
	"segment": url.PathEscape, // in a path, package template lets ? and / be
}

// A view is what a template sees.
type view struct {
	v     *visit
	Title string
	Data  any
}

func (x view) Host() string              { return x.v.page.url.Host }
func (x view) Account() *account.Account { return x.v.account }
func (x view) Token() string             { return x.v.token() }
func (x view) Script() bool              { return x.v.script }
func (x view) Reads() bool               { return x.v.reads }
func (x view) Tree() bool                { return x.v.page.trees != nil }

// Current returns the attribute of a link to the page of a path, if this is that page.
func (x view) Current(path string) template.HTMLAttr {
	if x.v.r.URL.Path != path {
		return ""
	}
	return ` aria-current="page"`
}

// render makes a page the answer. It is sent when all that it was made from has been given
// back: a browser that is slow to take it holds nothing.
func (v *visit) render(status int, name, title string, data any) error {
	var b bytes.Buffer
	if err := pages[name].ExecuteTemplate(&b, "layout.html", view{v, title, data}); err != nil {
		return err
	}
	h := v.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy(v.script || v.reads, v.leads))
	v.status, v.body = status, b.Bytes()
	return nil
}

// send sends the answer, if render or json has made one.
func (v *visit) send() {
	if v.status != 0 {
		v.w.WriteHeader(v.status)
		v.w.Write(v.body)
	}
}

// A devices is a list of the account's page.
type devices struct {
	Token, Do string
	Devices   []device
}

func (x view) Devices(list []device, do string) devices { return devices{x.Token(), do, list} }
