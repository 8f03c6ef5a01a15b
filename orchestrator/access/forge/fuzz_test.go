package forge

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/time/rate"

	"9ci/fs/ci"
	"9ci/orchestrator/access/forge/forgetest"
)

// noNetwork has no servers.
type noNetwork struct{}

func (noNetwork) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no network")
}

// openKinds returns Forges of each kind without a network.
func openKinds(f *testing.F) *Forges {
	file := filepath.Join(f.TempDir(), "forges")
	if err := os.WriteFile(file, []byte("kind=github\n\nkind=gitlab\n\nkind=forgejo\nhost=forge.example\n"), 0o600); err != nil {
		f.Fatal(err)
	}
	forges, err := Open(file, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	forges.transport = noNetwork{}
	for _, fg := range forges.forges() {
		fg.jobTokens.SetLimit(rate.Inf)
	}
	return forges
}

// Whatever claims a forge signs, the job is of a namespace of that forge, and what it
// publishes is of one commit.
func FuzzClaims(f *testing.F) {
	forges := openKinds(f)
	for _, fg := range forges.forges() {
		issuer := &forgetest.Forge{Kind: fg.kind.name, URL: fg.url, Issuer: fg.issuer}
		for _, aud := range []string{bound, me, "x"} {
			payload, err := json.Marshal(issuer.Claims(aud))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(payload)
		}
	}
	f.Add([]byte(`{"exp":99999999999,"aud":["ci.example.org:SHA256:mine"],"iss":"https://gitlab.com","project_id":7,"project_path":"a/b","ref_protected":true}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, fg := range forges.forges() {
			job, err := forges.claims(fg, "a.b.c", payload, me, mine)
			if err != nil {
				continue
			}
			ns, err := ci.CleanNamespace(job.Namespace)
			id, ok := strings.CutPrefix(job.Principal, fg.principal()+":repo:")
			switch {
			case err != nil || ns != job.Namespace || !strings.HasPrefix(ns, fg.host+"/"):
				t.Errorf("namespace %q of %s: %v", job.Namespace, fg.host, err)
			case !ok || id != job.RepositoryID || !isID(id):
				t.Errorf("principal %q of the id %q", job.Principal, job.RepositoryID)
			case job.Publish && !isCommit(job.Commit):
				t.Errorf("it publishes for the commit %q", job.Commit)
			case job.Expires.IsZero() || job.Host != fg.host:
				t.Errorf("%+v", job)
			}
		}
	})
}

// A token that nobody vouches for gets nothing, and harms nothing.
func FuzzToken(f *testing.F) {
	forges := openKinds(f)
	key := forgetest.NewKey("a", "EdDSA")
	for _, fg := range forges.forges() {
		issuer := &forgetest.Forge{Kind: fg.kind.name, URL: fg.url, Issuer: fg.issuer}
		f.Add(forgetest.Sign(key, issuer.Claims(bound)))
	}
	for _, token := range jobTokens {
		f.Add(token)
		f.Add(at("gitlab.com", token))
	}
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		if job, err := forges.Job(t.Context(), token, me, mine); err == nil {
			t.Errorf("Job(%q) = %+v", token, job)
		}
	})
}

// Whatever the file has, what Check says of it is what counts.
func FuzzFile(f *testing.F) {
	f.Add([]byte(head))
	f.Add([]byte("kind=github\nnamespace=github.com/a/...\n\nkind=gitlab\nhost=x.example\nissuer=http://127.0.0.1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		hosts := map[string]bool{}
		for _, p := range paragraphs(text) {
			if (p.forge == nil) == (p.err == nil) {
				t.Fatalf("line %d: %+v, %v", p.line, p.forge, p.err)
			}
			if fg := p.forge; fg != nil {
				if hosts[fg.host] || checkURL(fg.issuer, true) != nil || checkURL(fg.url, true) != nil {
					t.Errorf("line %d: %+v", p.line, fg)
				}
				hosts[fg.host] = true
			}
		}
	})
}
