package forge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/time/rate"

	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/statedir"
)

// Accounts keep what forges have given of people, sealed. Their methods may be called
// from several goroutines.
type Accounts interface {
	// Token returns the sealed token of an account, nil if there is none, or no such
	// account.
	Token(principal string) ([]byte, error)

	// SetToken makes sealed, nil for none, the token of an account whose token is old,
	// and returns when it is on the disk. It reports false, and changes nothing, if
	// the account has another token, or is gone.
	SetToken(principal string, old, sealed []byte) (bool, error)
}

// ErrLogin is the error for an account whose forge is not to be asked for it any more, or
// never was: the person has to log in by it once more.
var ErrLogin = errors.New("the forge no longer lets the orchestrator ask for this account: log in by it again")

// Keep lets people log in, whose tokens accounts keep. Beside the file of forges it uses
// seal.key and repositories. It reports an error if one of these cannot be read or made.
func (f *Forges) Keep(accounts Accounts) error {
	dir := statedir.Dir(filepath.Dir(f.file))
	s, err := openSealer(dir)
	if err != nil {
		return err
	}
	pins, err := access.OpenRepositories(string(dir), f.log)
	if err != nil {
		return err
	}
	f.dir, f.sealer, f.pins, f.accounts = dir, s, pins, accounts
	return nil
}

// Close waits until no token is being renewed, 20 s at most, and lets none be renewed any
// more: one that is not on the disk is lost, and its account has to log in again.
func (f *Forges) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.renewing.Wait()
}

// A token is what a forge has given to ask it as somebody.
type token struct {
	Forge   string    `json:"forge"` // its URL: the token is shown to no other
	Access  secret    `json:"access"`
	Refresh secret    `json:"refresh,omitempty"` // gets the next token, once; "": there is none
	Expires time.Time `json:"expires,omitzero"`  // of Access; zero: it does not
}

func newToken(fg *forge, got *oauth2.Token) *token {
	return &token{fg.url, secret(got.AccessToken), secret(got.RefreshToken), got.Expiry}
}

func (f *Forges) sealToken(principal string, t *token) ([]byte, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	if f.accounts == nil {
		return nil, errors.New("no accounts: Keep was not called")
	}
	return f.sealer.seal(principal, text), nil
}

func (f *Forges) openToken(principal string, sealed []byte) (*token, error) {
	text, err := f.sealer.open(principal, sealed)
	if err != nil {
		return nil, err
	}
	var t token
	return &t, json.Unmarshal(text, &t)
}

// A user is what is known of an account while the orchestrator runs.
type user struct {
	lock    chan struct{} // holds a token while the account's token is read and renewed
	unsaved *unsaved      // guarded by lock
	asking  chan struct{} // holds a token for each request: others have their turn too
	pins    *rate.Limiter // of repositories that the account is the first to see

	mu     sync.Mutex // guards what follows
	paused time.Time  // until when the forge is not asked for the account
	ended  int        // how often it was logged out
}

// maxPins is how many repositories an account may be the first to see at once, and then
// one a minute: each is a line of the file repositories, for ever.
const maxPins = 200

// An unsaved is a token that the disk has not taken. The one before is spent.
type unsaved struct{ old, sealed []byte }

func (f *Forges) user(principal string) *user {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.users[principal]
	if u == nil {
		u = &user{lock: make(chan struct{}, 1), asking: make(chan struct{}, maxAtOnce/2), pins: rate.NewLimiter(rate.Every(time.Minute), maxPins)}
		f.users[principal] = u
	}
	return u
}

const (
	renewBefore = time.Minute    // how long before its end a token is renewed
	renewTime   = 2 * answerTime // for a turn to ask, and an answer
)

// current returns the token of an account, renewed if it ends soon or is bad, which the
// forge has refused. Renewing goes on for renewTime at most, whether or not anybody
// waits for it: the forge has spent the old token. The error is ErrLogin, fs.ErrBusy, or
// why the accounts cannot be read.
func (f *Forges) current(ctx context.Context, fg *forge, principal string, bad secret) (*token, error) {
	u := f.user(principal)
	gone := func() error { return busy(fmt.Errorf("%s has not answered yet", fg.host)) }
	select {
	case u.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, gone()
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		<-u.lock
		return nil, gone()
	}
	f.renewing.Add(1)
	f.mu.Unlock()
	type result struct {
		t   *token
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer f.renewing.Done()
		defer func() { <-u.lock }()
		t, err := f.load(fg, principal, u, bad)
		done <- result{t, err}
	}()
	select {
	case r := <-done:
		return r.t, r.err
	case <-ctx.Done():
		return nil, gone()
	}
}

// load is current while u.lock is held.
func (f *Forges) load(fg *forge, principal string, u *user, bad secret) (*token, error) {
	if s := u.unsaved; s != nil {
		ok, err := f.accounts.SetToken(principal, s.old, s.sealed)
		if err != nil {
			return nil, busy(err)
		}
		u.unsaved = nil
		if t, err := f.openToken(principal, s.sealed); err == nil && !ok { // logged out, or in, meanwhile
			f.revoke(fg, t)
		}
	}
	for range 2 {
		sealed, err := f.accounts.Token(principal)
		if err != nil {
			return nil, err
		}
		t, err := f.openToken(principal, sealed)
		if err != nil || t.Forge != fg.url {
			return nil, ErrLogin
		}
		now := time.Now()
		if t.Access != bad && (t.Expires.IsZero() || now.Add(renewBefore).Before(t.Expires)) {
			return t, nil
		}
		next, err := f.renew(fg, t)
		var te *tokenError
		switch {
		case err == nil:
		case t.Refresh == "" || errors.As(err, &te) && te.spent(fg):
			return nil, f.drop(principal, sealed)
		case t.Access != bad && now.Before(t.Expires): // it may be renewed later
			return t, nil
		case te != nil: // nobody's token can be renewed
			f.log.Error("forge refuses this orchestrator", "err", fmt.Errorf("%w: correct client-id= or client-secret-file= of %s in %s", err, fg.host, f.file))
			fg.failed(err)
			return nil, busy(err)
		default:
			return nil, err
		}
		anew, err := f.sealToken(principal, next)
		if err != nil {
			return nil, err
		}
		ok, err := f.accounts.SetToken(principal, sealed, anew)
		if err != nil {
			u.unsaved = &unsaved{sealed, anew}
			return nil, busy(err)
		}
		if ok {
			return next, nil
		}
		f.revoke(fg, next) // the account was logged out, or in, meanwhile
	}
	return nil, ErrLogin
}

// renew returns the token that follows t.
func (f *Forges) renew(fg *forge, t *token) (*token, error) {
	if t.Refresh == "" {
		return nil, ErrLogin
	}
	ctx, cancel := context.WithTimeout(context.Background(), renewTime)
	defer cancel()
	c, _, err := f.oauth(ctx, fg, "")
	if err != nil {
		return nil, busy(err)
	}
	got, err := fg.tokens(ctx, f.staying(), func(ctx context.Context) (*oauth2.Token, error) {
		return c.TokenSource(ctx, &oauth2.Token{RefreshToken: string(t.Refresh)}).Token()
	})
	if err != nil {
		return nil, err
	}
	return newToken(fg, got), nil
}

// drop forgets the token of an account, which the forge takes no more, and returns
// ErrLogin.
func (f *Forges) drop(principal string, sealed []byte) error {
	f.unlearn(principal)
	if _, err := f.accounts.SetToken(principal, sealed, nil); err != nil {
		return err
	}
	return ErrLogin
}

// Forget takes back the sealed token of an account that is logged out or barred: the forge
// is told where it can be, and nothing that it has said of the account is known any more.
// It is for a token that Accounts have no longer, or nil. The error says that the forge
// has not taken it back, which may be busy; it ends by itself then.
func (f *Forges) Forget(ctx context.Context, principal string, sealed []byte) error {
	f.unlearn(principal)
	if len(sealed) == 0 {
		return nil
	}
	t, err := f.openToken(principal, sealed)
	if err != nil {
		return nil // nobody can use it
	}
	list := f.forges()
	i := slices.IndexFunc(list, func(fg *forge) bool { return fg.clientID != "" && fg.url == t.Forge })
	if i < 0 {
		return nil
	}
	return f.revokeAt(ctx, list[i], t)
}

// Forget is Forget of Forges, for a command of an operator beside a server that uses the
// file of forges.
func Forget(ctx context.Context, file, principal string, sealed []byte, log *slog.Logger) error {
	f, err := open(file, log)
	if err == nil {
		err = f.Keep(nil)
	}
	if err != nil {
		return err
	}
	return f.Forget(ctx, principal, sealed)
}

func (f *Forges) revoke(fg *forge, t *token) {
	ctx, cancel := context.WithTimeout(context.Background(), renewTime)
	defer cancel()
	if err := f.revokeAt(ctx, fg, t); err != nil {
		f.log.Warn("forge does not take a token back", "err", err)
	}
}

func (f *Forges) revokeAt(ctx context.Context, fg *forge, t *token) error {
	revoke := fg.kind.people.revoke
	if revoke == nil {
		return nil
	}
	s, err := fg.secret(string(f.dir))
	if err != nil {
		return err
	}
	r, err := fg.ask(ctx, f.staying(), *revoke(fg, fg.clientID, secret(s), t))
	if err != nil {
		return err
	}
	// GitHub answers 404 or 422 for a token that it does not know any more.
	if r.status >= 300 && r.status != 404 && r.status != 422 {
		return fmt.Errorf("%s does not take a token back: status %d", fg.host, r.status)
	}
	return nil
}

// ofPrincipal returns the forge that knows an account, and its number there; nil for
// none.
func (f *Forges) ofPrincipal(principal string) (fg *forge, id string) {
	for _, fg := range f.forges() {
		id, ok := strings.CutPrefix(principal, fg.principal()+":")
		if ok && fg.clientID != "" && fg.kind.jobs() && isID(id) {
			return fg, id
		}
	}
	return nil, ""
}
