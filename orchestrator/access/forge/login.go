package forge

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/oauth2"

	"9ci/fs"
	"9ci/orchestrator/access"
)

// An Info is a forge by which people log in.
type Info struct {
	Name  string // names it in Begin and Finish, and in the redirect URI: its host
	Kind  string // github, gitlab, forgejo or oidc
	Label string // for a button
}

// List returns the forges by which people log in at present, in the file's order.
func (f *Forges) List() (all []Info) {
	for _, fg := range f.forges() {
		if fg.clientID != "" {
			all = append(all, Info{fg.host, fg.kind.name, fg.called()})
		}
	}
	return all
}

// called returns what people call the forge.
func (fg *forge) called() string {
	switch {
	case fg.label != "":
		return fg.label
	case fg.host == "github.com":
		return "GitHub"
	case fg.host == "gitlab.com":
		return "GitLab"
	}
	return fg.host
}

// A Person is whom a forge vouches for.
type Person struct {
	Principal string // stable: github:ID and gitlab:ID of github.com and gitlab.com, else HOST:ID
	Login     string // at present; it may go to somebody else
	Name      string // as they call themselves: any text; "" if the forge does not say
}

// byName returns a forge of List.
func (f *Forges) byName(name string) (*forge, error) {
	list := f.forges()
	i := slices.IndexFunc(list, func(fg *forge) bool { return fg.clientID != "" && fg.host == name })
	if i < 0 {
		return nil, refuse(fmt.Sprintf("nobody logs in by %.80q here", name), fmt.Errorf("%s has no forge %.80q that has a client-id", f.file, name))
	}
	return list[i], nil
}

// refuse returns an error whose words are for the person that logs in.
func refuse(words string, err error) error { return &access.RefusedError{Words: words, Err: err} }

// minRandom is the least length of a state, nonce or verifier: RFC 7636 §4.1 has 43
// characters.
const minRandom = 43

// Begin returns the page of a forge where somebody logs in. It sends them back to
// redirectURI, which is a forge's own so that no forge can answer for another, with an
// answer for Finish that has state. State, nonce and verifier are random, of 43
// characters or more, and bound to the browser: it is the caller's part to hold the
// answer against them.
//
// The error is an *access.RefusedError with words for the person, fs.ErrBusy if the
// forge does not answer, or why the operator's file is wrong.
func (f *Forges) Begin(name, redirectURI, state, nonce, verifier string) (string, error) {
	fg, err := f.byName(name)
	if err != nil {
		return "", err
	}
	for _, s := range []string{state, nonce, verifier} {
		if len(s) < minRandom {
			return "", fmt.Errorf("state, nonce and verifier: want %d random characters of each", minRandom)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	c, _, err := f.oauth(ctx, fg, redirectURI)
	if err != nil {
		return "", err
	}
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier)}
	if !fg.kind.jobs() {
		options = append(options, oauth2.SetAuthURLParam("nonce", nonce))
	}
	return c.AuthCodeURL(state, options...), nil
}

// Finish returns who it is that a forge has sent back to redirectURI with an answer whose
// state the caller has found to be the browser's. Sealed is what the forge has given to
// ask it as that person: it is to become the account's token (Accounts), and nil if the
// forge knows no repositories. An answer is good once.
//
// The errors are those of Begin. None has anything of a token, a code or a secret.
func (f *Forges) Finish(ctx context.Context, name, redirectURI string, answer url.Values, nonce, verifier string) (p Person, sealed []byte, err error) {
	fg, err := f.byName(name)
	if err != nil {
		return p, nil, err
	}
	c, e, err := f.oauth(ctx, fg, redirectURI)
	if err != nil {
		return p, nil, err
	}
	code, err := fg.checkAnswer(answer, e)
	if err != nil {
		return p, nil, err
	}
	client := f.staying()
	got, err := fg.tokens(ctx, client, func(ctx context.Context) (*oauth2.Token, error) {
		return c.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	})
	var te *tokenError
	if errors.As(err, &te) {
		words := "the login has taken too long, or was used already: log in again"
		if !te.spent(fg) {
			words = fmt.Sprintf("%s does not know this orchestrator: its operator finds the reason in the log", fg.called())
		}
		err = refuse(words, fmt.Errorf("%w; if that is for everybody, client-id=, client-secret-file= or the redirect URI %s is not what it knows", err, redirectURI))
	}
	if err != nil {
		return p, nil, err
	}
	if !fg.kind.jobs() {
		p, err = f.identify(ctx, fg, e, got, nonce)
		return p, nil, err
	}
	t := newToken(fg, got)
	if p, err = f.whoIs(ctx, fg, t); err != nil {
		return Person{}, nil, err
	}
	sealed, err = f.sealToken(p.Principal, t)
	return p, sealed, err
}

// spent reports whether the code or the refresh token was good no more.
func (e *tokenError) spent(fg *forge) bool {
	return e.code == "invalid_grant" || slices.Contains(fg.kind.people.spent, e.code)
}

// checkAnswer returns the code of an answer. RFC 6749 §4.1.2; RFC 9207 §2.4 for iss: a
// forge that is not the one that was asked must not get the code.
func (fg *forge) checkAnswer(answer url.Values, e endpoints) (code string, err error) {
	again := func(format string, args ...any) (string, error) {
		return "", refuse("that was no answer to this login: log in again", fmt.Errorf("the answer of "+fg.host+": "+format, args...))
	}
	for name, values := range answer {
		if len(values) != 1 {
			return again("%.40q is there %d times", name, len(values))
		}
	}
	iss := answer.Get("iss")
	switch {
	case answer.Has("iss") && iss != fg.issuer && (!fg.kind.jobs() || !sameServer(iss, fg.url)):
		return again("it is of %.200q", iss)
	case !answer.Has("iss") && e.saysIssuer:
		return again("it does not say whose it is (iss), as that forge always does")
	case answer.Get("error") == "access_denied":
		return "", refuse(fmt.Sprintf("%s was told not to let you in here", fg.called()), errors.New("the person has refused"))
	case answer.Has("error"):
		return "", refuse(fmt.Sprintf("%s lets nobody in at present: the orchestrator's log has its reason", fg.called()),
			fmt.Errorf("%s: error %.60q", fg.host, answer.Get("error")))
	}
	code = answer.Get("code")
	if code == "" || len(code) > maxToken {
		return again("a code of %d bytes", len(code))
	}
	return code, nil
}

// sameServer reports whether two URLs are of one server. GitHub's issuer of users is
// below its URL, and differs from that of its jobs.
func sameServer(a, b string) bool {
	u, err := url.Parse(a)
	v, err2 := url.Parse(b)
	return err == nil && err2 == nil && u.Scheme == v.Scheme && u.Host == v.Host
}

// whoIs asks a forge whose a token is.
func (f *Forges) whoIs(ctx context.Context, fg *forge, t *token) (Person, error) {
	r, err := fg.ask(ctx, f.staying(), call{method: http.MethodGet, url: fg.kind.people.api(fg) + "/user", Bearer: t.Access})
	if err != nil {
		return Person{}, err
	}
	if r.status != http.StatusOK {
		return Person{}, busy(fmt.Errorf("%s does not say who that is: status %d", fg.host, r.status))
	}
	var u struct {
		ID       int64  `json:"id"`
		Login    string `json:"login"`    // GitHub, Forgejo
		Username string `json:"username"` // GitLab
		Name     string `json:"name"`
		FullName string `json:"full_name"` // Forgejo
	}
	if err := fg.decode(r, &u); err != nil {
		return Person{}, err
	}
	id := strconv.FormatInt(u.ID, 10)
	if !isID(id) {
		return Person{}, fmt.Errorf("%s says that somebody is number %s", fg.host, id)
	}
	return Person{fg.principal() + ":" + id, cmp.Or(u.Login, u.Username), cmp.Or(u.Name, u.FullName)}, nil
}

// identify returns whom a provider's id_token is of. OpenID Connect Core 1.0 §3.1.3.7.
func (f *Forges) identify(ctx context.Context, fg *forge, e endpoints, got *oauth2.Token, nonce string) (Person, error) {
	bad := func(format string, args ...any) (Person, error) {
		return Person{}, refuse("that was no answer to this login: log in again", fmt.Errorf("the id_token of "+fg.host+": "+format, args...))
	}
	raw, _ := got.Extra("id_token").(string)
	if len(raw) > maxToken {
		return bad("it has %d bytes", len(raw))
	}
	signed, err := jose.ParseSignedCompact(raw, algorithms)
	if err != nil {
		return bad("it is none, or of an algorithm that is not taken")
	}
	payload, err := f.issuer(fg).verify(ctx, signed)
	if errors.Is(err, fs.ErrBusy) {
		return Person{}, err
	} else if err != nil {
		return bad("%w", err)
	}
	var std jwt.Claims
	var more struct {
		Nonce    string `json:"nonce"`
		Party    string `json:"azp"`
		Name     string `json:"name"`
		Username string `json:"preferred_username"`
	}
	if err := errors.Join(json.Unmarshal(payload, &std), json.Unmarshal(payload, &more)); err != nil {
		return bad("%w", err)
	}
	switch {
	case std.Expiry == nil:
		return bad("it has no end (exp)")
	case !std.Audience.Contains(fg.clientID), len(std.Audience) > 1 && more.Party == "", more.Party != "" && more.Party != fg.clientID:
		return bad("it is made out (aud, azp) to %.300q, %.100q", []string(std.Audience), more.Party)
	case nonce == "" || subtle.ConstantTimeCompare([]byte(more.Nonce), []byte(nonce)) != 1:
		return bad("it answers another request (nonce)")
	}
	if err := std.ValidateWithLeeway(jwt.Expected{Issuer: fg.issuer, Time: time.Now()}, leeway); err != nil {
		return bad("%w", err)
	}
	sub, err := safeSubject(std.Subject)
	if err != nil {
		return bad("%w", err)
	}
	if more.Name == "" && more.Username == "" {
		more.Name, more.Username = f.userinfo(ctx, fg, e, got, std.Subject)
	}
	return Person{fg.principal() + ":" + sub, more.Username, more.Name}, nil
}

// userinfo returns what a provider that keeps that from its id_tokens calls somebody, ""
// if it does not say. OpenID Connect Core 1.0 §5.3.2.
func (f *Forges) userinfo(ctx context.Context, fg *forge, e endpoints, got *oauth2.Token, subject string) (name, username string) {
	if e.userinfo == "" {
		return "", ""
	}
	var u struct {
		Subject  string `json:"sub"`
		Name     string `json:"name"`
		Username string `json:"preferred_username"`
	}
	r, err := fg.ask(ctx, f.staying(), call{method: http.MethodGet, url: e.userinfo, Bearer: secret(got.AccessToken)})
	if err != nil || r.status != http.StatusOK || fg.decode(r, &u) != nil || u.Subject != subject {
		return "", ""
	}
	return u.Name, u.Username
}

// safeSubject returns a provider's name of somebody as a part of a principal: two never
// become one, and none is like a job's repo:ID.
func safeSubject(sub string) (string, error) {
	const most = 255 // OpenID Connect Core 1.0 §2
	if sub == "" || len(sub) > most {
		return "", fmt.Errorf("a sub of %d bytes: want 1 to %d", len(sub), most)
	}
	var b strings.Builder
	for i := range len(sub) {
		switch c := sub[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~@+", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() > maxSubject {
		return fmt.Sprintf("%%sha256-%x", sha256.Sum256([]byte(sub))), nil
	}
	return b.String(), nil
}

const maxSubject = 100 // bytes of a principal: it is the name of a file too
