// Package forge judges what the CI jobs of a forge show to log in: the id_tokens
// (JWTs of OpenID Connect) of GitHub, GitLab and Forgejo, and GitLab's CI_JOB_TOKEN. And
// it lets people log in by a forge, and asks it what they may see.
//
// A forge counts if the file forges has it; a token never says whom to ask. What the
// forge has signed is the permission: a job may read in the namespace of its
// repository, and may publish runs of its commit there if what began it is nothing
// that a fork can begin. The repository is known by its id, for its name may be
// another's tomorrow. The claim sub is not read: its form is the repository's choice,
// and GitHub and Forgejo have changed theirs in 2026.
//
// An id_token is made out (aud) to the orchestrator and to the key that logs in,
// HOST:SHA256:..., so it is of no use to anybody who has seen it. The audience of
// GitLab stands in a file of the repository, which cannot know the key: there HOST
// alone will do, and the first key that shows the token is the only one that may.
//
// People log in by a forge too (List, Begin, Finish): by the code flow of OAuth2 with PKCE,
// and by a provider of OpenID Connect, which knows no repositories. What a person may do
// in a namespace is what the forge says when it is asked as that person (Access). An
// account is known by the forge's number, and a repository too: a name may be another's
// tomorrow. What a forge gives to ask it so is sealed, renewed before it ends, and in no
// error and no log.
//
// A forge is told how runs ended, as statuses of their commits (Tell), by a token of its
// own that the operator has given for it: nobody's who logs in.
//
// The sources of the claims: docs.github.com/actions/reference/security/oidc,
// docs.gitlab.com/ci/secrets/id_token_authentication,
// forgejo.org/docs/latest/user/actions/security-openid-connect.
package forge

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/sync/singleflight"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/statedir"
)

const (
	leeway   = time.Minute         // by which a forge's clock and ours may differ
	maxLife  = 32 * 24 * time.Hour // of an id_token. GitLab's live as long as the job may take, a month at most
	maxToken = 16 << 10            // bytes. GitHub's have 2 KiB, GitLab's with many identities some more
)

// algorithms are those of public keys that GitHub (RS256), GitLab (RS256) and Forgejo
// (any of these, as ID_TOKEN_SIGNING_ALGORITHM says) sign with. With HS256 the public
// key would be the secret.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}

// Forges are the forges of a file. They ask a forge for its keys when a first token
// comes from it, and then every hour or for a new key. Their methods may be called
// from several goroutines.
type Forges struct {
	file      string
	list      func() (forges []*forge, fresh bool)
	log       *slog.Logger
	transport http.RoundTripper

	mu      sync.Mutex          // guards what follows
	issuers map[string]*issuer  // by URL
	users   map[string]*user    // by principal
	rights  map[rightsKey]known // what forges have said of people

	replays   *replays
	installed installed

	// Of people, since Keep.
	dir      statedir.Dir
	accounts Accounts // nil: nobody logs in
	sealer   sealer
	pins     *access.Repositories
	closed   bool               // guarded by mu
	renewing sync.WaitGroup     // tokens; added to with mu held, while not closed
	learning singleflight.Group // rights
}

// Open returns the Forges of a file, which is read again when it changes, as
// authorized_keys is. A paragraph that cannot be understood is logged, and counts for
// nothing. Without the file there are no forges. Beside it, in FILE.used, is which key
// has shown a token that names none. It reports an error if one of the files is there
// and cannot be read.
func Open(file string, log *slog.Logger) (*Forges, error) {
	f, err := open(file, log)
	if err != nil {
		return nil, err
	}
	f.replays, err = openReplays(file + ".used")
	return f, err
}

// open is Open without the tokens that have been shown: nobody logs in a job.
func open(file string, log *slog.Logger) (*Forges, error) {
	f := &Forges{file: file, log: log, dir: statedir.Dir(filepath.Dir(file)), transport: newTransport(),
		issuers: map[string]*issuer{}, users: map[string]*user{}, rights: map[rightsKey]known{}}
	var err error
	f.list, err = access.Watch(file, func(text []byte) ([]*forge, error) { return parse(file, text, log), nil }, log)
	return f, err
}

var (
	// A CI_JOB_TOKEN is letters, digits, _ and -, or since GitLab 18 a JWT with a
	// prefix, which is for GitLab alone.
	jobTokenForm = regexp.MustCompile(`^([\w-]{20,}|([\w-]+-)?glcbt-[\w-]+\.[\w-]+\.[\w-]+)$`)
	idTokenForm  = regexp.MustCompile(`^[\w-]+\.[\w-]*\.[\w-]*$`) // a JWT, RFC 7519 §3
)

// Job returns the job that has shown a token. Host is the name of this orchestrator,
// and fingerprint (SHA256:...) that of the key that logs in: the token has to be made
// out to them. The token is an id_token, or a CI_JOB_TOKEN of the only forge of kind
// gitlab. If there are several, https://gitlab-ci-token:CI_JOB_TOKEN@HOST says of which
// it is, as for git clone.
//
// The error says to an operator why the token is not good. It is fs.ErrBusy if that is
// not known: the same token may be good later, and the client that shows it has done
// nothing wrong.
func (f *Forges) Job(ctx context.Context, token, host, fingerprint string) (access.Job, error) {
	if len(token) > maxToken {
		return access.Job{}, fmt.Errorf("a token of %d bytes: no forge makes one of more than %d", len(token), maxToken)
	}
	token = strings.TrimSpace(token)
	secret, of := token, ""
	if u, err := url.Parse(token); err == nil && u.User.Username() == "gitlab-ci-token" {
		secret, _ = u.User.Password()
		of = strings.ToLower(u.Hostname())
	}
	switch {
	case jobTokenForm.MatchString(secret):
		return f.jobToken(ctx, of, secret)
	case idTokenForm.MatchString(token):
		return f.idToken(ctx, token, host, fingerprint)
	}
	return access.Job{}, errors.New("neither an id_token nor a CI_JOB_TOKEN")
}

// idToken returns the job of an id_token.
func (f *Forges) idToken(ctx context.Context, token, host, fingerprint string) (access.Job, error) {
	if host == "" {
		return access.Job{}, errors.New("id_token: this orchestrator has no name that it could be made out to: start it with -url")
	}
	signed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return access.Job{}, fmt.Errorf("id_token: %w", err)
	}
	var said jwt.Claims // by anybody: nothing is verified yet
	if err := json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &said); err != nil {
		return access.Job{}, fmt.Errorf("id_token: %w", err)
	}
	list := f.forges()
	i := slices.IndexFunc(list, func(fg *forge) bool { return fg.kind.jobs() && fg.issuer == said.Issuer })
	if i < 0 {
		return access.Job{}, fmt.Errorf("id_token of the issuer %.200q: %s has no forge with just this issuer%s", said.Issuer, f.file, issuers(list))
	}
	fg := list[i]
	payload, err := f.issuer(fg).verify(ctx, signed)
	if err == nil {
		var job access.Job
		if job, err = f.claims(fg, token, payload, host, fingerprint); err == nil {
			return job, nil
		}
	}
	return access.Job{}, fmt.Errorf("id_token of %s: %w", fg.host, err)
}

// claims returns the job of a payload that fg's issuer has signed.
func (f *Forges) claims(fg *forge, token string, payload []byte, host, fingerprint string) (access.Job, error) {
	var std jwt.Claims
	var all claims
	if err := errors.Join(json.Unmarshal(payload, &std), json.Unmarshal(payload, &all)); err != nil {
		return access.Job{}, err
	}
	now, bound := time.Now(), host+":"+fingerprint
	isBound := std.Audience.Contains(bound)
	switch {
	case std.Expiry == nil:
		return access.Job{}, errors.New("it has no end (exp)")
	case std.Expiry.Time().Sub(now) > maxLife:
		return access.Job{}, fmt.Errorf("it is good until %s: no job takes more than a month", clock(std.Expiry))
	case !isBound && !(fg.kind.fixedAudience && std.Audience.Contains(host)):
		want := fmt.Sprintf("%q", bound)
		if fg.kind.fixedAudience {
			want += fmt.Sprintf(" or %q", host)
		}
		return access.Job{}, fmt.Errorf("it is made out (aud) to %.300q, not to %s", []string(std.Audience), want)
	}
	if err := std.ValidateWithLeeway(jwt.Expected{Issuer: fg.issuer, Time: now}, leeway); err != nil {
		return access.Job{}, fmt.Errorf("from %s to %s, and here it is %s: %w", clock(std.NotBefore), clock(std.Expiry), ci.FormatTime(now), err)
	}
	job, err := fg.job(fg.kind.facts(all))
	if err != nil {
		return access.Job{}, err
	}
	job.Expires = std.Expiry.Time()
	if !isBound {
		id := sha256.Sum256([]byte(token[:strings.LastIndexByte(token, '.')]))
		err = f.replays.use(id, fingerprint, job.Principal, now, job.Expires.Add(leeway))
	}
	return job, err
}

func clock(t *jwt.NumericDate) string { return ci.FormatTime(t.Time()) } // nil is "-"

// forges returns the forges that the file has at present.
func (f *Forges) forges() []*forge {
	list, fresh := f.list()
	if fresh {
		f.mu.Lock()
		defer f.mu.Unlock()
		for url := range f.issuers { // the keys of those that stay are still good
			if !slices.ContainsFunc(list, func(fg *forge) bool { return fg.issuer == url }) {
				delete(f.issuers, url)
			}
		}
	}
	return list
}

// issuer returns the issuer of a forge.
func (f *Forges) issuer(fg *forge) *issuer {
	f.mu.Lock()
	defer f.mu.Unlock()
	is := f.issuers[fg.issuer]
	if is == nil {
		is = newIssuer(fg.issuer, f.transport)
		f.issuers[fg.issuer] = is
	}
	return is
}

// issuers returns what issuers there are, as the end of a sentence.
func issuers(list []*forge) string {
	var all []string
	for _, fg := range list {
		all = append(all, fg.issuer)
	}
	if len(all) == 0 {
		return ", nor any other"
	}
	return "; it has " + strings.Join(all, ", ")
}

// busy returns err as one that leaves open whether a token is good.
func busy(err error) error { return fmt.Errorf("%w: %w", fs.ErrBusy, err) }
