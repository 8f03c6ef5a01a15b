package forge

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/access/forge/forgetest"
)

const (
	callback = "https://ci.example.org/callback/here"
	state    = "state-state-state-state-state-state-state-state"
	nonce    = "nonce-nonce-nonce-nonce-nonce-nonce-nonce-nonce"
	verifier = "verifier-verifier-verifier-verifier-verifier-verifier"
)

// A village is Forges with one that people log in by, in a bubble of synctest.
type village struct {
	*testing.T
	*Forges
	site *forgetest.Site
	host string
	dir  string
	kept *keeper
	log  *bytes.Buffer
	said []string // errors that were returned
}

// A keeper keeps the tokens of accounts.
type keeper struct {
	mu     sync.Mutex
	tokens map[string][]byte
	err    error // of SetToken
}

func (k *keeper) Token(principal string) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return bytes.Clone(k.tokens[principal]), nil
}

func (k *keeper) SetToken(principal string, old, sealed []byte) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return false, k.err
	}
	if !bytes.Equal(k.tokens[principal], old) {
		return false, nil
	}
	if sealed == nil {
		delete(k.tokens, principal)
	} else {
		k.tokens[principal] = bytes.Clone(sealed)
	}
	return true, nil
}

func (k *keeper) set(principal string, sealed []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tokens[principal] = sealed
}

func (k *keeper) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

// inVillage runs f in a bubble for each kind. Afterwards nothing that was logged,
// returned or written may have a secret.
func inVillage(t *testing.T, kinds []string, f func(t *testing.T, v *village)) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVillage(t, kind)
				f(t, v)
				v.Close()
				v.nothingSaid()
			})
		})
	}
}

func newVillage(t *testing.T, kind string) *village {
	v := &village{T: t, site: forgetest.NewSite(kind, "http://127.0.0.1:8080"), host: hosts[kind], dir: t.TempDir(), kept: &keeper{tokens: map[string][]byte{}}, log: &bytes.Buffer{}}
	v.site.AddPerson(forgetest.Person{ID: 12, Login: "alice", Name: "Alice A."})
	v.site.AddRepo(forgetest.Repo{ID: 74, Path: "alice/hello", Visibility: "private", Members: map[string]int{"alice": forgetest.Developer}, App: true})
	if err := os.WriteFile(filepath.Join(v.dir, "secret"), []byte(v.site.Secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v.write()
	v.Forges = v.open()
	return v
}

// write writes the file of forges.
func (v *village) write(attrs ...string) {
	v.Helper()
	if v.site.Kind == "github" {
		attrs = append(attrs, "app=nine-ci")
	}
	text := fmt.Sprintf("kind=%s\nhost=%s\nurl=%s\nclient-id=%s\nclient-secret-file=secret\n%s\n", v.site.Kind, v.host, v.site.URL, v.site.ClientID, strings.Join(attrs, "\n"))
	if err := os.WriteFile(filepath.Join(v.dir, "forges"), []byte(text), 0o600); err != nil {
		v.Fatal(err)
	}
}

// open returns Forges of the directory, as after a restart.
func (v *village) open() *Forges {
	v.Helper()
	f, err := Open(filepath.Join(v.dir, "forges"), slog.New(slog.NewTextHandler(v.log, nil)))
	if err == nil {
		err = f.Keep(v.kept)
	}
	if err != nil {
		v.Fatal(err)
	}
	f.transport = pipes(v.T, v.site)
	return f
}

func (v *village) nothingSaid() {
	v.Helper()
	said := strings.Join(v.said, "\n") + v.log.String()
	files, err := filepath.Glob(filepath.Join(v.dir, "*"))
	if err != nil {
		v.Fatal(err)
	}
	for _, file := range files {
		if slices.Contains([]string{"secret", "teller"}, filepath.Base(file)) { // the operator has written them
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			v.Fatal(err)
		}
		said += string(text)
	}
	for _, sealed := range v.kept.tokens {
		said += string(sealed)
	}
	for _, s := range append(v.site.Secrets(), verifier, strings.Repeat("Z", 100)) {
		if s != "" && strings.Contains(said, s) {
			v.Errorf("%.12q... is in what was logged, returned or written", s)
		}
	}
}

// say notes an error for nothingSaid.
func (v *village) say(err error) error {
	if err != nil {
		v.said = append(v.said, err.Error(), fmt.Sprintf("%+v %#v", err, err))
	}
	return err
}

// visit returns the answer that the browser brings.
func (v *village) visit() url.Values {
	v.Helper()
	page, err := v.Begin(v.host, callback, state, nonce, verifier)
	if err != nil {
		v.Fatal(err)
	}
	answer, err := v.site.Visit(page)
	if err != nil {
		v.Fatal(err)
	}
	return answer
}

func (v *village) finish(answer url.Values) (Person, []byte, error) {
	p, sealed, err := v.Finish(v.Context(), v.host, callback, answer, nonce, verifier)
	return p, sealed, v.say(err)
}

// login logs in whoever is at the browser, and returns the account.
func (v *village) login() string {
	v.Helper()
	p, sealed, err := v.finish(v.visit())
	if err != nil || len(sealed) == 0 {
		v.Fatalf("Finish = %+v, %d bytes, %v", p, len(sealed), err)
	}
	v.kept.set(p.Principal, sealed)
	return p.Principal
}

func (v *village) ns(path string) string { return v.host + "/" + path }

// remembered returns what Access would return without asking, if the account may read.
func (f *Forges) remembered(principal, namespace string) (a Access, ok bool) {
	q := f.question(principal, namespace)
	if q == nil {
		return Access{}, false
	}
	a, err, ok := f.known(q)
	return a, ok && err == nil
}

// may returns what an account may do, as a word.
func (v *village) may(principal, path string) string {
	v.Helper()
	a, err := v.Access(v.Context(), principal, v.ns(path), time.Time{})
	v.say(err)
	cached, ok := v.remembered(principal, v.ns(path))
	if ok != (err == nil) || cached != a {
		v.Errorf("remembered: %+v, %v after Access = %+v, %v", cached, ok, a, err)
	}
	var absent *AbsentError
	switch {
	case errors.As(err, &absent):
		install := ""
		if v.site.Kind == "github" {
			install = map[bool]string{true: v.site.URL + "/apps/nine-ci/installations/new", false: ""}[v.host == "github.com"]
		}
		if !errors.Is(err, iofs.ErrNotExist) || absent.Install != install || absent.Namespace != v.ns(path) {
			v.Errorf("the error is %+v", absent)
		}
		return "absent"
	case errors.Is(err, ErrLogin):
		return "login"
	case errors.Is(err, fs.ErrBusy):
		return "busy"
	case err != nil:
		return err.Error()
	case a.Publish && a.Read:
		return "publish"
	case a.Read:
		return "read"
	}
	return fmt.Sprintf("%+v", a)
}

func (v *village) want(what, principal, path, want string) {
	v.Helper()
	if got := v.may(principal, path); got != want {
		v.Errorf("%s: %s may %s %s, want %s; the log: %s; %q", what, principal, got, path, want, v.log, v.said)
	}
}

func (v *village) principal(id string) string {
	return map[string]string{"github": "github:", "gitlab": "gitlab:", "forgejo": "forge.example:"}[v.site.Kind] + id
}

// Somebody logs in by each kind of forge, and is known by a number.
func TestLogin(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		want := Info{v.host, v.site.Kind, map[string]string{"github": "GitHub", "gitlab": "GitLab", "forgejo": "forge.example"}[v.site.Kind]}
		if list := v.List(); len(list) != 1 || list[0] != want {
			t.Errorf("List = %+v, want %+v", list, want)
		}
		answer := v.visit()
		if answer.Get("state") != state {
			t.Errorf("the answer is %v", answer)
		}
		p, sealed, err := v.finish(answer)
		if (p != Person{v.principal("12"), "alice", "Alice A."}) || err != nil {
			t.Fatalf("Finish = %+v, %v", p, err)
		}
		if p, _, err := v.finish(answer); err == nil {
			t.Errorf("the answer was good twice: %+v", p)
		}
		v.kept.set(p.Principal, sealed)
		v.want("a member", p.Principal, "alice/hello", "publish")
		v.write("label=Ours")
		if list := v.List(); len(list) != 1 || list[0].Label != "Ours" {
			t.Errorf("List = %+v after an edit", list)
		}
	})
}

// A client without a secret is held by PKCE alone. GitHub has none.
func TestPublicClient(t *testing.T) {
	inVillage(t, []string{"gitlab", "forgejo"}, func(t *testing.T, v *village) {
		v.site.Secret = ""
		text := fmt.Sprintf("kind=%s\nhost=%s\nurl=%s\nclient-id=%s\n", v.site.Kind, v.host, v.site.URL, v.site.ClientID)
		if err := os.WriteFile(filepath.Join(v.dir, "forges"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		alice := v.login()
		time.Sleep(9 * time.Hour)
		v.want("renewed", alice, "alice/hello", "publish")
		sealed, _ := v.kept.Token(alice)
		if err := v.say(v.Forget(t.Context(), alice, sealed)); err != nil {
			t.Error(err)
		}
	})
}

// Whoever has refused, took too long or brings another answer than the forge's does not
// get in, and the words say what to do.
func TestLoginRefused(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		refused := func(what string, answer url.Values, words string) {
			t.Helper()
			p, sealed, err := v.finish(answer)
			var r *access.RefusedError
			if !errors.As(err, &r) || !strings.Contains(r.Words, words) || sealed != nil || p != (Person{}) {
				t.Errorf("%s: Finish = %+v, %d bytes, %v, want the words %q", what, p, len(sealed), err, words)
			}
		}
		with := func(name string, values ...string) url.Values {
			t.Helper()
			answer := v.visit()
			answer[name] = values
			return answer
		}
		const no, late = "no answer to this login: log in again", "taken too long"
		refused("nothing", url.Values{}, no)
		refused("an empty code", with("code", ""), no)
		refused("two codes", with("code", "a", "b"), no)
		refused("a long code", with("code", strings.Repeat("Z", maxToken+1)), no)
		refused("two states", with("state", state, state), no)
		refused("another forge's", with("iss", "https://mallory.example"), no)
		refused("an empty issuer", with("iss", ""), no)
		refused("a code that is none", with("code", "guess"), late)
		refused("an error", with("error", "server_error"), "lets nobody in at present")
		v.site.LogIn("")
		refused("a no", v.visit(), "told not to let you in")
		v.site.LogIn("alice")

		for _, iss := range []string{v.site.URL, v.site.URL + "/login/oauth"} { // GitHub's metadata have the second
			if _, _, err := v.finish(with("iss", iss)); err != nil {
				t.Errorf("its own issuer %s: %v", iss, err)
			}
		}
		answer := v.visit()
		time.Sleep(11 * time.Minute)
		refused("after the code's end", answer, late)

		answer = v.visit()
		for what, tt := range map[string][2]string{
			"another verifier":     {callback, verifier + "x"},
			"another redirect URI": {callback + "2", verifier},
		} {
			if _, _, err := v.Finish(t.Context(), v.host, tt[0], answer, nonce, tt[1]); v.say(err) == nil {
				t.Errorf("%s: it is let in", what)
			}
		}
		if _, _, err := v.finish(answer); err != nil {
			t.Errorf("the answer itself: %v", err)
		}

		if err := os.WriteFile(filepath.Join(v.dir, "secret"), []byte("another"), 0o600); err != nil {
			t.Fatal(err)
		}
		refused("a wrong client secret", v.visit(), "does not know this orchestrator")
		if err := os.Remove(filepath.Join(v.dir, "secret")); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Begin(v.host, callback, state, nonce, verifier); err == nil || !strings.Contains(err.Error(), "client-secret-file") {
			t.Errorf("Begin without the secret's file: %v", err)
		}
		if _, err := v.Begin("mallory.example", callback, state, nonce, verifier); err == nil {
			t.Error("Begin of a forge that is none")
		}
		if _, err := v.Begin(v.host, callback, "short", nonce, verifier); err == nil {
			t.Error("Begin with a short state")
		}
	})
}

// A forge that fails says nothing of anybody, and the login may be tried again.
func TestLoginForgeDown(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		for what, say := range faults {
			for _, path := range []string{"token", "/user"} {
				answer := v.visit()
				v.site.Say(func(w http.ResponseWriter, r *http.Request) bool {
					if !strings.HasSuffix(r.URL.Path, path) {
						return false
					}
					say(w, r)
					return true
				})
				_, _, err := v.finish(answer)
				if !errors.Is(err, fs.ErrBusy) {
					t.Errorf("%s of %s: %v, want %v", what, path, err, fs.ErrBusy)
				}
				v.site.Say(nil)
				time.Sleep(downPause)
			}
		}
		v.login()
	})
}

// faults are what a forge does that is not well.
var faults = map[string]http.HandlerFunc{
	"an error":   func(w http.ResponseWriter, r *http.Request) { http.Error(w, echo(r), http.StatusInternalServerError) },
	"being down": func(w http.ResponseWriter, r *http.Request) { http.Error(w, echo(r), http.StatusServiceUnavailable) },
	"a page":     func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>"+echo(r)) },
	"nothing":    func(w http.ResponseWriter, r *http.Request) {},
	"no JSON": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"id":"x`+echo(r))
	},
	"a hang-up": func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
	"silence":   func(w http.ResponseWriter, r *http.Request) { silence(r) },
	"too much": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"id":"`+strings.Repeat("Z", 2*maxAnswer))
	},
	"a redirect": func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://mallory.example"+r.URL.Path, http.StatusFound)
	},
	"its own redirect": func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path+"?again", http.StatusTemporaryRedirect)
	},
	"a full header":     func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X", strings.Repeat("Z", 1<<17)) },
	"too many requests": func(w http.ResponseWriter, r *http.Request) { http.Error(w, echo(r), http.StatusTooManyRequests) },
}

// silence waits for the client to go. The server notices that once it has read all.
func silence(r *http.Request) {
	io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// echo is what a careless server shows of a request.
func echo(r *http.Request) string {
	body, _ := io.ReadAll(r.Body)
	return fmt.Sprintf("%s %v %s", r.URL, r.Header, body)
}

// What the forge says is what somebody may do.
func TestAccess(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		v.site.AddPerson(forgetest.Person{ID: 13, Login: "bob"})
		n := int64(100)
		add := func(path, visibility string, level int) {
			n++
			v.site.AddRepo(forgetest.Repo{ID: n, Path: path, Visibility: visibility, Members: map[string]int{"bob": level}, App: true})
		}
		bob := v.login()
		for _, tt := range []struct {
			path, visibility string
			level            int
			want             string
		}{
			{"o/public", "public", 0, "read"},
			{"o/public-guest", "public", forgetest.Guest, "read"},
			{"o/public-developer", "public", forgetest.Developer, "publish"},
			{"o/private", "private", 0, "absent"},
			{"o/private-guest", "private", forgetest.Guest, "absent"},
			{"o/private-reporter", "private", forgetest.Reporter, "read"},
			{"o/private-developer", "private", forgetest.Developer, "publish"},
			{"o/private-owner", "private", 50, "publish"},
		} {
			add(tt.path, tt.visibility, tt.level)
			v.want(tt.path, bob, tt.path, tt.want)
		}
		v.want("none", bob, "o/none", "absent")
		v.want("another's", bob, "alice/hello", "absent")
		asked := v.site.Asked("o/private-reporter")
		for range 10 {
			v.want("again", bob, "o/private-reporter", "read")
		}
		if n := v.site.Asked("o/private-reporter"); n != asked || n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
		// Who has no account there, and what is not the forge's, is not asked about.
		for _, q := range [][2]string{
			{"passkey:12", v.ns("o/public")}, {"token:12", v.ns("o/public")}, {v.principal("repo:12"), v.ns("o/public")}, {v.principal(""), v.ns("o/public")},
			{v.principal("012"), v.ns("o/public")}, {"mallory.example:12", v.ns("o/public")}, {bob, "mallory.example/o/public"}, {bob, v.ns("o")},
			{bob, v.ns("o/../public")}, {bob, v.ns("o/public/")}, {bob, "local/x"}, {bob, v.ns("o//public")}, {bob, v.host}, {"", ""},
		} {
			_, err := v.Access(t.Context(), q[0], q[1], time.Time{})
			if _, ok := v.remembered(q[0], q[1]); !errors.Is(err, iofs.ErrNotExist) || ok {
				t.Errorf("Access(%q): %v, cached: %v", q, err, ok)
			}
		}
		v.want("of somebody whose token is gone", v.principal("14"), "o/public", "login")
		v.write("namespace=" + v.ns("alice/..."))
		if _, err := v.Access(t.Context(), bob, v.ns("o/public"), time.Time{}); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("left out by the file: %v", err)
		}
	})
}

// GitLab's levels may come from groups, and from groups that a project is shared with,
// which the project does not tell.
func TestAccessGitLab(t *testing.T) {
	inVillage(t, []string{"gitlab"}, func(t *testing.T, v *village) {
		alice := v.login()
		v.site.AddRepo(forgetest.Repo{ID: 1, Path: "g/sub/shared", Visibility: "private", Invited: map[string]int{"alice": forgetest.Developer}})
		v.site.AddRepo(forgetest.Repo{ID: 2, Path: "g/sub/read", Visibility: "private", Invited: map[string]int{"alice": forgetest.Reporter}})
		v.site.AddRepo(forgetest.Repo{ID: 3, Path: "g/internal", Visibility: "internal"})
		v.want("shared with a group of developers", alice, "g/sub/shared", "publish")
		v.want("shared with a group of reporters", alice, "g/sub/read", "read")
		v.want("internal", alice, "g/internal", "read")
		v.want("another subgroup", alice, "g/shared", "absent")
		v.site.Say(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/members/") {
				http.Error(w, "x", http.StatusBadGateway)
				return true
			}
			return false
		})
		time.Sleep(rightsFresh)
		v.want("while members cannot be asked", alice, "g/sub/shared", "busy")
		v.want("a member of the project itself", alice, "alice/hello", "busy") // the site is down
		time.Sleep(downPause)
		v.want("a member of the project itself", alice, "alice/hello", "publish")
	})
}

// GitHub shows private repositories to an App that is installed there: the error says
// where that is done.
func TestAccessInstall(t *testing.T) {
	inVillage(t, []string{"github"}, func(t *testing.T, v *village) {
		alice := v.login()
		v.site.Change(74, func(r *forgetest.Repo) { r.App = false })
		_, err := v.Access(t.Context(), alice, v.ns("alice/hello"), time.Time{})
		if err == nil || !strings.Contains(err.Error(), "the app is not installed there: http://127.0.0.1:8080/apps/nine-ci/installations/new") {
			t.Errorf("Access: %v", err)
		}
		v.site.Change(74, func(r *forgetest.Repo) { r.App = true })
		time.Sleep(absentFresh)
		v.want("once it is installed", alice, "alice/hello", "publish")
	})
	for url, want := range map[string]string{
		"host=github.com":       "https://github.com/apps/x/installations/new https://api.github.com",
		"host=octocorp.ghe.com": "https://octocorp.ghe.com/apps/x/installations/new https://api.octocorp.ghe.com",
		"host=git.example":      "https://git.example/github-apps/x/installations/new https://git.example/api/v3",
	} {
		fg, err := parseForge([]byte("kind=github\nclient-id=a\nclient-secret-file=b\napp=x\n" + url + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := fg.kind.people.install(fg) + " " + fg.kind.people.api(fg); got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}

// A namespace stands for one repository: not for the one that it is called after a
// rename, and not for another that takes its name.
func TestAccessMoved(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		alice := v.login()
		v.site.AddPerson(forgetest.Person{ID: 13, Login: "mallory"})
		mallory := v.login()
		v.want("before", alice, "alice/hello", "publish")
		v.want("before", mallory, "alice/hello", "absent")

		v.site.Change(74, func(r *forgetest.Repo) { r.Path = "alice/bye" })
		v.want("renamed, from what is remembered", alice, "alice/hello", "publish")
		time.Sleep(rightsFresh)
		v.want("renamed", alice, "alice/hello", "absent")
		v.want("renamed", alice, "alice/bye", "publish")
		v.site.Say(func(w http.ResponseWriter, r *http.Request) bool { // a forge that follows the rename itself
			at := strings.Replace(r.URL.EscapedPath(), "hello", "bye", 1)
			r.URL.Path, _ = url.PathUnescape(at)
			r.URL.RawPath = at
			return false
		})
		time.Sleep(absentFresh)
		v.want("renamed, and found by its old name", alice, "alice/hello", "absent")
		v.site.Say(nil)
		v.site.Change(74, func(r *forgetest.Repo) { r.Path = "bob/bye"; r.Members = nil })
		time.Sleep(rightsFresh)
		v.want("transferred", alice, "alice/bye", "absent")
		v.want("transferred", alice, "bob/bye", "absent")

		v.site.AddRepo(forgetest.Repo{ID: 75, Path: "alice/hello", Visibility: "public", Members: map[string]int{"mallory": forgetest.Developer}})
		time.Sleep(absentFresh)
		v.want("the name is another's", alice, "alice/hello", "absent")
		v.want("the name is another's", mallory, "alice/hello", "absent")
		line := "alice/hello is the repository 75 of " + v.host + " now, and was 74 of"
		if !strings.Contains(v.log.String(), line) || !strings.Contains(v.log.String(), "delete line") {
			t.Errorf("the log does not say %q: %s", line, v.log)
		}
		v.site.DeleteRepo(74)
		time.Sleep(rightsFresh)
		v.want("deleted", alice, "bob/bye", "absent")

		pins := filepath.Join(v.dir, "repositories")
		if err := os.WriteFile(pins, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(absentFresh)
		v.want("its line is deleted", mallory, "alice/hello", "publish")
		// A pin that another makes counts for what is remembered.
		if err := os.WriteFile(pins, []byte(v.ns("alice/hello")+" "+v.host+" 76\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok := v.remembered(mallory, v.ns("alice/hello")); ok {
			t.Error("a remembered answer counts against repositories")
		}
		v.want("another line", mallory, "alice/hello", "absent")
	})
}

// What somebody may only read because everybody may does not fill the file, and once
// another repository has been seen under a name, the answers for the one before count no
// more.
func TestAccessPublic(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		alice := v.login()
		v.site.AddPerson(forgetest.Person{ID: 13, Login: "bob"})
		bob := v.login()
		v.site.AddRepo(forgetest.Repo{ID: 1, Path: "o/a", Visibility: "public"})
		v.want("public", alice, "o/a", "read")
		if text, err := os.ReadFile(filepath.Join(v.dir, "repositories")); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("repositories: %s, %v", text, err)
		}
		v.site.DeleteRepo(1)
		v.site.AddRepo(forgetest.Repo{ID: 2, Path: "o/a", Visibility: "private", Members: map[string]int{"bob": forgetest.Reporter}, App: true})
		v.want("remembered", alice, "o/a", "read")
		v.want("the new one", bob, "o/a", "read")
		v.want("not the new one", alice, "o/a", "absent")
	})
}

// Tokens are renewed once, whoever asks at once, and over years.
func TestRenew(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		alice := v.login()
		for i := range 5 {
			time.Sleep(8 * time.Hour)
			before := v.site.Asked("token")
			var wg sync.WaitGroup
			for j := range 20 {
				wg.Go(func() {
					path := "alice/hello"
					if j%2 == 1 {
						path = "alice/none"
					}
					if _, err := v.Access(t.Context(), alice, v.ns(path), time.Time{}); err != nil && !errors.Is(err, iofs.ErrNotExist) {
						t.Errorf("renewal %d: %v", i, err)
					}
				})
			}
			wg.Wait()
			if n := v.site.Asked("token") - before; n != 1 {
				t.Errorf("renewal %d: %d requests, want 1", i, n)
			}
		}
		if n, _ := v.site.Tokens(); n != 1 {
			t.Errorf("%d access tokens are good, want 1", n)
		}
		v.Forges = v.open()
		v.want("after a restart", alice, "alice/hello", "publish")
		time.Sleep(9 * time.Hour)
		v.Forges = v.open()
		v.want("after a longer one", alice, "alice/hello", "publish")
	})
}

// Of a token that the forge refuses before its end another one is got. If that is
// refused too, the person logs in again, and nothing of the account is asked any more.
func TestRevokedGrant(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		alice := v.login()
		v.want("before", alice, "alice/hello", "publish")
		refuse := true
		v.site.Say(func(w http.ResponseWriter, r *http.Request) bool {
			if refuse && strings.HasSuffix(r.URL.Path, "hello") {
				refuse = false
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			return false
		})
		time.Sleep(rightsFresh)
		v.want("refused once", alice, "alice/hello", "publish")
		v.site.Say(nil)

		v.site.RevokeGrants("alice")
		v.want("from what is remembered", alice, "alice/hello", "publish")
		time.Sleep(rightsFresh)
		v.want("revoked", alice, "alice/hello", "login")
		v.want("another namespace", alice, "alice/none", "login")
		before := v.site.Asked("hello")
		v.want("again", alice, "alice/hello", "login")
		if sealed, _ := v.kept.Token(alice); sealed != nil || v.site.Asked("hello") != before {
			t.Errorf("the token is kept, or was used: %d bytes", len(sealed))
		}
		v.login()
		v.want("logged in again", alice, "alice/hello", "publish")
		v.site.Say(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "hello") {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			return false
		})
		time.Sleep(rightsFresh)
		v.want("refused always", alice, "alice/hello", "login")
	})
}

// An answer with a new token that is lost costs a login where a refresh token is good
// once, and nothing where it is not. Until then the old access token serves.
func TestRenewLostAnswer(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		alice := v.login()
		lost := 0
		v.site.Say(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "token") || lost > 0 {
				return false
			}
			lost++
			v.site.Answer(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		})
		time.Sleep(9 * time.Hour)
		v.want("lost", alice, "alice/hello", "busy")
		time.Sleep(downPause)
		v.want("afterwards", alice, "alice/hello", map[bool]string{true: "publish", false: "login"}[v.site.Kind == "forgejo"])
	})
}

// A forge whose tokens cannot be had for a while: the access token serves to its end, and
// is renewed when the forge is back.
func TestRenewForgeDown(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		alice := v.login()
		life := map[string]time.Duration{"github": 8 * time.Hour, "gitlab": 2 * time.Hour, "forgejo": time.Hour}[v.site.Kind]
		for what, say := range faults {
			time.Sleep(life)
			v.want(what+": renewed", alice, "alice/hello", "publish")
			time.Sleep(life - renewBefore/2)
			v.site.Say(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "token") {
					say(w, r)
					return true
				}
				return false
			})
			want := "publish"
			if slices.Contains([]string{"silence", "a hang-up", "a full header"}, what) { // the whole forge counts as down
				want = "busy"
			}
			v.want(what+" before the end", alice, "alice/hello", want)
			time.Sleep(renewBefore)
			v.unlearn(alice)
			v.want(what+" after the end", alice, "alice/hello", "busy")
			v.site.Say(nil)
			time.Sleep(downPause)
			v.want(what+": back", alice, "alice/hello", "publish")
		}

		if err := os.WriteFile(filepath.Join(v.dir, "secret"), []byte("another"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Hour)
		v.want("a wrong client secret", alice, "alice/hello", "busy")
		if !strings.Contains(v.log.String(), "correct client-id= or client-secret-file=") {
			t.Errorf("the log: %s", v.log)
		}
		if err := os.WriteFile(filepath.Join(v.dir, "secret"), []byte(v.site.Secret), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(downPause)
		v.want("the right one", alice, "alice/hello", "publish")
	})
}

// Whoever waits for a token may go: the new one is kept all the same. One that the disk
// does not take is kept until it does.
func TestRenewKept(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		alice := v.login()
		time.Sleep(9 * time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		v.site.Say(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "token") {
				cancel()
				time.Sleep(time.Second) // the asker is gone
			}
			return false
		})
		if _, err := v.Access(ctx, alice, v.ns("alice/hello"), time.Time{}); !errors.Is(v.say(err), fs.ErrBusy) {
			t.Errorf("Access of one that goes: %v", err)
		}
		v.Close()
		v.site.Say(nil)
		asked := v.site.Asked("token")
		time.Sleep(9 * time.Hour)
		v.want("closed", alice, "alice/hello", "busy")
		if n := v.site.Asked("token"); n != asked {
			t.Error("a token is renewed while nobody waits for it")
		}
		v.Forges = v.open()
		v.want("after a restart", alice, "alice/hello", "publish")
		if n := v.site.Asked("token"); n != asked+1 {
			t.Errorf("%d tokens: the new one was not kept", n)
		}
		asked++

		time.Sleep(9 * time.Hour)
		v.kept.fail(errors.New("no space left on device"))
		v.want("a full disk", alice, "alice/hello", "busy")
		v.want("still", alice, "alice/hello", "busy")
		v.kept.fail(nil)
		time.Sleep(downPause)
		v.want("room", alice, "alice/hello", "publish")
		if n := v.site.Asked("token"); n != asked+1 {
			t.Errorf("%d tokens for one renewal", n-asked)
		}

		// One that the disk has not taken before its account logs out is given back.
		time.Sleep(9 * time.Hour)
		v.kept.fail(errors.New("no space left on device"))
		v.want("a full disk", alice, "alice/hello", "busy")
		v.kept.fail(nil)
		v.kept.set(alice, nil)
		time.Sleep(downPause)
		v.want("logged out", alice, "alice/hello", "login")
		if access, _ := v.site.Tokens(); access != 0 && v.site.Kind != "forgejo" {
			t.Errorf("%d access tokens are good", access)
		}
	})
}

// An account that logs out while its token is renewed gets none back, and what comes is
// taken back at the forge.
func TestLogoutMeanwhile(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		alice := v.login()
		time.Sleep(9 * time.Hour)
		v.site.Say(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "access_token") || r.URL.Path == "/oauth/token" {
				sealed, _ := v.kept.Token(alice)
				v.kept.SetToken(alice, sealed, nil)
				v.unlearn(alice)
			}
			return false
		})
		v.want("logged out", alice, "alice/hello", "login")
		if sealed, _ := v.kept.Token(alice); sealed != nil {
			t.Error("it has a token again")
		}
		if n, _ := v.site.Tokens(); n != 0 && v.site.Kind != "forgejo" {
			t.Errorf("%d tokens are good", n)
		}
		v.site.Say(nil)

		// What a forge says after that counts no more.
		v.login()
		v.site.Say(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "hello") {
				v.unlearn(alice)
			}
			return false
		})
		v.want("logged out", alice, "alice/hello", "login")
	})
}

// Logging out takes back the token at the forge, and what is remembered.
func TestRevoke(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		alice := v.login()
		v.want("before", alice, "alice/hello", "publish")
		sealed, _ := v.kept.Token(alice)
		v.kept.set(alice, nil)
		if err := v.say(v.Forget(t.Context(), alice, sealed)); err != nil {
			t.Error(err)
		}
		access, refresh := v.site.Tokens()
		if v.site.Kind != "forgejo" && access+refresh != 0 {
			t.Errorf("%d access tokens and %d refresh tokens are good", access, refresh)
		}
		v.want("afterwards", alice, "alice/hello", "login")
		for what, sealed := range map[string][]byte{"again": sealed, "none": nil, "nonsense": []byte("x")} {
			if err := v.say(v.Forget(t.Context(), alice, sealed)); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		for what, say := range faults {
			if what == "nothing" || what == "a page" || what == "no JSON" { // status 200 is a yes
				continue
			}
			v.site.Say(func(w http.ResponseWriter, r *http.Request) bool { say(w, r); return true })
			if err := v.say(v.Forget(t.Context(), alice, sealed)); err == nil && v.site.Kind != "forgejo" {
				t.Errorf("%s: no error", what)
			}
			time.Sleep(downPause)
		}
	})
}

// What a forge asks of an account is kept, and of no other one.
func TestRateLimit(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		alice := v.login()
		v.site.AddPerson(forgetest.Person{ID: 13, Login: "bob"})
		v.site.AddRepo(forgetest.Repo{ID: 1, Path: "o/a", Visibility: "public"})
		v.site.AddRepo(forgetest.Repo{ID: 2, Path: "o/b", Visibility: "public"})
		bob := v.login()
		now := func() int64 { return time.Now().Unix() }
		for what, tt := range map[string]struct {
			status int
			header map[string]string
			body   string
			wait   time.Duration
		}{
			"Retry-After":              {429, map[string]string{"Retry-After": "30"}, "", 30 * time.Second},
			"Retry-After of GitHub":    {403, map[string]string{"Retry-After": "60"}, `{"message":"You have exceeded a secondary rate limit"}`, time.Minute},
			"Retry-After as a time":    {429, map[string]string{"Retry-After": time.Now().Add(40 * time.Hour).UTC().Format(http.TimeFormat)}, "", maxPause},
			"a negative Retry-After":   {429, map[string]string{"Retry-After": "-5"}, "", minPause},
			"an endless Retry-After":   {429, map[string]string{"Retry-After": "2000000000"}, "", maxPause},
			"a nonsense Retry-After":   {429, map[string]string{"Retry-After": "soon"}, "", time.Minute},
			"the primary limit":        {403, map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": fmt.Sprint(now() + 1<<30)}, `{"message":"API rate limit exceeded"}`, maxPause},
			"GitLab's headers":         {429, map[string]string{"RateLimit-Remaining": "0", "RateLimit-Reset": fmt.Sprint(now())}, "", minPause},
			"a secondary limit":        {403, nil, `{"message":"You have exceeded a secondary rate limit."}`, time.Minute},
			"429 and nothing":          {429, nil, "", time.Minute},
			"a reset that is no limit": {403, map[string]string{"X-RateLimit-Remaining": "10", "X-RateLimit-Reset": "1"}, `{"message":"Resource protected by organization SAML enforcement"}`, 0},
		} {
			v.unlearn(alice)
			v.unlearn(bob)
			v.want(what+": before", alice, "o/a", "read")
			v.site.Say(func(w http.ResponseWriter, r *http.Request) bool {
				for name, value := range tt.header {
					w.Header().Set(name, value)
				}
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
				return true
			})
			want := "busy"
			if tt.wait == 0 {
				want = "absent"
			}
			v.want(what, alice, "o/b", want)
			v.site.Say(nil)
			if tt.wait > 0 {
				v.want(what+": what is remembered", alice, "o/a", "read")
				v.want(what+": another account", bob, "o/b", "read")
				asked := v.site.Asked("o/b")
				time.Sleep(tt.wait - time.Millisecond)
				v.want(what+": too early", alice, "o/b", "busy")
				if n := v.site.Asked("o/b"); n != asked {
					t.Errorf("%s: it was asked", what)
				}
				time.Sleep(time.Second) // a Unix time has no parts of a second
				v.want(what+": afterwards", alice, "o/b", "read")
			}
			time.Sleep(absentFresh)
		}
	})
}

// While a forge is down, what is remembered serves to its end. Then the error says so, and
// it is asked a few times only.
func TestForgeDown(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		alice := v.login()
		for what, say := range faults {
			v.want(what+": before", alice, "alice/hello", "publish")
			v.site.Say(func(w http.ResponseWriter, r *http.Request) bool { say(w, r); return true })
			time.Sleep(rightsFresh - time.Second)
			v.want(what+": remembered", alice, "alice/hello", "publish")
			time.Sleep(time.Second)
			want := "busy"
			if strings.Contains(what, "redirect") {
				want = "absent" // it has moved
			}
			v.want(what, alice, "alice/hello", want)
			v.site.Say(nil)
			time.Sleep(max(downPause, absentFresh, time.Minute))
		}
		all := []string{alice}
		for i := range 4 {
			v.site.AddPerson(forgetest.Person{ID: int64(20 + i), Login: fmt.Sprint("p", i)})
			all = append(all, v.login())
		}
		v.site.Say(func(w http.ResponseWriter, r *http.Request) bool { silence(r); return true })
		v.unlearn(alice)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		if _, err := v.Access(ctx, alice, v.ns("alice/hello"), time.Time{}); !errors.Is(v.say(err), fs.ErrBusy) || time.Since(began) != 5*time.Second {
			t.Errorf("Access = %v after %v", err, time.Since(began))
		}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { v.Access(t.Context(), all[i%len(all)], v.ns(fmt.Sprintf("o/%d", i)), time.Time{}) })
		}
		wg.Wait()
		asked := 0
		for i := range 100 {
			asked += v.site.Asked(fmt.Sprintf("o/%d", i)) + v.site.Asked(fmt.Sprintf("o%%2F%d", i))
		}
		if asked > 2*maxAtOnce {
			t.Errorf("it was asked %d times while it was down", asked)
		}
		v.site.Say(nil)
		time.Sleep(downPause)
		v.want("afterwards", alice, "alice/hello", "publish")
	})
}

// A forge that has no answer to a question is not asked it again by each walk.
func TestNoAnswer(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		alice := v.login()
		v.site.Say(func(w http.ResponseWriter, r *http.Request) bool {
			http.Error(w, "x", http.StatusInternalServerError)
			return true
		})
		for range 50 {
			v.want("an error", alice, "alice/hello", "busy")
		}
		if n := v.site.Asked("hello"); n != 1 {
			t.Errorf("it was asked %d times", n)
		}
		v.site.Say(nil)
		v.want("another question", alice, "alice/none", "absent")
		time.Sleep(downPause)
		v.want("afterwards", alice, "alice/hello", "publish")
	})
}

// A forge has few requests from us at once, and the same question is asked once.
func TestAtOnce(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		alice := v.login()
		v.site.Say(func(w http.ResponseWriter, r *http.Request) bool { time.Sleep(time.Second); return false })
		var wg sync.WaitGroup
		ask := func(principal, path string) {
			for range 5 {
				wg.Go(func() {
					if _, err := v.Access(t.Context(), principal, v.ns(path), time.Time{}); !errors.Is(err, iofs.ErrNotExist) {
						t.Error(err)
					}
				})
			}
		}
		for i := range 20 {
			ask(alice, fmt.Sprintf("o/%d", i))
		}
		wg.Wait()
		if n := v.site.MostAtOnce(); n != maxAtOnce/2 {
			t.Errorf("%d requests of one account at once", n)
		}
		for i := range 20 {
			if n := v.site.Asked(fmt.Sprintf("o/%d", i)); n != 1 {
				t.Errorf("o/%d was asked for %d times", i, n)
			}
		}
		all := []string{alice}
		for i := range 5 {
			v.site.AddPerson(forgetest.Person{ID: int64(20 + i), Login: fmt.Sprint("p", i)})
			all = append(all, v.login())
		}
		for _, principal := range all {
			for i := range 5 {
				ask(principal, fmt.Sprintf("of/%d", i))
			}
		}
		wg.Wait()
		if n := v.site.MostAtOnce(); n != maxAtOnce {
			t.Errorf("%d requests of all at once", n)
		}
	})
}

// An asker that goes says nothing of the forge.
func TestAskerGoes(t *testing.T) {
	inVillage(t, allKinds, func(t *testing.T, v *village) {
		alice := v.login()
		for _, path := range []string{"token", "/user"} {
			answer := v.visit()
			ctx, cancel := context.WithCancel(t.Context())
			v.site.Say(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, path) {
					cancel()
					silence(r)
				}
				return false
			})
			if _, _, err := v.Finish(ctx, v.host, callback, answer, nonce, verifier); !errors.Is(v.say(err), fs.ErrBusy) {
				t.Errorf("Finish of one that goes: %v", err)
			}
			v.site.Say(nil)
			v.unlearn(alice)
			v.want("another", alice, "alice/hello", "publish")
		}
	})
}

// An account adds a few names to the file repositories, and then one a minute.
func TestManyRepositories(t *testing.T) {
	inVillage(t, []string{"github"}, func(t *testing.T, v *village) {
		alice := v.login()
		var wg sync.WaitGroup
		var mu sync.Mutex
		may := map[string]int{}
		for i := range maxPins + 50 {
			v.site.AddRepo(forgetest.Repo{ID: int64(1000 + i), Path: fmt.Sprintf("alice/%d", i), Visibility: "private", Members: map[string]int{"alice": forgetest.Reporter}, App: true})
			wg.Go(func() {
				_, err := v.Access(t.Context(), alice, v.ns(fmt.Sprintf("alice/%d", i)), time.Time{})
				mu.Lock()
				defer mu.Unlock()
				may[fmt.Sprint(errors.Is(err, fs.ErrBusy), err == nil)]++
			})
		}
		wg.Wait()
		if may["false true"] != maxPins || may["true false"] != 50 {
			t.Errorf("%v, want %d that may", may, maxPins)
		}
		text, err := os.ReadFile(filepath.Join(v.dir, "repositories"))
		if n := strings.Count(string(text), "/alice/"); n != maxPins || err != nil {
			t.Errorf("%d lines, %v", n, err)
		}
		time.Sleep(time.Minute)
		v.want("a minute later", alice, "alice/hello", "publish")
		for i := range maxPins {
			if a, err := v.Access(t.Context(), alice, v.ns(fmt.Sprintf("alice/%d", i)), time.Time{}); err == nil && !a.Read {
				t.Errorf("%d: %+v", i, a)
			}
		}
	})
}

// Answers are forgotten before there are too many.
func TestTrim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := Open(filepath.Join(t.TempDir(), "forges"), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for i := range maxRights * 5 / 4 {
			f.trim()
			k := rightsKey{"github:1", fmt.Sprint("github.com/o/", i)}
			f.rights[k] = known{Access: Access{RepositoryID: "1"}, until: time.Now().Add(time.Duration(i%300) * time.Second)}
			if len(f.rights) > maxRights {
				t.Fatalf("%d answers", len(f.rights))
			}
			if i%1000 == 0 {
				time.Sleep(time.Second)
			}
		}
	})
}

// What is sealed for an account opens for it alone, with the key alone, unchanged.
func TestSeal(t *testing.T) {
	inVillage(t, []string{"github"}, func(t *testing.T, v *village) {
		alice := v.login()
		sealed, _ := v.kept.Token(alice)
		if tok, err := v.openToken(alice, sealed); err != nil || tok.Forge != v.site.URL || tok.Access == "" || tok.Refresh == "" || tok.Expires.IsZero() {
			t.Errorf("openToken = %v, %v", tok, err)
		}
		for _, other := range []string{"github:1", "github:13", "", alice + "0"} {
			if tok, err := v.openToken(other, sealed); err == nil {
				t.Errorf("openToken for %q = %v", other, tok)
			}
		}
		for i := range sealed {
			broken := bytes.Clone(sealed)
			broken[i] ^= 1
			if tok, err := v.openToken(alice, broken); err == nil {
				t.Errorf("openToken with byte %d changed = %v", i, tok)
			}
			if tok, err := v.openToken(alice, sealed[:i]); err == nil {
				t.Errorf("openToken of %d bytes = %v", i, tok)
			}
		}
		again := v.sealer.seal(alice, []byte("x"))
		if bytes.Equal(again, v.sealer.seal(alice, []byte("x"))) {
			t.Error("a nonce was used twice")
		}
		// Another's sealed token in an account's file is worth nothing.
		v.site.AddPerson(forgetest.Person{ID: 13, Login: "mallory"})
		mallory := v.login()
		v.kept.set(mallory, sealed)
		v.want("another's token", mallory, "alice/hello", "login")

		// A token is shown to the server that gave it, and not to one that is called the same.
		at, asked := v.site.URL, v.site.Asked("hello")
		v.site.URL = "http://127.0.0.1:9999"
		v.write()
		v.want("a forge that has moved", alice, "alice/hello", "login")
		if n := v.site.Asked("hello"); n != asked {
			t.Error("the token was shown to another server")
		}
		v.site.URL = at
		v.write()

		key := filepath.Join(v.dir, sealFile)
		if fi, err := os.Stat(key); err != nil || fi.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", sealFile, fi, err)
		}
		if err := os.Remove(key); err != nil {
			t.Fatal(err)
		}
		v.Forges = v.open()
		v.want("without the key", alice, "alice/hello", "login")
		if err := os.WriteFile(key, []byte("short\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(filepath.Join(v.dir, "forges"), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Keep(v.kept); err == nil || !strings.Contains(err.Error(), "delete it") {
			t.Errorf("Keep with a key that is none: %v", err)
		}
	})
}

// No way of printing prints a secret.
func TestSecret(t *testing.T) {
	s := secret("hunter2")
	tok := &token{Access: s, Refresh: s}
	var b bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
		slog.New(h).Info("x", "s", s, "t", fmt.Sprint(tok), "c", fmt.Sprintf("%+v", call{Bearer: s, Password: s}))
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&b, verb+verb+verb, s, tok, *tok)
	}
	if strings.Contains(b.String(), "hunter2") || strings.Contains(b.String(), fmt.Sprintf("%x", "hunter2")) {
		t.Errorf("printed: %s", b.String())
	}
}

// Two subjects of a provider are never one account, and none is a job's.
func TestSafeSubject(t *testing.T) {
	seen := map[string]string{}
	for _, sub := range []string{"1", "01", "a", "A", "a b", "a%20b", "a,b", "auth0|12", "repo:5", "../x", "é", "%sha256-", strings.Repeat("x", 255), strings.Repeat("y", 255), "user@example.org"} {
		safe, err := safeSubject(sub)
		principal := "idp.example:" + safe
		if err != nil || seen[safe] != "" || strings.ContainsAny(safe, ":/, ") || len(principal) > 150 {
			t.Errorf("safeSubject(%q) = %q, %v; %q has it already", sub, safe, err, seen[safe])
		}
		seen[safe] = cmp.Or(sub, "-")
	}
	for _, sub := range []string{"", strings.Repeat("x", 256)} {
		if safe, err := safeSubject(sub); err == nil {
			t.Errorf("safeSubject(%.9q) = %q", sub, safe)
		}
	}
}
