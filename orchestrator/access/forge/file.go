package forge

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"golang.org/x/time/rate"

	"9ci/fs/ci"
	"9ci/orchestrator/access"
)

// head is how the file begins.
const head = `# Forges whose CI jobs may log in to the namespaces of their repositories: a
# paragraph each, and an edit counts at once. All but kind may be left out.
#	kind=github			or gitlab, forgejo
#	host=github.com			as its namespaces begin; forgejo has no default
#	issuer=https://token.actions.githubusercontent.com
#					as its id_tokens have it (iss), to the letter
#	url=https://HOST		where its API is, if elsewhere
#	namespace=github.com/alice/...	only jobs of these, as in authorized_keys, A,B
# Without namespace= every repository of the forge may log in, each to its own.
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
		facts: actionsFacts,
		noID:  "it has no repository_id: the forge is too old",
	},
	{
		name: "gitlab", host: "gitlab.com",
		issuer: func(host string) string { return "https://" + host },
		facts:  gitlabFacts,
		groups: true, fixedAudience: true, jobToken: true,
		noID: "it has no project_id",
	},
	{
		name:   "forgejo",
		issuer: func(host string) string { return "https://" + host + "/api/actions" },
		facts:  actionsFacts,
		noID:   "it has no repository_id: this Forgejo is of the first that make id_tokens, update it",
	},
}

// principal returns what the principals of the forge's jobs begin with.
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
		}
		all = append(all, f)
	}
	return all, nil
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
	return fmt.Sprintf("(%s, by %s) lets in CI jobs of %s, each to its own namespace", fg.kind.name, fg.issuer, which)
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

func parseForge(text []byte) (*forge, error) {
	attrs, err := ci.ParseAttrs(text)
	if err != nil {
		return nil, err
	}
	for _, a := range attrs {
		if !slices.Contains([]string{"kind", "host", "issuer", "url", "namespace"}, a.Name) {
			return nil, fmt.Errorf("%s= is not known", a.Name) // it may be meant to narrow
		}
	}
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == attrs.Get("kind") })
	if i < 0 {
		return nil, fmt.Errorf("kind=%s: want github, gitlab or forgejo", attrs.Get("kind"))
	}
	fg := &forge{kind: kinds[i], host: attrs.Get("host"), issuer: attrs.Get("issuer"), url: attrs.Get("url"),
		jobTokens: rate.NewLimiter(jobTokenRate, jobTokenBurst)}
	if fg.host == "" {
		fg.host = fg.kind.host
	}
	if fg.host == "" {
		return nil, errors.New("host= is missing: want the forge's name, as its namespaces begin")
	}
	if ns, err := ci.CleanNamespace(fg.host + "/owner/repo"); err != nil || ns != fg.host+"/owner/repo" || strings.Contains(fg.host, "/") {
		return nil, fmt.Errorf("host=%s: want a name as namespaces begin, in lower case, without https:// and port", fg.host)
	}
	if fg.host == "github" || fg.host == "gitlab" { // the principals would be those of github.com
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
