package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"9ci/cmd/internal/config"
	"9ci/orchestrator/dial"
)

// jobToken returns the token of the CI job that this process is a part of, or nil if it
// is part of none that could have one.
//
// GitHub and Forgejo make one when they are asked (ACTIONS_ID_TOKEN_REQUEST_URL), for
// an audience. GitLab puts one into CI_ID_TOKEN, if .gitlab-ci.yml has it under
// id_tokens; and there is always CI_JOB_TOKEN, which is good for more than to log in,
// and with which the orchestrator lets a job read alone.
func jobToken() *dial.Token {
	job := func(name, mend string, get func(ctx context.Context, audience string) (string, error)) *dial.Token {
		const forges = "the orchestrator's file forges is to have this job's forge, and its -url the host of CI_ORCHESTRATOR"
		return &dial.Token{Name: name, Mend: strings.TrimPrefix(mend+"; "+forges, "; "), Get: get}
	}
	switch idToken := config.Getenv("CI_ID_TOKEN"); {
	case config.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL") != "" && config.Getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN") != "":
		return job("the id token of this job", "", actions{&http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}.ask)
	case idToken != "":
		return job("CI_ID_TOKEN", "its aud is to be the host of CI_ORCHESTRATOR, and it ends when the job times out",
			func(context.Context, string) (string, error) { return idToken, checkJWT("CI_ID_TOKEN", idToken) })
	case config.Getenv("CI_JOB_TOKEN") != "" && config.Getenv("CI_SERVER_URL") != "":
		return job("CI_JOB_TOKEN", "it may read alone, and CI_ID_TOKEN under id_tokens in .gitlab-ci.yml, with aud the host of CI_ORCHESTRATOR, may do more",
			func(context.Context, string) (string, error) { return gitlabToken() })
	case config.Getenv("FORGEJO_ACTIONS") == "true":
		return job("the id token of this job", "", func(context.Context, string) (string, error) {
			return "", errors.New("the job may not ask for one: enable-openid-connect: true in the workflow lets it; pull requests of forks have none")
		})
	case config.Getenv("GITHUB_ACTIONS") == "true":
		return job("the id token of this job", "", func(context.Context, string) (string, error) {
			return "", errors.New("the job may not ask for one: permissions: id-token: write in the workflow lets it; pull requests of forks have none")
		})
	}
	return nil
}

// gitlabToken returns the CI_JOB_TOKEN as git has it in a URL, which says whose it is:
// the orchestrator shows it to no other GitLab.
func gitlabToken() (string, error) {
	u, err := url.Parse(config.Getenv("CI_SERVER_URL"))
	if err != nil || u.Hostname() == "" {
		return "", errors.New("CI_SERVER_URL, which says of which GitLab it is, is no URL")
	}
	of := url.URL{Scheme: "https", User: url.UserPassword("gitlab-ci-token", config.Getenv("CI_JOB_TOKEN")), Host: strings.ToLower(u.Hostname())}
	return of.String(), nil
}

const (
	actionsTries   = 3                // of a service that does not answer, or has a fault
	actionsTimeout = 10 * time.Second // for one answer
	actionsAgain   = 400 * time.Millisecond
	maxAnswer      = 64 << 10 // bytes of an answer
)

// jwtForm is that of a JWT in compact form (RFC 7519 §3).
var jwtForm = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

func checkJWT(name, token string) error {
	if !jwtForm.MatchString(token) {
		return fmt.Errorf("%s is no JWT, which is three words with dots between them", name)
	}
	return nil
}

// actions is the token service of GitHub Actions, or of Forgejo's.
type actions struct{ via http.RoundTripper }

// ask asks for a token with that audience. No error has the token, the answer, or the
// URL in it.
func (a actions) ask(ctx context.Context, audience string) (string, error) {
	u, err := url.Parse(config.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL"))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is no URL of a token service")
	}
	query := "audience=" + url.QueryEscape(audience)
	if u.RawQuery != "" {
		query = u.RawQuery + "&" + query
	}
	u.RawQuery = query
	for try := 1; ; try++ {
		token, again, err := a.once(ctx, u)
		if err != nil {
			err = fmt.Errorf("the token service at %s: %w", u.Host, err)
		}
		if !again || try == actionsTries || ctx.Err() != nil {
			return token, err
		}
		select {
		case <-time.After(actionsAgain/2 + rand.N(actionsAgain)):
		case <-ctx.Done():
			return "", err
		}
	}
}

// once asks the service at u. Again says that it may be asked again.
func (a actions) once(ctx context.Context, u *url.URL) (token string, again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, actionsTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", false, errors.New("it cannot be asked")
	}
	req.Header.Set("Authorization", "Bearer "+config.Getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
	req.Header.Set("Accept", "application/json")
	client := http.Client{
		Transport: a.via,
		// What may ask for the token goes to the one that was named, and to no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if uerr, ok := errors.AsType[*url.Error](err); ok {
		err = uerr.Err // without the URL
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("it did not answer within %v", actionsTimeout)
	}
	if err != nil {
		return "", true, err
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return "", false, fmt.Errorf("it answered %d: permissions: id-token: write in the workflow lets the job ask, or enable-openid-connect: true at Forgejo; pull requests of forks have none", code)
	default:
		return "", code >= 500 || code == http.StatusTooManyRequests, fmt.Errorf("it answered %d, not 200 with a token", code)
	}
	var answer struct{ Value string }
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "", true, fmt.Errorf("it did not answer as a whole within %v", actionsTimeout)
	case err != nil:
		return "", true, errors.New("its answer is cut short")
	case json.Unmarshal(body, &answer) != nil || answer.Value == "":
		return "", false, errors.New(`its answer is not {"value": TOKEN}`)
	}
	return answer.Value, false, checkJWT("its value", answer.Value)
}
