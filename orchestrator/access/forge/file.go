package forge

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/time/rate"

	"9ci/fs/ci"
	"9ci/orchestrator/access"
)

// File is the file of forges in a state directory.
const File = "forges"

// head is how the file begins.
const head = `# Forges whose CI jobs may log in to the namespaces of their repositories: a
# paragraph each, and an edit counts at once. All but kind may be left out.
#	kind=github			or gitlab, forgejo (Gitea too), oidc
#	host=github.com			as its namespaces begin; forgejo has no default
#	issuer=https://token.actions.githubusercontent.com
#					as its id_tokens have it (iss), to the letter
#	url=https://HOST		where the forge is, if elsewhere
#	namespace=github.com/alice/...	only of these, as in authorized_keys, A,B
# Without namespace= every repository of the forge may log in, each to its own.
#
# With client-id= people log in by it too, and may read and publish what they may
# there. Register the orchestrator at the forge with the redirect URI
# URL/callback/HOST (URL is that of -url): at GitHub as a GitHub App with Metadata:
# read and no other permission, whose user tokens expire, and which is installed where
# it is to see private repositories; at GitLab as an application with the scope
# read_api; at Forgejo as an OAuth2 application.
#	client-id=ID			that the forge has given
#	client-secret-file=FILE		a file beside this one, or its path; not inline
#	app=SLUG			GitHub's App in its URL, github.com/apps/SLUG
#	label=GitHub			what its button says
#
# With statuses-secret-file= the forge is told how runs of the namespaces ended: the
# commit gets the status passed or failed, with a link to the page. The file is beside
# this one, or its path. At GitHub (client-id= too) it has the App's private key, a .pem
# that GitHub makes, and the App has Commit statuses: read and write besides; at GitLab
# the access token of a Developer, with the scope api; at Forgejo and Gitea that of one
# who may write to the code, with write:repository.
#	statuses-secret-file=FILE
# A provider of OpenID Connect (kind=oidc) has an issuer= and people, no repositories.
`

// MakeFile makes the file path, which then has no forges and says how to write one,
// unless it is there.
func MakeFile(path string) error { return access.MakeFile(path, head) }

// A forge is one paragraph.
type forge struct {
	kind       kind
	host       string           // as namespaces begin
	issuer     string           // URL, as the id_tokens have it
	url        string           // of the instance, without a slash at its end
	namespaces []access.Pattern // none: all
	jobTokens  *rate.Limiter    // of CI_JOB_TOKENs that it is asked about

	clientID   string // of the orchestrator there; "": nobody logs in by it
	secretFile string // has the client's secret; "" for none
	app        string // a GitHub App's slug; "" if it is not known
	label      string // on its button
	*site

	statusFile string // has the secret to tell the forge how runs ended by; "": it is not told
	statusSite *site
	counted    string // whose requests the forge counts together, while it is told
}

// A kind is a software of forges.
type kind struct {
	name, host    string // host is the default; "": none
	issuer        func(host string) string
	facts         func(claims) facts
	groups        bool // a repository may have more than one owner above it
	fixedAudience bool // the audience of an id_token cannot name the key
	jobToken      bool // a job has a CI_JOB_TOKEN
	noID          string
	people        *people // how they log in
	statuses      *statuses
}

var kinds = []kind{
	{
		name: "github", host: "github.com",
		// An Enterprise Server has an issuer of its own, and so may an enterprise.
		issuer: func(host string) string {
			if host == "github.com" {
				return "https://token.actions.githubusercontent.com"
			}
			return "https://" + host + "/_services/token"
		},
		facts:  actionsFacts,
		noID:   "it has no repository_id: the forge is too old",
		people: githubPeople, statuses: githubStatuses,
	},
	{
		name: "gitlab", host: "gitlab.com",
		issuer: func(host string) string { return "https://" + host },
		facts:  gitlabFacts,
		groups: true, fixedAudience: true, jobToken: true,
		noID:   "it has no project_id",
		people: gitlabPeople, statuses: gitlabStatuses,
	},
	{
		name:   "forgejo",
		issuer: func(host string) string { return "https://" + host + "/api/actions" },
		facts:  actionsFacts,
		noID:   "it has no repository_id: this Forgejo is of the first that make id_tokens, update it",
		people: forgejoPeople, statuses: forgejoStatuses,
	},
	{name: "oidc", people: oidcPeople},
}

// principal returns what the principals of the forge's jobs and people begin with.
func (fg *forge) principal() string {
	switch fg.host {
	case "github.com":
		return "github"
	case "gitlab.com":
		return "gitlab"
	}
	return fg.host
}

// parse returns the forges of text. It logs the paragraphs that it cannot read; they
// count for nothing.
func parse(path string, text []byte, log *slog.Logger) (list []*forge) {
	for _, p := range paragraphs(text) {
		if p.err != nil {
			log.Error("state file", "err", fmt.Errorf("%s:%d: the paragraph is skipped: %w", path, p.line, p.err))
			continue
		}
		list = append(list, p.forge)
	}
	return list
}

// Check says what each paragraph of a file of forges lets in, to an operator. It
// reports an error if the file cannot be read.
func Check(path string) (all []access.Finding, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for _, p := range paragraphs(text) {
		f := access.Finding{File: path, Line: p.line, Err: p.err}
		if p.forge != nil {
			f.Who, f.Words = p.forge.host, p.forge.words()
			_, f.Err = p.forge.secret(filepath.Dir(path))
			if f.Err == nil && p.forge.statusFile != "" {
				_, f.Err = p.forge.readStatusSecret(filepath.Dir(path))
			}
		}
		all = append(all, f)
	}
	return all, nil
}

// Secrets returns the files of a state directory whose text nobody else may know, as far as
// they are there: the key of the accounts' tokens, and what its file of forges names.
func Secrets(dir string) (all []string) {
	names := []string{sealFile}
	if text, err := os.ReadFile(filepath.Join(dir, File)); err == nil {
		for _, p := range paragraphs(text) {
			if p.forge == nil {
				continue
			}
			for _, name := range []string{p.forge.secretFile, p.forge.statusFile} {
				if name != "" {
					names = append(names, name)
				}
			}
		}
	}
	for _, path := range names {
		if _, err := os.Stat(beside(dir, path)); err == nil {
			all = append(all, beside(dir, path))
		}
	}
	return all
}

// beside returns a file that the file of forges in dir names.
func beside(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// words returns what the paragraph lets in, as a sentence without a subject.
func (fg *forge) words() string {
	which := "any repository"
	if len(fg.namespaces) > 0 {
		which = "the repositories"
		for _, p := range fg.namespaces {
			which += " " + string(p)
		}
	}
	words := fmt.Sprintf("(%s, by %s)", fg.kind.name, fg.issuer)
	if fg.kind.jobs() {
		words += fmt.Sprintf(" lets in CI jobs of %s, each to its own namespace", which)
	}
	switch {
	case fg.clientID == "":
	case fg.kind.jobs():
		words += ", and people, to the namespaces that they may see there"
	default:
		words += " lets in people, to no namespaces of its own"
	}
	if fg.statusFile != "" {
		words += ", and is told how the runs of " + which + " ended"
	}
	return words
}

// A paragraph is some lines of the file: a forge, or why it is none.
type paragraph struct {
	line  int // its first, from 1
	forge *forge
	err   error
}

// paragraphs reads the file: lines attr=value with empty lines between paragraphs, and
// comments.
func paragraphs(text []byte) (all []paragraph) {
	var attrs []byte
	first, n := 0, 0
	end := func() {
		if len(attrs) == 0 {
			return
		}
		p := paragraph{line: first}
		if p.forge, p.err = parseForge(attrs); p.err == nil {
			for _, o := range all {
				if p.err == nil && o.forge != nil {
					p.err = o.clash(p.forge)
				}
			}
		}
		if p.err != nil {
			p.forge = nil
		}
		all, attrs = append(all, p), nil
	}
	for line := range bytes.Lines(text) {
		n++
		switch line = bytes.TrimSpace(line); {
		case len(line) == 0:
			end()
		case line[0] == '#':
		default:
			if len(attrs) == 0 {
				first = n
			}
			attrs = append(append(attrs, line...), '\n')
		}
	}
	end()
	return all
}

// clash returns why fg cannot stand beside the forge of p.
func (p paragraph) clash(fg *forge) error {
	switch {
	case p.forge.host == fg.host:
		return fmt.Errorf("line %d has the host %s already", p.line, fg.host)
	case p.forge.issuer == fg.issuer:
		return fmt.Errorf("line %d has the issuer %s already: one issuer vouches for one host", p.line, fg.issuer)
	}
	return nil
}

// attributes are those of a paragraph.
var attributes = []string{"kind", "host", "issuer", "url", "namespace", "client-id", "client-secret-file", "app", "label", "statuses-secret-file"}

func parseForge(text []byte) (*forge, error) {
	for line := range bytes.Lines(text) { // before anything can be said of its value
		if bytes.HasPrefix(line, []byte("client-secret=")) {
			return nil, errors.New("client-secret= is not taken: put the secret into a file of its own, and name that with client-secret-file=")
		}
	}
	attrs, err := ci.ParseAttrs(text)
	if err != nil {
		return nil, err
	}
	for _, a := range attrs {
		if !slices.Contains(attributes, a.Name) {
			return nil, fmt.Errorf("%s= is not known", a.Name) // it may be meant to narrow
		}
	}
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == attrs.Get("kind") })
	if i < 0 {
		return nil, fmt.Errorf("kind=%s: want github, gitlab, forgejo or oidc", attrs.Get("kind"))
	}
	fg := &forge{kind: kinds[i], host: attrs.Get("host"), issuer: attrs.Get("issuer"), url: attrs.Get("url"),
		jobTokens: rate.NewLimiter(jobTokenRate, jobTokenBurst), site: newSite(),
		clientID: attrs.Get("client-id"), secretFile: attrs.Get("client-secret-file"), app: attrs.Get("app"), label: attrs.Get("label"),
		statusFile: attrs.Get("statuses-secret-file"), statusSite: newSite()}
	if err := fg.checkPeople(attrs); err != nil {
		return nil, err
	}
	if fg.host == "" {
		fg.host = fg.kind.host
	}
	if fg.host == "" {
		return nil, errors.New("host= is missing: want the forge's name, as its namespaces begin")
	}
	if ns, err := ci.CleanNamespace(fg.host + "/owner/repo"); err != nil || ns != fg.host+"/owner/repo" || strings.Contains(fg.host, "/") {
		return nil, fmt.Errorf("host=%s: want a name as namespaces begin, in lower case, without https:// and port", fg.host)
	}
	if slices.Contains(reserved, fg.host) {
		return nil, fmt.Errorf("host=%s: want the whole name, as %s.example.org", fg.host, fg.host)
	}
	if fg.issuer == "" {
		fg.issuer = fg.kind.issuer(fg.host)
	}
	if fg.url == "" {
		fg.url = "https://" + fg.host
	}
	fg.url = strings.TrimSuffix(fg.url, "/")
	for _, u := range []ci.Attr{{Name: "issuer", Value: fg.issuer}, {Name: "url", Value: fg.url}} {
		if err := checkURL(u.Value, true); err != nil {
			return nil, fmt.Errorf("%s=%s: %w", u.Name, u.Value, err)
		}
	}
	if attrs.Has("namespace") {
		for _, s := range strings.Split(attrs.Get("namespace"), ",") {
			p, err := access.ParsePattern(strings.TrimSpace(s))
			if err != nil {
				return nil, err
			}
			fg.namespaces = append(fg.namespaces, p)
		}
	}
	return fg, nil
}

// reserved are what the principals of others than a forge with this name begin with.
var reserved = []string{"github", "gitlab", "token", "passkey"}

// checkPeople returns what is wrong with how people log in. It gives a provider of OpenID
// Connect the host of its issuer.
func (fg *forge) checkPeople(attrs ci.Attrs) error {
	if !fg.kind.jobs() {
		for _, name := range []string{"url", "namespace", "app", "statuses-secret-file"} {
			if attrs.Has(name) {
				return fmt.Errorf("%s= means nothing with kind=%s: it has no repositories", name, fg.kind.name)
			}
		}
		u, err := url.Parse(fg.issuer)
		if err != nil || u.Hostname() == "" || fg.clientID == "" {
			return fmt.Errorf("kind=%s wants issuer= and client-id=", fg.kind.name)
		}
		if fg.host == "" {
			fg.host = strings.ToLower(u.Hostname())
		}
		if i := slices.IndexFunc(kinds, func(k kind) bool { return k.host == fg.host }); i >= 0 {
			return fmt.Errorf("host=%s: its people log in with kind=%s", fg.host, kinds[i].name)
		}
		fg.url = fg.issuer
	}
	if fg.statusFile != "" && fg.clientID == "" && fg.kind.name == "github" {
		return errors.New("statuses-secret-file= without client-id=: GitHub wants to know of which App the key is")
	}
	if fg.clientID == "" {
		for _, name := range []string{"client-secret-file", "app", "label"} {
			if attrs.Has(name) {
				return fmt.Errorf("%s= without client-id=: nobody logs in by this forge", name)
			}
		}
		return nil
	}
	switch {
	case strings.ContainsFunc(fg.clientID, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return errors.New("client-id=: want printable ASCII characters")
	case fg.secretFile == "" && fg.kind.people.secret:
		return fmt.Errorf("client-secret-file= is missing: %s lets nobody in without a secret", fg.kind.name)
	case fg.app != "" && (fg.kind.people.install == nil || url.PathEscape(fg.app) != fg.app):
		return fmt.Errorf("app=%s: want the last word of the URL of a GitHub App", fg.app)
	}
	return nil
}

// jobs reports whether CI jobs of such a forge log in.
func (k kind) jobs() bool { return k.facts != nil }

// secret returns the client's secret, "" if it has none. Dir is where the file of forges
// is.
func (fg *forge) secret(dir string) (string, error) {
	if fg.secretFile == "" {
		return "", nil
	}
	return readSecret(dir, "client-secret-file=", fg.host, fg.secretFile)
}

// readSecret returns the line that a file has, which an attribute of a forge names.
func readSecret(dir, attr, host, file string) (string, error) {
	path := beside(dir, file)
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s of %s: %w", attr, host, err)
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" || len(secret) > maxSecret || strings.ContainsAny(secret, "\r\n") {
		return "", fmt.Errorf("%s of %s: %s: want the secret alone on one line", attr, host, path)
	}
	return secret, nil
}

const maxSecret = 4096 // bytes of a secret

// checkURL returns what keeps a URL from being asked whom to trust: anybody on the way
// may answer for http, but on this machine, if that is allowed.
func checkURL(s string, local bool) error {
	u, err := url.Parse(s)
	if err != nil {
		return errors.New("it is no URL")
	}
	switch {
	case u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("want https://HOST/PATH")
	case u.Scheme == "https" || u.Scheme == "http" && local && isLoopback(u.Hostname()):
		return nil
	}
	return errors.New("want https (http only on this machine): whoever answers says who may enter")
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
