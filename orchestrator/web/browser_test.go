package web

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"

	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
)

// A chromium is Debian's browser, with a virtual authenticator, and a page that it visits
// at http://localhost.
type chromium struct {
	*site
	ctx     context.Context
	id      webauthn.AuthenticatorID
	started bool
}

// newChromium starts a browser and a page at http://localhost.
func newChromium(t *testing.T) *chromium {
	t.Helper()
	c := startChromium(t, "http", nil)
	call(c, webauthn.Enable, webauthn.EnableParams{})
	c.authenticator(func(*webauthn.VirtualAuthenticatorOptions) {})
	return c
}

// startChromium starts a browser and a page at localhost, by TLS if it has a certificate.
func startChromium(t testing.TB, scheme string, config *tls.Config) *chromium {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v: apt-get install chromium", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, fmt.Sprintf("%s://localhost:%d", scheme, l.Addr().(*net.TCPAddr).Port))
	serving, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(serving, l, config) }()
	t.Cleanup(func() { stop(); <-ended })

	alloc, end := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()), chromedp.Flag("ignore-certificate-errors", config != nil), chromedp.WSURLReadTimeout(2*time.Minute),
		chromedp.Env("HOME="+t.TempDir(), "DBUS_SESSION_BUS_ADDRESS=disabled:"),
	)...)
	t.Cleanup(end)
	ctx, cancel := chromedp.NewContext(alloc, chromedp.WithErrorf(t.Logf))
	t.Cleanup(cancel)
	c := &chromium{site: s, ctx: ctx}
	c.open("/login")
	// No script of the page ends in an exception, and no page wants what its policy forbids.
	if err := chromedp.Listen(ctx, func(ev any) {
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			text, _ := json.Marshal(ev.ExceptionDetails)
			t.Errorf("a script: %s", text)
		case *cdplog.EventEntryAdded:
			if ev.Entry.Source == cdplog.EntrySourceSecurity {
				t.Errorf("%s: %s", ev.Entry.URL, ev.Entry.Text)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	return c
}

// authenticator puts another authenticator in place of the one that there is.
func (c *chromium) authenticator(change func(*webauthn.VirtualAuthenticatorOptions)) {
	c.t.Helper()
	o := &webauthn.VirtualAuthenticatorOptions{
		Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
		HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true,
		DefaultBackupEligibility: true,
	}
	change(o)
	if c.id != "" {
		call(c, webauthn.RemoveVirtualAuthenticator, webauthn.RemoveVirtualAuthenticatorParams{AuthenticatorID: c.id})
	}
	c.id = call(c, webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{Options: o}).AuthenticatorID
}

// actTime is how long one thing may take in the browser. It only ends a test that has
// failed, with words.
const actTime = time.Minute

// value runs an action and returns its value.
func value[T any](c *chromium, a chromedp.Action[T]) T {
	c.t.Helper()
	ctx := c.ctx
	if c.started { // else the browser would live no longer
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(c.ctx, actTime)
		defer cancel()
	}
	v, err := chromedp.Run(ctx, a)
	c.started = true
	if err != nil {
		html, _ := chromedp.Run(c.ctx, chromedp.Evaluate[string]("document.documentElement.outerHTML"))
		c.t.Fatalf("chromium: %v\nat %s\nlog:\n%s", err, html, c.log)
	}
	return v
}

// call sends a command of the protocol.
func call[P, R any](c *chromium, command cdp.Command[P, R], params P) R {
	c.t.Helper()
	return value(c, func(ctx context.Context, t *chromedp.Target) (R, error) { return cdp.Call(ctx, t, command, params) })
}

func (c *chromium) run(actions ...chromedp.Action[chromedp.Void]) {
	c.t.Helper()
	value(c, chromedp.Steps(actions...))
}

// script runs a script in the page, which returns nothing.
func (c *chromium) script(text string) { c.t.Helper(); value(c, chromedp.Evaluate[any](text+"; null")) }

func (c *chromium) open(path string) { c.t.Helper(); c.run(chromedp.Navigate(c.path(path))) }

// credentials returns what the authenticator has.
func (c *chromium) credentials() []*webauthn.Credential {
	c.t.Helper()
	return call(c, webauthn.GetCredentials, webauthn.GetCredentialsParams{AuthenticatorID: c.id}).Credentials
}

// invite opens the page of an invitation.
func (c *chromium) invite(i account.Invite) {
	c.t.Helper()
	i.Expires = time.Now().Add(time.Hour)
	code, err := account.NewInvite(c.dir, i)
	if err != nil {
		c.t.Fatal(err)
	}
	c.open("/invite/" + code)
}

// press presses the button of the page's form of a passkey, and waits for the title of the
// next page.
func (c *chromium) press(title string) {
	c.t.Helper()
	c.run(chromedp.Click(passkeyButton), c.title(title))
}

const (
	passkeyButton  = chromedp.CSS("form.passkey button")
	passkeyProblem = chromedp.CSS("form.passkey .problem")
)

// title waits for a page of that title.
func (c *chromium) title(s string) chromedp.Action[chromedp.Void] {
	return chromedp.WaitVisible(chromedp.Search(`//h1[text()="` + s + `"]`))
}

// fails presses the button, and returns what the form says then.
func (c *chromium) fails() (words string) {
	c.t.Helper()
	c.run(chromedp.Click(passkeyButton), chromedp.WaitVisible(passkeyProblem))
	return value(c, chromedp.Text(passkeyProblem))
}

// logout presses the page's button.
func (c *chromium) logout() {
	c.t.Helper()
	c.run(chromedp.Click(chromedp.CSS("nav button")), c.title("Log in"))
}

// only returns the only account.
func (c *chromium) only() *account.Account {
	c.t.Helper()
	files, err := os.ReadDir(filepath.Join(c.dir, "accounts"))
	if err != nil || len(files) != 1 {
		c.t.Fatalf("%d accounts, %v", len(files), err)
	}
	a, err := c.accounts.Get(files[0].Name())
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

// An invitation makes an account with a passkey, which logs in from then on.
func TestPasskey(t *testing.T) {
	c := newChromium(t)
	namespaces, err := access.ParsePatterns([]string{"github.com/alice/..."})
	if err != nil {
		t.Fatal(err)
	}
	c.invite(account.Invite{Name: "Alice", Namespaces: namespaces})
	c.run(chromedp.SendKeys(chromedp.ID("name"), "my laptop"))
	c.press("Your account")
	a := c.only()
	if len(a.Passkeys) != 1 || a.Passkeys[0].Name != "my laptop" || !a.Passkeys[0].BackupEligible || a.Passkeys[0].BackedUp || !slices.Equal(a.Passkeys[0].Transports, []string{"internal"}) ||
		a.Name != "Alice" || !slices.Equal(a.Namespaces, namespaces) || !strings.HasPrefix(a.Principal, "passkey:") {
		t.Errorf("the account is %+v", a)
	}
	if all := c.credentials(); len(all) != 1 || !all[0].IsResidentCredential || string(all[0].UserHandle) != string(a.Handle) || all[0].RpID != "localhost" {
		t.Errorf("the authenticator has %+v", all)
	}
	c.logout()
	c.press("Your account")
	b := c.only()
	if b.Principal != a.Principal || len(b.Sessions) != 1 || b.Sessions[0].By != passkeyName(a.Passkeys[0].ID) || b.Passkeys[0].Count <= a.Passkeys[0].Count || b.Passkeys[0].Used.IsZero() {
		t.Errorf("after a login the account is %+v", b)
	}
}

// What an authenticator may change of a passkey, and what it may not.
func TestPasskeyChanges(t *testing.T) {
	check(t)
	c := newChromium(t)
	c.invite(account.Invite{Name: "Alice"})
	c.press("Your account")
	c.logout()
	id := c.credentials()[0].CredentialID
	set := func(p webauthn.SetCredentialPropertiesParams) {
		t.Helper()
		p.AuthenticatorID, p.CredentialID = c.id, id
		call(c, webauthn.SetCredentialProperties, p)
	}
	// It is copied to other devices, and later is not any more.
	for _, backed := range []bool{true, false} {
		set(webauthn.SetCredentialPropertiesParams{BackupState: &backed})
		c.press("Your account")
		if k := c.only().Passkeys[0]; k.BackedUp != backed || !k.BackupEligible {
			t.Errorf("the passkey is %+v, want backed up: %v", k, backed)
		}
		c.logout()
	}
	// Whether it can be copied never changes.
	set(webauthn.SetCredentialPropertiesParams{BackupEligibility: new(false)})
	if words := c.fails(); !strings.Contains(words, "does not log in here") || !strings.Contains(c.log.String(), "Backup Eligible") {
		t.Errorf("a passkey that can be copied no more: %q\n%s", words, c.log)
	}
	set(webauthn.SetCredentialPropertiesParams{BackupEligibility: new(true)})
	// A copy counts on its own, from where it was copied.
	if err := c.accounts.Change(c.only().Principal, func(a *account.Account) error { a.Passkeys[0].Count += 100; return nil }); err != nil {
		t.Fatal(err)
	}
	c.open("/login")
	if words := c.fails(); !strings.Contains(words, "may have been copied") {
		t.Errorf("a copied passkey: %q", words)
	}
	if n := len(c.only().Sessions); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// What is no passkey as the page wants one, or no passkey of the page, logs nobody in.
func TestPasskeyRefused(t *testing.T) {
	check(t)
	c := newChromium(t)
	// A user who is not verified, and a key that keeps nothing.
	c.authenticator(func(o *webauthn.VirtualAuthenticatorOptions) { o.IsUserVerified = false })
	c.invite(account.Invite{})
	if words := c.fails(); !strings.Contains(words, "No passkey was used") {
		t.Errorf("without user verification: %q", words)
	}
	c.authenticator(func(o *webauthn.VirtualAuthenticatorOptions) {
		o.HasResidentKey, o.Transport = false, webauthn.AuthenticatorTransportUsb
	})
	c.run(chromedp.Reload())
	if words := c.fails(); words == "" {
		t.Error("a key that keeps no passkeys was taken")
	}
	// One that says itself that it has not verified the user.
	c.authenticator(func(*webauthn.VirtualAuthenticatorOptions) {})
	c.run(chromedp.Reload())
	call(c, webauthn.SetResponseOverrideBits, webauthn.SetResponseOverrideBitsParams{AuthenticatorID: c.id, IsBadUV: new(true)})
	if words := c.fails(); !strings.Contains(words, "no passkey that could log in") || !strings.Contains(c.log.String(), "erif") {
		t.Errorf("an authenticator that has not verified the user: %q\n%s", words, c.log)
	}
	if files, err := os.ReadDir(filepath.Join(c.dir, "accounts")); err != nil || len(files) != 0 {
		t.Errorf("%d accounts, %v", len(files), err)
	}
	// The invitation is still good.
	c.authenticator(func(o *webauthn.VirtualAuthenticatorOptions) {})
	c.run(chromedp.Reload())
	c.press("Your account")

	// At a login it counts as much, and so does the signature.
	c.logout()
	for _, bits := range []webauthn.SetResponseOverrideBitsParams{{IsBadUV: new(true)}, {IsBadUP: new(true)}, {IsBogusSignature: new(true)}} {
		bits.AuthenticatorID = c.id
		call(c, webauthn.SetResponseOverrideBits, bits)
		if words := c.fails(); !strings.Contains(words, "does not log in here") {
			t.Errorf("%+v: %q", bits, words)
		}
	}
	call(c, webauthn.SetResponseOverrideBits, webauthn.SetResponseOverrideBitsParams{AuthenticatorID: c.id})
	c.press("Your account")

	// A lost passkey's account has another way in: an invitation for it.
	lost := c.only()
	c.logout()
	c.authenticator(func(o *webauthn.VirtualAuthenticatorOptions) {})
	if words := c.fails(); !strings.Contains(words, "No passkey was used") {
		t.Errorf("without the passkey: %q", words)
	}
	c.invite(account.Invite{Account: lost.Principal})
	c.press("Your account")
	a := c.only()
	if a.Principal != lost.Principal || len(a.Passkeys) != 2 || string(a.Handle) != string(lost.Handle) {
		t.Errorf("the account is %+v", a)
	}
	// The lost one is revoked, and the last one cannot be.
	revoke := chromedp.Search(`//li[contains(., "stays on one device") or contains(., "copied")][1]//button[contains(., "Revoke")]`)
	c.run(chromedp.Click(revoke), chromedp.WaitVisible(chromedp.Search(`//p[contains(., "passkey was revoked")]`)))
	if a := c.only(); len(a.Passkeys) != 1 || string(a.Passkeys[0].ID) == string(lost.Passkeys[0].ID) {
		t.Errorf("the passkeys are %+v", a.Passkeys)
	}
	c.run(chromedp.Click(revoke), c.title("It did not work"))
	if a := c.only(); len(a.Passkeys) != 1 {
		t.Errorf("the last passkey was revoked")
	}
	// This device has a passkey of the account already.
	c.open("/account")
	if words := c.fails(); !strings.Contains(words, "already") {
		t.Errorf("a second passkey on one device: %q", words)
	}
}

// The answer of a ceremony counts once, for the browser that began it, and for what it was
// begun for.
func TestPasskeyReplayed(t *testing.T) {
	check(t)
	c := newChromium(t)
	// The page's script as it is, with a record of what it sends.
	const record = `{
		const send = window.fetch.bind(window);
		window.fetch = (url, o) => { if (o && JSON.parse(o.body).credential) { sessionStorage.setItem("sent", JSON.stringify([url, o.body])); } return send(url, o); };
	}`
	sent := func() (path, body string) {
		t.Helper()
		text := value(c, chromedp.Evaluate[string](`sessionStorage.getItem("sent")`))
		var pair [2]string
		if err := json.Unmarshal([]byte(text), &pair); err != nil {
			t.Fatal(err)
		}
		return pair[0], pair[1]
	}
	c.invite(account.Invite{Name: "Alice"})
	c.script(record)
	c.press("Your account")
	_, registration := sent()
	c.logout()
	c.script(record)
	c.press("Your account")
	path, login := sent()
	c.logout()

	// The same answers again, from somebody who has all cookies of the browser, and from
	// another browser.
	cookies := map[string]string{}
	for _, k := range call(c, network.GetCookies, network.GetCookiesParams{}).Cookies {
		cookies[k.Name] = k.Value
	}
	if cookies["9ci-visitor"] == "" {
		t.Fatalf("the browser has the cookies %v", cookies)
	}
	var a ask
	for _, text := range []string{login, registration} {
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			t.Fatal(err)
		}
		for _, visitor := range []string{cookies["9ci-visitor"], newSecret()} {
			b := c.browser()
			b.addr = "127.0.0.1:1"
			b.cookies["9ci-visitor"] = visitor
			a.Token = b.token("/login")
			again, err := json.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			if got := b.do("POST", path, "application/json", string(again)); got.Code != 403 || !strings.Contains(got.text, "too old") {
				t.Errorf("%.60s again: %d %s", text, got.Code, got.text)
			}
		}
	}

	// The passkey's answer to a challenge that was not ours, and the answer to ours sealed
	// for something else.
	c.open("/login")
	c.script(`{
		const get = navigator.credentials.get.bind(navigator.credentials);
		navigator.credentials.get = (o) => { o.publicKey.challenge = new Uint8Array(32); return get(o); };
	}`)
	if words := c.fails(); !strings.Contains(words, "does not log in here") || !strings.Contains(strings.ToLower(c.log.String()), "challenge") {
		t.Errorf("another challenge: %q\n%s", words, c.log)
	}
	c.open("/login")
	c.script(`{
		const send = window.fetch.bind(window);
		window.fetch = async (url, o) => {
			const answer = await send(url, o);
			if (JSON.parse(o.body).credential) { sessionStorage.setItem("status", String((await send(url, o)).status)); }
			return answer;
		};
	}`)
	c.press("Your account")
	if status := value(c, chromedp.Evaluate[string](`sessionStorage.getItem("status")`)); status != "403" {
		t.Errorf("the same answer sent twice by the script: %s, want 403", status)
	}
	if n := len(c.only().Sessions); n != 1 {
		t.Errorf("%d sessions, want 1", n)
	}
}

// check skips a test that is for mk check, unless it is running.
func check(t *testing.T) {
	t.Helper()
	if os.Getenv("CHECK") == "" {
		t.Skip("mk check runs it")
	}
}

// An approval in the browser that a client has opened leads back to the client, from a page
// with TLS, whatever the browser makes of a form that leads to http.
func TestApproveHereInBrowser(t *testing.T) {
	check(t)
	dir := t.TempDir()
	crt, key := writePair(t, dir, 1)
	pair, err := access.Pair(crt, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c := startChromium(t, "https", Certificate(pair))
	back := make(chan url.Values, 1)
	client := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			back <- r.URL.Query()
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<h1>You can go back</h1>")
	}))
	defer client.Close()
	r, err := c.approvals.NewHere(newKey(t), tcp("127.0.0.1"), uint16(client.Listener.Addr().(*net.TCPAddr).Port), "the-state")
	if err != nil {
		t.Fatal(err)
	}
	b := c.browser()
	b.login(alice, "")
	call(c, network.SetCookie, network.SetCookieParams{Name: "__Host-9ci", Value: b.cookies["__Host-9ci"], URL: c.path("/"), Secure: new(true), Path: "/"})
	c.run(chromedp.Navigate(r.URL), c.title("Is this your key?"), chromedp.Click(chromedp.CSS("button[value=approve]")), c.title("You can go back"))
	got := <-back
	if principal, err := r.Redeem(t.Context(), got.Get("code")); principal != "github:1" || err != nil || got.Get("state") != "the-state" {
		t.Errorf("the client got %v, and Redeem = %q, %v", got, principal, err)
	}
}

// Without the script all but passkeys works.
func TestNoScript(t *testing.T) {
	check(t)
	c := newChromium(t)
	call(c, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	c.open("/login?next=" + url.QueryEscape("/approve"))
	text := value(c, chromedp.Text(chromedp.CSS("main")))
	if !strings.Contains(text, "let this page run its script") || strings.Contains(text, "Log in with a passkey") {
		t.Errorf("the login page says %s", text)
	}
	b := c.browser()
	b.login(alice, "")
	call(c, network.SetCookie, network.SetCookieParams{Name: "9ci", Value: b.cookies["9ci"], URL: c.path("/")})
	r := c.ask("192.0.2.9")
	c.open("/approve")
	c.run(chromedp.SendKeys(chromedp.ID("code"), r.Code), chromedp.Click(chromedp.CSS("main button")), c.title("Is this your key?"),
		chromedp.Click(chromedp.CSS("button[value=approve]")), c.title("Approved"))
	if got := <-r.result; got.principal != "github:1" || got.err != nil {
		t.Errorf("Wait = %q, %v", got.principal, got.err)
	}
	c.open("/account")
	c.run(chromedp.Click(chromedp.Search(`//section[.//h2="Keys"]//button`)), chromedp.WaitVisible(chromedp.CSS(".did")))
	if a := c.only(); len(a.Keys) != 0 {
		t.Errorf("the keys are %+v", a.Keys)
	}
	c.logout()
}
