package forge

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"9ci/fs/ci"
	"9ci/orchestrator/access"
)

// statuses are how a forge of a kind is told how runs ended.
type statuses struct {
	passed, failed string // the states
	give           string // what the operator has to do for the forge to take them
	own            string // what a user's own token needs for that

	// enter returns the API's path of a repository, and its number. The error is an
	// *access.ForbiddenError if there is none that takes statuses.
	enter func(f *Forges, ctx context.Context, fg *forge, path []string) (repo *told, err error)
	at    func(r repository) string // a repository in the API
	list  string                    // behind the path of a repository and its commit: the statuses of that
	post  func(s access.CommitStatus, state string) any
	gone  func(*reply) bool // whether an answer says that there is no such commit
	ask   bool              // whether the commit has to be asked for: the answer to post does not tell
}

// A told is a repository whose commits get statuses.
type told struct {
	api    string // the URL of the repository in the API
	id     string
	bearer secret
}

var githubStatuses = &statuses{
	passed: "success", failed: "failure",
	give:  "install the App there, with the permission Commit statuses: read and write",
	own:   "the token has to be of somebody who may push there, with the permission Commit statuses: read and write (classic: repo:status; of a job: permissions: statuses: write)",
	enter: (*Forges).enterGitHub,
	at:    repository.byName,
	list:  "/commits/%s/statuses?per_page=100",
	post:  postStatus,
	// 422 is of a context that has a thousand statuses, too.
	gone: func(r *reply) bool {
		return r.status == http.StatusUnprocessableEntity && strings.Contains(string(r.body), "No commit found")
	},
}

// gitlabStatuses: docs.gitlab.com/api/commits, "Commit status". A commit that no branch has
// gets none either: "404 References for commit Not Found".
var gitlabStatuses = &statuses{
	passed: "success", failed: "failed",
	give:  "make the owner of the token of statuses-secret-file= a Developer there or more (of a protected branch, one who may push or merge), and give the token the scope api",
	own:   "the token has to be of a Developer there or more (of a protected branch, of one who may push or merge), with the scope api",
	enter: (*Forges).enterGitLab,
	at:    func(r repository) string { return "/projects/" + strconv.FormatInt(r.ID, 10) },
	list:  "/repository/commits/%s/statuses?all=true&per_page=100",
	post: func(s access.CommitStatus, state string) any {
		return map[string]string{"state": state, "name": s.Context, "target_url": s.URL, "description": s.Description}
	},
	gone: func(r *reply) bool {
		return r.status == http.StatusNotFound && strings.Contains(strings.ToLower(string(r.body)), "commit not found")
	},
}

// forgejoStatuses are Forgejo's and Gitea's. These answer 500 to a status of a commit that
// they do not have.
var forgejoStatuses = &statuses{
	passed: "success", failed: "failure",
	give:  "let the owner of the token of statuses-secret-file= write to the code there, and give the token the scope write:repository",
	own:   "the token has to be of somebody who may write to the code there, with the scope write:repository",
	enter: (*Forges).enterForgejo,
	at:    repository.byName,
	list:  "/commits/%s/statuses?limit=50",
	post:  postStatus,
	gone:  func(r *reply) bool { return r.status == http.StatusNotFound },
	ask:   true,
}

// byName is the path of a repository at GitHub and Forgejo.
func (r repository) byName() string { return ownerRepo(strings.Split(r.FullName, "/")) }

// postStatus is GitHub's form: docs.github.com/rest/commits/statuses.
func postStatus(s access.CommitStatus, state string) any {
	return map[string]string{"state": state, "context": s.Context, "target_url": s.URL, "description": s.Description}
}

// A shownStatus is a status as forges list them: its state is state at GitHub, and status at the
// others; its context is name at GitLab.
type shownStatus struct {
	ID          int64  `json:"id"`
	State       string `json:"state"`
	Status      string `json:"status"`
	Context     string `json:"context"`
	Name        string `json:"name"`
	Description string `json:"description"`
}

// Tells reports whether the file has a forge that is to be told how runs of a namespace
// ended.
func (f *Forges) Tells(namespace string) bool {
	fg, _ := f.teller(namespace)
	return fg != nil
}

// TellsAny reports whether the file has any forge that is to be told.
func (f *Forges) TellsAny() bool {
	return slices.ContainsFunc(f.forges(), func(fg *forge) bool { return fg.statusFile != "" })
}

// teller returns the forge of a namespace that is to be told, and the path of the
// repository there; nil if there is none.
func (f *Forges) teller(namespace string) (*forge, []string) {
	host, rest, _ := strings.Cut(namespace, "/")
	list := f.forges()
	i := slices.IndexFunc(list, func(fg *forge) bool { return fg.statusFile != "" && fg.host == host && fg.has(namespace) })
	if i < 0 {
		return nil, nil
	}
	path := strings.Split(rest, "/")
	if len(path) < 2 || len(path) > 2 && !list[i].kind.groups {
		return nil, nil
	}
	fg := *list[i]
	fg.site = fg.statusSite // people wait for none of these
	if fg.counted = fg.host; fg.kind.name == "github" {
		fg.counted += "/" + path[0] // each installation of the App has a limit of its own
	}
	return &fg, path
}

// Tell gives a commit a status at its forge. The error is access.ErrNoCommit, an
// *access.ForbiddenError, an *access.RejectedError, or fs.ErrBusy if the forge does not
// take it at present. If it is fs.ErrBusy, the forge may have taken it: Told says.
func (f *Forges) Tell(ctx context.Context, s access.CommitStatus) error {
	fg, repo, err := f.enter(ctx, s)
	if err != nil {
		return err
	}
	return f.tell(ctx, fg, repo, s)
}

func (f *Forges) tell(ctx context.Context, fg *forge, repo *told, s access.CommitStatus) error {
	k := fg.kind.statuses
	if k.ask {
		r, err := f.askRepo(ctx, fg, repo, call{method: http.MethodGet, url: repo.api + "/git/commits/" + s.Commit + "?stat=false&verification=false&files=false"})
		if err == nil && r.status != http.StatusOK {
			err = f.refusal(fg, s, r)
		}
		if err != nil {
			return err
		}
	}
	state := k.failed
	if s.Passed {
		state = k.passed
	}
	r, err := f.askRepo(ctx, fg, repo, call{method: http.MethodPost, url: repo.api + "/statuses/" + s.Commit, body: k.post(s, state)})
	if err != nil {
		return err
	}
	if r.status != http.StatusCreated && r.status != http.StatusOK {
		return f.refusal(fg, s, r)
	}
	return nil
}

// Told reports whether a commit has the status at its forge, and no newer one of the same
// context. The error is as that of Tell.
func (f *Forges) Told(ctx context.Context, s access.CommitStatus) (bool, error) {
	fg, repo, err := f.enter(ctx, s)
	if err != nil {
		return false, err
	}
	return f.hasStatus(ctx, fg, repo, s)
}

func (f *Forges) hasStatus(ctx context.Context, fg *forge, repo *told, s access.CommitStatus) (bool, error) {
	r, err := f.askRepo(ctx, fg, repo, call{method: http.MethodGet, url: repo.api + fmt.Sprintf(fg.kind.statuses.list, s.Commit)})
	if err != nil {
		return false, err
	}
	switch r.status {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusUnprocessableEntity:
		return false, nil // of a commit that is not there, or of no commit: Tell says
	default:
		return false, f.refusal(fg, s, r)
	}
	var all []shownStatus
	if err := fg.decode(r, &all); err != nil {
		return false, err
	}
	var last shownStatus
	for _, is := range all {
		// GitHub ignores the case of contexts.
		if (strings.EqualFold(is.Context, s.Context) || is.Name == s.Context) && is.ID >= last.ID {
			last = is
		}
	}
	return last.Description == s.Description, nil
}

// enter returns the repository of a status and the forge that has it.
func (f *Forges) enter(ctx context.Context, s access.CommitStatus) (*forge, *told, error) {
	fg, path := f.teller(s.Namespace)
	if fg == nil {
		return nil, nil, &access.ForbiddenError{Words: fmt.Sprintf("%s has no forge with statuses-secret-file= for %s", f.file, s.Namespace)}
	}
	repo, err := fg.kind.statuses.enter(f, ctx, fg, path)
	if err != nil {
		return nil, nil, err
	}
	if f.pins == nil {
		return fg, repo, nil
	}
	// The repository that has taken the name of another did not make these runs.
	if err := f.pins.Know(s.Namespace, fg.host, repo.id); errors.Is(err, access.ErrOtherRepository) {
		return nil, nil, &access.ForbiddenError{Words: err.Error()}
	} else if err != nil {
		return nil, nil, busy(err)
	}
	return fg, repo, nil
}

// askRepo does a call as what the forge is told by. The error is fs.ErrBusy.
func (f *Forges) askRepo(ctx context.Context, fg *forge, repo *told, c call) (*reply, error) {
	c.Bearer = repo.bearer
	return f.askStatus(ctx, fg, c)
}

func (f *Forges) askStatus(ctx context.Context, fg *forge, c call) (*reply, error) {
	if until := f.installed.paused(fg.counted); !until.IsZero() {
		return nil, errPaused(fg, until)
	}
	r, err := fg.ask(ctx, f.staying(), c)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if wait := r.wait(now); wait > 0 {
		f.installed.pause(fg.counted, now.Add(wait))
		return nil, errPaused(fg, now.Add(wait))
	}
	if r.status == http.StatusConflict { // GitLab: another one is being taken
		return nil, busy(fmt.Errorf("%s: status %d", fg.host, r.status))
	}
	return r, nil
}

func errPaused(fg *forge, until time.Time) error {
	return busy(fmt.Errorf("%s has had enough statuses and asks to wait until %s", fg.counted, ci.FormatTime(until)))
}

// refusal returns the error for an answer about a commit.
func (f *Forges) refusal(fg *forge, s access.CommitStatus, r *reply) error {
	k := fg.kind.statuses
	switch {
	case k.gone(r):
		return access.ErrNoCommit
	case r.status == http.StatusUnauthorized || r.status >= 300 && r.status < 400 || slices.Contains(absentStatus, r.status):
		if f.dropInstalled(s.Namespace, time.Now()) {
			return busy(fmt.Errorf("%s takes a token no more (%d)", fg.host, r.status))
		}
		return fg.forbidden(strings.TrimPrefix(s.Namespace, fg.host+"/"), r.status)
	}
	return &access.RejectedError{Words: fmt.Sprintf("%s does not take the status: %d: %.200q", fg.host, r.status, r.body)}
}

// forbidden returns the error for a repository that takes no statuses.
func (fg *forge) forbidden(path string, status int) error {
	if fg.statusFile == "" {
		return &access.ForbiddenError{Words: fmt.Sprintf("%s does not let this token give a status to a commit of %s (%d): %s", fg.host, path, status, fg.kind.statuses.own)}
	}
	words := fmt.Sprintf("%s lets the orchestrator give no status to a commit of %s (%d): %s", fg.host, path, status, fg.kind.statuses.give)
	if install := fg.kind.people.install; install != nil {
		if page := install(fg); page != "" {
			words += ": " + page
		}
	}
	return &access.ForbiddenError{Words: words}
}

// statusSecret returns what statuses-secret-file= of fg has.
func (f *Forges) statusSecret(fg *forge) (secret, error) {
	s, err := fg.readStatusSecret(string(f.dir))
	if err != nil {
		return "", &access.ForbiddenError{Words: err.Error()}
	}
	return secret(s), nil
}

// enterForgejo asks for a repository of Forgejo's or Gitea's.
func (f *Forges) enterForgejo(ctx context.Context, fg *forge, path []string) (*told, error) {
	return f.enterByToken(ctx, fg, path)
}

// enterGitLab asks for a project, which from then on is known by its number.
func (f *Forges) enterGitLab(ctx context.Context, fg *forge, path []string) (*told, error) {
	return f.enterByToken(ctx, fg, path)
}

func (f *Forges) enterByToken(ctx context.Context, fg *forge, path []string) (*told, error) {
	bearer, err := f.statusSecret(fg)
	if err != nil {
		return nil, err
	}
	return f.enterAs(ctx, fg, bearer, path)
}

// enterAs asks for a repository with a bearer.
func (f *Forges) enterAs(ctx context.Context, fg *forge, bearer secret, path []string) (*told, error) {
	p := fg.kind.people
	r, err := f.askStatus(ctx, fg, call{method: http.MethodGet, url: p.api(fg) + p.project(path), Bearer: bearer})
	if err != nil {
		return nil, err
	}
	name := strings.Join(path, "/")
	if r.status != http.StatusOK {
		return nil, fg.forbidden(name, r.status)
	}
	var repo repository
	if err := fg.decode(r, &repo); err != nil {
		return nil, err
	}
	id := strconv.FormatInt(repo.ID, 10)
	if is := repo.FullName + repo.Path; !isID(id) || !strings.EqualFold(is, name) {
		return nil, fg.forbidden(name, http.StatusNotFound)
	}
	return &told{api: p.api(fg) + fg.kind.statuses.at(repo), id: id, bearer: bearer}, nil
}

// installed are GitHub's tokens for one repository each, and until when forges are to be
// told nothing.
type installed struct {
	mu     sync.Mutex                // guards what follows
	all    map[string]installedToken // by namespace
	pauses map[string]time.Time      // by forge.counted
}

func (i *installed) pause(counted string, until time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.pauses == nil {
		i.pauses = map[string]time.Time{}
	}
	i.pauses[counted] = until
}

// paused returns until when a forge is to be told nothing, zero if it may be told.
func (i *installed) paused(counted string) time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	until := i.pauses[counted]
	if !time.Now().Before(until) {
		delete(i.pauses, counted)
		return time.Time{}
	}
	return until
}

type installedToken struct {
	told
	key     string // of the App, that got it
	since   time.Time
	expires time.Time
}

const (
	maxInstalled = 10000           // tokens that are remembered, of 500 bytes each
	appLife      = 9 * time.Minute // of what the App says it is; GitHub takes ten minutes
)

// dropInstalled forgets the token for a repository, which the forge takes no more. It
// reports whether another one may be better: that one was not got just now.
func (f *Forges) dropInstalled(namespace string, now time.Time) bool {
	f.installed.mu.Lock()
	defer f.installed.mu.Unlock()
	t, ok := f.installed.all[namespace]
	delete(f.installed.all, namespace)
	return ok && now.Sub(t.since) > time.Minute
}

// enterGitHub gets a token of the App's installation that can do nothing but write statuses
// to one repository:
// docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/generating-an-installation-access-token-for-a-github-app
func (f *Forges) enterGitHub(ctx context.Context, fg *forge, path []string) (*told, error) {
	key, err := f.statusSecret(fg)
	if err != nil {
		return nil, err
	}
	name := strings.Join(path, "/")
	namespace := fg.host + "/" + name
	now := time.Now()
	f.installed.mu.Lock()
	known, ok := f.installed.all[namespace]
	f.installed.mu.Unlock()
	if ok && known.key == string(key) && now.Add(renewTime).Before(known.expires) {
		return &known.told, nil
	}
	app, err := appToken(fg, key, now)
	if err != nil {
		return nil, &access.ForbiddenError{Words: err.Error()}
	}
	api := githubAPI(fg)
	var at struct {
		ID int64 `json:"id"`
	}
	r, err := f.askStatus(ctx, fg, call{method: http.MethodGet, url: api + ownerRepo(path) + "/installation", Bearer: app})
	if err != nil {
		return nil, err
	}
	if r.status == http.StatusUnauthorized {
		return nil, &access.ForbiddenError{Words: fmt.Sprintf("%s does not know the App by client-id= and statuses-secret-file=: make the App a new private key", fg.host)}
	}
	if r.status != http.StatusOK {
		return nil, fg.forbidden(name, r.status)
	}
	if err := fg.decode(r, &at); err != nil {
		return nil, err
	}
	r, err = f.askStatus(ctx, fg, call{method: http.MethodPost, url: api + "/app/installations/" + strconv.FormatInt(at.ID, 10) + "/access_tokens", Bearer: app,
		body: map[string]any{"repositories": path[1:], "permissions": map[string]string{"statuses": "write"}}})
	if err != nil {
		return nil, err
	}
	if r.status != http.StatusCreated { // 422 if the installation has not that permission
		return nil, fg.forbidden(name, r.status)
	}
	var got struct {
		Token        secret       `json:"token"`
		Expires      time.Time    `json:"expires_at"`
		Repositories []repository `json:"repositories"`
	}
	if err := fg.decode(r, &got); err != nil {
		return nil, err
	}
	if len(got.Repositories) != 1 || !strings.EqualFold(got.Repositories[0].FullName, name) || got.Token == "" {
		return nil, fg.forbidden(name, http.StatusNotFound)
	}
	t := installedToken{told{api + ownerRepo(path), strconv.FormatInt(got.Repositories[0].ID, 10), got.Token}, string(key), now, got.Expires}
	f.installed.mu.Lock()
	defer f.installed.mu.Unlock()
	if f.installed.all == nil || len(f.installed.all) >= maxInstalled {
		f.installed.all = map[string]installedToken{} // those that are needed are got again
	}
	f.installed.all[namespace] = t
	return &t.told, nil
}

// appToken returns the JWT that says that the orchestrator is the App.
func appToken(fg *forge, key secret, now time.Time) (secret, error) {
	private, err := parseAppKey([]byte(key))
	if err != nil {
		return "", fmt.Errorf("statuses-secret-file= of %s: %w", fg.host, err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: private}, nil)
	if err != nil {
		return "", err
	}
	// A minute before now, as GitHub's clock may be behind ours.
	text, err := jwt.Signed(signer).Claims(jwt.Claims{Issuer: fg.clientID, IssuedAt: jwt.NewNumericDate(now.Add(-leeway)), Expiry: jwt.NewNumericDate(now.Add(appLife))}).Serialize()
	return secret(text), err
}

// parseAppKey reads the private key of an App, which GitHub gives as PKCS #1 in PEM.
func parseAppKey(text []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("want the App's private key, the .pem file that GitHub has given")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("want the App's private key, an RSA key in PEM: this is none")
	}
	private, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("want the App's private key, of RSA: this is a %T", key)
	}
	return private, nil
}

// maxAppKey is how many bytes the file of a private key may have. One of RSA 8192 has 6400.
const maxAppKey = 16 << 10

// readStatusSecret returns what statuses-secret-file= has. Dir is where the file of forges
// is.
func (fg *forge) readStatusSecret(dir string) (string, error) {
	if fg.kind.name != "github" {
		return readSecret(dir, "statuses-secret-file=", fg.host, fg.statusFile)
	}
	path := beside(dir, fg.statusFile)
	text, err := os.ReadFile(path)
	if err == nil && len(text) > maxAppKey {
		err = errors.New("it is too large for a key")
	}
	if err == nil {
		_, err = parseAppKey(text)
	}
	if err != nil {
		return "", fmt.Errorf("statuses-secret-file= of %s: %s: %w", fg.host, path, err)
	}
	return string(text), nil
}
