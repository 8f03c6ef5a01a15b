package forge

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4/json"
	"golang.org/x/oauth2"

	"9ci/fs/ci"
)

const (
	maxAtOnce = 4               // requests that a forge has from us at once for people
	downPause = 5 * time.Second // for which a forge that does not answer is not asked
	maxPause  = time.Hour       // for which a forge may ask us to wait
	minPause  = time.Second
)

// A site is a forge as what answers: how many of us ask it, and whether it is down.
type site struct {
	asking chan struct{} // holds a token for each request

	mu   sync.Mutex // guards what follows
	down time.Time  // until when it is not asked
	err  error      // why
}

func newSite() *site { return &site{asking: make(chan struct{}, maxAtOnce)} }

// take waits for its turn to ask. The error is fs.ErrBusy.
func (s *site) take(ctx context.Context) error {
	if err := s.isDown(); err != nil {
		return err
	}
	select {
	case s.asking <- struct{}{}:
		if err := s.isDown(); err != nil { // since then
			s.done()
			return err
		}
		return nil
	case <-ctx.Done():
		return busy(errors.New("too many ask it at once"))
	}
}

func (s *site) done() { <-s.asking }

func (s *site) isDown() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.down) {
		return busy(s.err)
	}
	return nil
}

// failed notes that it has not answered.
func (s *site) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.err = time.Now().Add(downPause), err
}

// A call is a request of an API.
type call struct {
	method, url string
	Bearer      secret     // an access token, or
	client      string     // the id of the client
	Password    secret     // and its secret
	body        any        // as JSON; nil for none
	form        url.Values // the same as a form
}

// A reply is an answer, of which there may be no more than its status.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// ask does a call. The client follows no redirects: their status is the answer. The
// error is fs.ErrBusy, and says that nobody has answered as a forge does.
func (fg *forge) ask(ctx context.Context, client *http.Client, c call) (*reply, error) {
	if err := fg.take(ctx); err != nil {
		return nil, err
	}
	defer fg.done()
	asker := ctx
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	text, content := c.form.Encode(), "application/x-www-form-urlencoded"
	if c.body != nil {
		b, err := json.Marshal(c.body)
		if err != nil {
			return nil, err
		}
		text, content = string(b), "application/json"
	}
	req, err := http.NewRequestWithContext(ctx, c.method, c.url, strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "9ci-orchestrator") // GitHub answers nobody without one
	if text != "" {
		req.Header.Set("Content-Type", content)
	}
	if c.Bearer != "" {
		req.Header.Set("Authorization", "Bearer "+string(c.Bearer))
	} else if c.client != "" {
		req.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.client+":"+string(c.Password))))
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fg.silent(asker, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fg.silent(asker, err)
	case len(answer) > maxAnswer:
		return nil, busy(fmt.Errorf("%s: %s %s: more than %d bytes", fg.host, c.method, c.url, maxAnswer))
	case resp.StatusCode >= 500:
		err := fmt.Errorf("%s: %s %s: status %d", fg.host, c.method, c.url, resp.StatusCode)
		if resp.StatusCode > 500 { // not there, and not only for this one
			fg.failed(err)
		}
		return nil, busy(err)
	}
	return &reply{resp.StatusCode, resp.Header, answer}, nil
}

// silent returns the error for an answer that did not come. The forge counts as down,
// unless the asker has gone before.
func (fg *forge) silent(asker context.Context, err error) error {
	err = fmt.Errorf("%s does not answer: %w", fg.host, err)
	if asker.Err() == nil {
		fg.failed(err)
	}
	return busy(err)
}

// decode decodes an answer's JSON. The error is fs.ErrBusy: a forge that is well does not
// answer so.
func (fg *forge) decode(r *reply, v any) error {
	if err := json.Unmarshal(r.body, v); err != nil {
		return busy(fmt.Errorf("the answer of %s: %w", fg.host, err))
	}
	return nil
}

// wait returns how long an answer tells us not to ask again, 0 if it does not. GitHub:
// docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api; GitLab:
// docs.gitlab.com/administration/settings/user_and_ip_rate_limits, which says 429 and
// Retry-After.
func (r *reply) wait(now time.Time) time.Duration {
	if r.status != http.StatusTooManyRequests && r.status != http.StatusForbidden {
		return 0
	}
	if after := r.header.Get("Retry-After"); after != "" {
		if s, err := strconv.ParseInt(after, 10, 32); err == nil {
			return clamp(time.Duration(s) * time.Second)
		}
		if t, err := http.ParseTime(after); err == nil {
			return clamp(t.Sub(now))
		}
	}
	for _, prefix := range []string{"X-RateLimit-", "RateLimit-"} {
		if r.header.Get(prefix+"Remaining") == "0" {
			if s, err := strconv.ParseInt(r.header.Get(prefix+"Reset"), 10, 64); err == nil {
				return clamp(time.Unix(s, 0).Sub(now))
			}
		}
	}
	if r.status == http.StatusTooManyRequests || strings.Contains(strings.ToLower(string(r.body)), "rate limit") {
		return time.Minute // as GitHub says of a secondary limit
	}
	return 0
}

func clamp(d time.Duration) time.Duration { return min(max(d, minPause), maxPause) }

func errWait(fg *forge, until time.Time) error {
	return busy(fmt.Errorf("%s has had enough requests of this account and asks to wait until %s", fg.host, ci.FormatTime(until)))
}

// endpoints are where people log in by a forge.
type endpoints struct {
	authorize, token, userinfo string
	inHeader                   bool // the client shows its secret by HTTP Basic
	saysIssuer                 bool // the answer has an issuer, RFC 9207
}

// endpoints returns those of fg. The error is fs.ErrBusy.
func (f *Forges) endpoints(ctx context.Context, fg *forge) (endpoints, error) {
	if fg.kind.jobs() {
		p := fg.kind.people
		return endpoints{authorize: fg.url + p.authorize, token: fg.url + p.token}, nil
	}
	return f.issuer(fg).endpoints(ctx)
}

// oauth returns the client that the orchestrator is at a forge.
func (f *Forges) oauth(ctx context.Context, fg *forge, redirectURI string) (*oauth2.Config, endpoints, error) {
	e, err := f.endpoints(ctx, fg)
	if err != nil {
		return nil, e, err
	}
	s, err := fg.secret(string(f.dir))
	if err != nil {
		return nil, e, err
	}
	style := oauth2.AuthStyleInParams
	if e.inHeader && s != "" {
		style = oauth2.AuthStyleInHeader
	}
	return &oauth2.Config{
		ClientID: fg.clientID, ClientSecret: s, RedirectURL: redirectURI, Scopes: fg.kind.people.scopes,
		Endpoint: oauth2.Endpoint{AuthURL: e.authorize, TokenURL: e.token, AuthStyle: style},
	}, e, nil
}

// A tokenError is the answer of a forge that gives no token.
type tokenError struct {
	host, code string
}

func (e *tokenError) Error() string {
	return fmt.Sprintf("%s gives no token: %.60q", e.host, e.code)
}

// tokens calls get, which asks fg for tokens, and returns what it got. The error is a
// *tokenError if the forge has refused, else fs.ErrBusy; it has nothing of what was sent
// or answered.
func (fg *forge) tokens(ctx context.Context, client *http.Client, get func(context.Context) (*oauth2.Token, error)) (*oauth2.Token, error) {
	if err := fg.take(ctx); err != nil {
		return nil, err
	}
	defer fg.done()
	asker := ctx
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, oauth2.HTTPClient, client), answerTime)
	defer cancel()
	t, err := get(ctx)
	if err == nil && (len(t.AccessToken) > maxToken || len(t.RefreshToken) > maxToken) {
		return nil, busy(fmt.Errorf("%s gives a token of more than %d bytes", fg.host, maxToken))
	}
	if err == nil {
		return t, nil
	}
	var refused *oauth2.RetrieveError
	var broken *url.Error
	switch {
	case errors.As(err, &refused):
		status := refused.Response.StatusCode
		if status >= 300 && refused.ErrorCode == "" || status == http.StatusTooManyRequests || status >= 500 {
			err = fmt.Errorf("%s: its tokens: status %d", fg.host, status)
			break
		}
		switch refused.ErrorCode {
		case "temporarily_unavailable", "server_error", "slow_down":
			err = fmt.Errorf("%s: its tokens: %s", fg.host, refused.ErrorCode)
		default:
			return nil, &tokenError{fg.host, refused.ErrorCode}
		}
	case errors.As(err, &broken):
		return nil, fg.silent(asker, err)
	default:
		err = fmt.Errorf("%s: its tokens: the answer makes no sense", fg.host)
	}
	return nil, busy(err)
}

// staying is a client that follows no redirects: a repository that has moved is not the
// one that was asked for, and a token is shown to one server.
func (f *Forges) staying() *http.Client {
	return &http.Client{Transport: f.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}
