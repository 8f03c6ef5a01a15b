package forge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"golang.org/x/sync/singleflight"
)

const (
	keysFresh = time.Hour        // after which keys are asked for again: a withdrawn one counts no longer
	keysStale = 24 * time.Hour   // for which they serve if nobody answers then
	askPause  = 15 * time.Second // between two requests of unknown keys, or for an issuer that is down

	answerTime = 10 * time.Second // for an issuer's two answers, or an API's one
	maxAnswer  = 1 << 20          // bytes of each; GitHub's keys have 6 KiB
	maxKeys    = 100
)

// An issuer is the server that signs the id_tokens of a forge.
//
// It is asked once at a time, whatever comes, and then not for askPause: tokens of keys
// that do not exist make no flood of requests.
type issuer struct {
	url    string
	client *http.Client
	flight singleflight.Group

	mu    sync.Mutex // guards what follows
	keys  []jose.JSONWebKey
	login endpoints // as the document with keys has them
	got   time.Time // when keys came
	asked time.Time // when the last answer came, or failed to
	err   error     // why it failed
}

func newIssuer(url string, transport http.RoundTripper) *issuer {
	return &issuer{url: url, client: newClient(transport)}
}

// verify returns what a token says if the issuer has signed it.
func (i *issuer) verify(ctx context.Context, token *jose.JSONWebSignature) ([]byte, error) {
	header := token.Signatures[0].Protected
	for _, anew := range []bool{false, true} { // a key that is not known may be new
		keys, err := i.current(ctx, anew)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			if header.KeyID != "" && k.KeyID != header.KeyID || k.Algorithm != "" && k.Algorithm != header.Algorithm {
				continue
			}
			if payload, err := token.Verify(k); err == nil {
				return payload, nil
			}
		}
	}
	return nil, fmt.Errorf("its signature is of no key that the issuer has (kid %.80q, %s)", header.KeyID, header.Algorithm)
}

// current returns the issuer's keys. If anew is true, those that are there have not
// served.
func (i *issuer) current(ctx context.Context, anew bool) ([]jose.JSONWebKey, error) {
	i.mu.Lock()
	keys, age := i.keys, time.Since(i.got)
	i.mu.Unlock()
	if keys != nil && !anew && age < keysFresh {
		return keys, nil
	}
	var err error
	select {
	case r := <-i.flight.DoChan("", i.ask):
		keys, err = r.Val.([]jose.JSONWebKey), r.Err
	case <-ctx.Done():
		return nil, busy(ctx.Err())
	}
	if err == nil || keys != nil && !anew && age < keysStale {
		return keys, nil
	}
	return nil, busy(err)
}

// endpoints returns where people log in. The error is fs.ErrBusy.
func (i *issuer) endpoints(ctx context.Context) (endpoints, error) {
	if _, err := i.current(ctx, false); err != nil {
		return endpoints{}, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.login.authorize == "" || i.login.token == "" {
		return endpoints{}, busy(fmt.Errorf("%s has no authorization_endpoint and token_endpoint: nobody logs in by it", i.url))
	}
	return i.login, nil
}

// ask asks the issuer for its keys, unless it has done so just now, and returns them, or
// those that were there and an error. It goes on for answerTime at most, whether or not
// anybody waits for it: the next token does.
func (i *issuer) ask() (any, error) {
	i.mu.Lock()
	keys, err, since := i.keys, i.err, time.Since(i.asked)
	i.mu.Unlock()
	if since < askPause {
		return keys, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	keys, login, err := i.fetch(ctx)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.asked, i.err = time.Now(), err; err == nil {
		i.keys, i.login, i.got = keys, login, i.asked
	}
	return i.keys, err
}

// fetch follows OpenID Connect Discovery 1.0 §4: the document has to be the issuer's
// own, so that no issuer speaks for another.
func (i *issuer) fetch(ctx context.Context) ([]jose.JSONWebKey, endpoints, error) {
	var doc document
	at := strings.TrimSuffix(i.url, "/") + "/.well-known/openid-configuration"
	if _, err := get(ctx, i.client, at, nil, &doc); err != nil {
		return nil, endpoints{}, err
	}
	if doc.Issuer != i.url {
		return nil, endpoints{}, fmt.Errorf("%s is of the issuer %.200q, not of %q: correct issuer= if it is meant", at, doc.Issuer, i.url)
	}
	if err := checkURL(doc.Keys, strings.HasPrefix(i.url, "http:")); err != nil {
		return nil, endpoints{}, fmt.Errorf("%s has the jwks_uri %.200q: %w", at, doc.Keys, err)
	}
	for _, u := range []string{doc.Authorize, doc.Token, doc.Userinfo} {
		u, _, _ = strings.Cut(u, "?") // RFC 6749 §3.1 lets it have a query
		if err := checkURL(u, strings.HasPrefix(i.url, "http:")); u != "" && err != nil {
			return nil, endpoints{}, fmt.Errorf("%s has the endpoint %.200q: %w", at, u, err)
		}
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if _, err := get(ctx, i.client, doc.Keys, nil, &set); err != nil {
		return nil, endpoints{}, err
	}
	if len(set.Keys) > maxKeys {
		return nil, endpoints{}, fmt.Errorf("%s has %d keys: more than %d", doc.Keys, len(set.Keys), maxKeys)
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		// RFC 7517 §5: what is not understood is skipped.
		if json.Unmarshal(raw, &k) == nil && k.IsPublic() && k.Use != "enc" {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, endpoints{}, fmt.Errorf("%s has no key that could sign an id_token", doc.Keys)
	}
	return keys, doc.endpoints(), nil
}

// A document is what an issuer says of itself: OpenID Connect Discovery 1.0 §3.
type document struct {
	Issuer     string   `json:"issuer"`
	Keys       string   `json:"jwks_uri"`
	Authorize  string   `json:"authorization_endpoint"`
	Token      string   `json:"token_endpoint"`
	Userinfo   string   `json:"userinfo_endpoint"`
	Methods    []string `json:"token_endpoint_auth_methods_supported"`
	SaysIssuer bool     `json:"authorization_response_iss_parameter_supported"`
}

// endpoints returns where people log in. Without a word on how a client shows its secret
// it is by HTTP Basic.
func (d document) endpoints() endpoints {
	return endpoints{
		authorize: d.Authorize, token: d.Token, userinfo: d.Userinfo, saysIssuer: d.SaysIssuer,
		inHeader: len(d.Methods) == 0 || slices.Contains(d.Methods, "client_secret_basic"),
	}
}

// newTransport is the network, for answers with short headers.
func newTransport() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxResponseHeaderBytes = 64 << 10
	return t
}

// newClient returns a client that follows redirects on one server only.
func newClient(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport: transport,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if from := via[0].URL; req.URL.Scheme != from.Scheme || req.URL.Host != from.Host {
				return fmt.Errorf("redirected to %s://%s, which is another server", req.URL.Scheme, req.URL.Host)
			}
			if len(via) > 3 {
				return errors.New("redirected more than three times")
			}
			return nil
		},
	}
}

// get decodes the JSON at a URL into v; ctx bounds the time that it takes. It returns
// the status of the answer, 0 if there is none, and an error unless that is 200 and has
// such JSON.
func get(ctx context.Context, client *http.Client, url string, header http.Header, v any) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, fmt.Errorf("get %s: status %d", url, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return resp.StatusCode, fmt.Errorf("get %s: %w", url, err)
	}
	if len(body) > maxAnswer {
		return resp.StatusCode, fmt.Errorf("get %s: more than %d bytes", url, maxAnswer)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return resp.StatusCode, fmt.Errorf("get %s: %w", url, err)
	}
	return resp.StatusCode, nil
}
