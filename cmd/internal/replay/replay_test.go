package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
)

const (
	commit = "0123456789abcdef0123456789abcdef01234567"
	tree   = "76543210fedcba9876543210fedcba9876543210"
)

var conf = &config.Config{Net: "build", MaxAge: time.Hour}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	s, err := sign.LoadKey(filepath.Join(t.TempDir(), "id"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// trusting returns a Signers of a Replayer that has these keys.
func trusting(keys ...ssh.Signer) func(context.Context) (*sign.Signers, error) {
	s := new(sign.Signers)
	for _, k := range keys {
		s.Add("alice", k.PublicKey())
	}
	return func(context.Context) (*sign.Signers, error) { return s, nil }
}

// A peer is an executor elsewhere with one run.
type peer struct {
	id     string
	signer string // as it claims
	tree   fs.Dir
}

func newPeer(t *testing.T, by ssh.Signer, key ci.Attrs, state string, end time.Time) peer {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	id := seal(t, s, by, key, state, end)
	return peer{id, sign.Fingerprint(by.PublicKey()), store.NewTree(s, nil)}
}

// seal puts a run into a store, and returns its id.
func seal(t *testing.T, kept *store.Store, by ssh.Signer, key ci.Attrs, state string, end time.Time) string {
	t.Helper()
	run, err := kept.Create(commit)
	if err != nil {
		t.Fatal(err)
	}
	code := 0
	if state != "passed" {
		code = 1
	}
	run.SetKey(key)
	run.SetInfo(ci.Attrs{{Name: "tree", Value: tree}, {Name: "end", Value: end.UTC().Format(time.RFC3339)}})
	run.Enter("test")
	fmt.Fprintln(run.Stdout(), "fine")
	run.Leave("test", state, code)
	if err := run.Seal(t.Context(), state, code, func(m []byte) ([]byte, error) { return sign.Manifest(by, m) }); err != nil {
		t.Fatal(err)
	}
	return run.ID()
}

// mux is a namespace at an orchestrator, with the answer of its find.
type mux struct {
	fs.Dir
	answer string
}

func newMux(answer func(name string, p peer) string, peers map[string]peer) *mux {
	m := &mux{}
	var nodes []fs.Node
	for _, name := range []string{"a", "b", "c"} {
		if p, ok := peers[name]; ok {
			nodes = append(nodes, fs.Named(p.tree, name))
			m.answer += answer(name, p)
		}
	}
	m.Dir = fs.NewDir("/", fs.NewDir("n", nodes...))
	return m
}

func passed(name string, p peer) string {
	return ci.Offer{Executor: name, ID: p.id, State: "passed", Took: time.Second, Signer: p.signer}.String() + "\n"
}

func (m *mux) ask(context.Context, []byte, time.Duration) ([]byte, func(), error) {
	return []byte(m.answer), func() {}, nil
}

// cut is a tree whose tars end in an error.
type cut struct{ fs.Dir }

func (c cut) Walk(ctx context.Context, name string) (fs.Node, error) {
	n, err := c.Dir.Walk(ctx, name)
	if d, ok := n.(fs.Dir); ok && err == nil {
		return cut{d}, nil
	}
	return cutFile{n}, err
}

type cutFile struct{ fs.Node }

func (c cutFile) Open(ctx context.Context, mode fs.OpenMode) (fs.File, error) {
	f, err := c.Node.Open(ctx, mode)
	return openCut{f}, err
}

type openCut struct{ fs.File }

func (c openCut) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off >= 4096 {
		return 0, io.ErrUnexpectedEOF
	}
	return c.File.ReadAt(ctx, p[:min(len(p), 512)], off)
}

func TestFind(t *testing.T) {
	alice, mallory := newSigner(t), newSigner(t)
	key := Key(conf, commit, tree, []string{"test"})
	other := Key(conf, commit, tree, []string{"other"})
	now := time.Now()
	good := newPeer(t, alice, key, "passed", now)
	claims := sign.Fingerprint(alice.PublicKey())
	vanishes := peer{good.id, claims, cut{newPeer(t, alice, key, "passed", now).tree}}
	forged := newPeer(t, mallory, key, "passed", now)
	forged.signer = claims
	unsigned := good
	unsigned.signer = ""
	for _, tt := range []struct {
		name  string
		peers map[string]peer
		from  string // whose run is replayed, or ""
		said  string
	}{
		{"nobody", nil, "", ""},
		{"one", map[string]peer{"a": good}, "a", ""},
		{"first vanishes", map[string]peer{"a": vanishes, "b": good}, "b", "n/a/ci/0123456789ab.1 is not replayed: "},
		{"all vanish", map[string]peer{"a": vanishes}, "", "unexpected EOF"},
		{"signed by another that says so", map[string]peer{"a": newPeer(t, mallory, key, "passed", now)}, "", ""},
		{"signed by another", map[string]peer{"a": forged, "b": good}, "b", "is not trusted"},
		{"said to be unsigned", map[string]peer{"a": unsigned}, "", ""},
		{"of the future", map[string]peer{"a": newPeer(t, alice, key, "passed", now.Add(2*time.Minute))}, "", "is in the future"},
		{"of a clock that is ahead", map[string]peer{"a": newPeer(t, alice, key, "passed", now.Add(30*time.Second))}, "a", ""},
		{"another key", map[string]peer{"a": newPeer(t, alice, other, "passed", now)}, "", "its key is another"},
		{"failed", map[string]peer{"a": newPeer(t, alice, key, "failed", now)}, "", "it is failed, and was said to be passed"},
		{"old", map[string]peer{"a": newPeer(t, alice, key, "passed", now.Add(-2*time.Hour))}, "", "CI_MAXAGE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kept, err := store.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer kept.Close()
			m := newMux(passed, tt.peers)
			var said bytes.Buffer
			r := &Replayer{Store: kept, Signers: trusting(alice),
				Mux: func(context.Context) (fs.Dir, error) { return m, nil }, Ask: m.ask,
				Say: func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }}
			run, ok := r.Find(t.Context(), key, conf)
			if tt.said == "" && said.Len() > 0 {
				t.Errorf("said %q", said.String())
			}
			if ok != (tt.from != "") || !strings.Contains(said.String(), tt.said) {
				t.Errorf("Find = %v, %v, said %q, want a run: %v, said %q", run.ID, ok, said.String(), tt.from != "", tt.said)
			}
			if ok {
				if out, err := os.ReadFile(filepath.Join(run.Dir, "stdout")); string(out) != "fine\n" {
					t.Errorf("the adopted run's stdout is %q, %v", out, err)
				}
				if run.Signer != sign.Fingerprint(alice.PublicKey()) {
					t.Errorf("the adopted run's signer is %s", run.Signer)
				}
			}
			// The store has what was adopted and nothing else, and the
			// next one is replayed from it.
			m.answer = ""
			if again, found := r.Find(t.Context(), key, conf); found != ok || again.ID != run.ID {
				t.Errorf("Find in the store = %v, %v, want %v, %v", again.ID, found, run.ID, ok)
			}
			for e := range kept.Runs() {
				if !ok {
					t.Errorf("a run %s %s was left", e.ID, e.Status)
				}
			}
		})
	}
}

// Where failed runs count too, a passed one is better wherever it is, and what was
// cut short is none.
func TestFindFailed(t *testing.T) {
	alice, mallory := newSigner(t), newSigner(t)
	key := Key(conf, commit, tree, []string{"test"})
	now := time.Now()
	ended := func(state string, ago time.Duration) peer { return newPeer(t, alice, key, state, now.Add(-ago)) }
	forged := newPeer(t, mallory, key, "failed", now)
	forged.signer = sign.Fingerprint(alice.PublicKey())
	for _, tt := range []struct {
		name  string
		own   string // state of a run in the store
		peers map[string]peer
		as    map[string]string // what find says of them, where it is not so
		want  string            // the state of what is found, or ""
	}{
		{name: "failed", peers: map[string]peer{"a": ended("failed", 0)}, want: "failed"},
		{name: "passed before it", peers: map[string]peer{"a": ended("failed", 0), "b": ended("passed", time.Minute)}, want: "passed"},
		{name: "passed elsewhere", own: "failed", peers: map[string]peer{"a": ended("passed", time.Minute)}, want: "passed"},
		{name: "passed here", own: "passed", peers: map[string]peer{"a": ended("failed", 0)}, want: "passed"},
		{name: "failed here", own: "failed", want: "failed"},
		{name: "cancelled here", own: "cancelled"},
		{name: "cut short", peers: map[string]peer{"a": ended("cancelled", 0), "b": ended("error", 0)}},
		{name: "an error that is said to have failed", peers: map[string]peer{"a": ended("error", 0)}, as: map[string]string{"a": "failed"}},
		{name: "a failure that is said to have passed", peers: map[string]peer{"a": ended("failed", 0)}, as: map[string]string{"a": "passed"}},
		{name: "old", peers: map[string]peer{"a": ended("failed", 2*time.Hour)}},
		{name: "forged", peers: map[string]peer{"a": forged}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kept, err := store.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer kept.Close()
			if tt.own != "" {
				seal(t, kept, alice, key, tt.own, now)
			}
			m := newMux(func(name string, p peer) string {
				state := tt.as[name]
				if state == "" {
					st, err := ask.Status(t.Context(), p.tree, "ci/"+p.id+"/status")
					if err != nil {
						t.Fatal(err)
					}
					state = st.State
				}
				return ci.Offer{Executor: name, ID: p.id, State: state, Signer: p.signer}.String() + "\n"
			}, tt.peers)
			r := &Replayer{Store: kept, Signers: trusting(alice), Failed: true,
				Mux: func(context.Context) (fs.Dir, error) { return m, nil }, Ask: m.ask,
				Say: func(format string, args ...any) {}}
			where := r.Look(t.Context(), key, conf)
			if tt.as == nil && tt.name != "forged" && tt.name != "old" && (where != "") != (tt.want != "") {
				t.Errorf("Look = %q, want a run that %s", where, tt.want)
			}
			run, ok := r.Find(t.Context(), key, conf)
			if ok != (tt.want != "") || run.State != tt.want {
				t.Errorf("Find = %s %s, want one that %s", run.ID, run.State, tt.want)
			}
			// What was adopted is no run for those that want a passed one.
			r.Failed, m.answer = false, ""
			if run, ok := r.Find(t.Context(), key, conf); ok != (tt.want == "passed") {
				t.Errorf("then Find of a passed one = %s %s", run.ID, run.State)
			}
		})
	}
}

// Look takes no longer with executors that do not answer than it says, and one such
// does not hide the run of another.
func TestLookSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := newSigner(t)
		key := Key(conf, commit, tree, []string{"test"})
		const id = "0123456789ab.1"
		silent := fs.NewDir("/", fs.NewDir("ci", rungTest{comes: never}.run(id, "relay"))) // waits, as NewDir asks for names
		good := newPeer(t, alice, key, "passed", time.Now())
		kept, err := store.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer kept.Close()
		m := newMux(passed, map[string]peer{"a": {id, good.signer, silent}, "b": good})
		r := &Replayer{Store: kept, Signers: trusting(alice), Mux: func(context.Context) (fs.Dir, error) { return m, nil }, Ask: m.ask, Say: t.Logf}
		if where := r.Look(t.Context(), key, conf); !strings.HasPrefix(where, "n/b/") {
			t.Errorf("Look = %q, want the run of b", where)
		}
		m.answer = strings.Repeat(passed("a", good), maxNeighbours)
		began := time.Now()
		if where := r.Look(t.Context(), key, conf); where != "" || time.Since(began) > nearestTimeout {
			t.Errorf("Look = %q after %v, want nothing after %v at most", where, time.Since(began), nearestTimeout)
		}
	})
}

// An orchestrator that answers find and then no more does not hold a replay.
func TestFindNoTree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := newSigner(t)
		key := Key(conf, commit, tree, []string{"test"})
		kept, err := store.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer kept.Close()
		m := newMux(passed, map[string]peer{"a": newPeer(t, alice, key, "passed", time.Now())})
		var said bytes.Buffer
		r := &Replayer{Store: kept, Signers: trusting(alice), Ask: m.ask,
			Mux:  func(ctx context.Context) (fs.Dir, error) { return m, wait(ctx, never) },
			Name: func(context.Context) (string, error) { return "me", nil },
			Say:  func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }}
		const want = "orchestrator: it did not open the namespace's tree within 20s\n"
		if _, ok := r.Find(t.Context(), key, conf); ok || said.String() != want {
			t.Errorf("Find = %v, said %q, want %q", ok, said.String(), want)
		}
		said.Reset()
		_, ok, release := r.Await(t.Context(), key, conf, "aaaaaaaaaaaa.1")
		release()
		if ok || said.String() != want {
			t.Errorf("Await = %v, said %q, want %q", ok, said.String(), want)
		}
	})
}

// If this machine cannot keep a run, no other way or peer is tried.
func TestFindCannotKeep(t *testing.T) {
	alice := newSigner(t)
	key := Key(conf, commit, tree, []string{"test"})
	dir := t.TempDir()
	kept, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	good := newPeer(t, alice, key, "passed", time.Now())
	m := newMux(passed, map[string]peer{"a": good, "b": good})
	var said bytes.Buffer
	r := &Replayer{Store: kept, Signers: trusting(alice), Mux: func(context.Context) (fs.Dir, error) { return m, nil }, Ask: m.ask,
		Way: func(context.Context, string, string) (fs.Dir, func(), error) { return good.tree, func() {}, nil },
		Say: func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }}
	if err := os.Rename(filepath.Join(dir, "ci"), filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	_, ok := r.Find(t.Context(), key, conf)
	if text := said.String(); ok || strings.Count(text, "is not replayed") != 1 || strings.Count(text, "no such file or directory") != 1 {
		t.Errorf("Find = %v, said %q, want one reason once", ok, text)
	}
}

// mute is a tree whose tars say nothing behind their first bytes.
type mute struct{ fs.Dir }

func (m mute) Walk(ctx context.Context, name string) (fs.Node, error) {
	n, err := m.Dir.Walk(ctx, name)
	if d, ok := n.(fs.Dir); ok && err == nil {
		return mute{d}, nil
	}
	if strings.HasSuffix(name, ".tar") && err == nil {
		n = muteFile{n}
	}
	return n, err
}

type muteFile struct{ fs.Node }

func (m muteFile) Open(ctx context.Context, mode fs.OpenMode) (fs.File, error) {
	f, err := m.Node.Open(ctx, mode)
	return openMute{f}, err
}

type openMute struct{ fs.File }

func (m openMute) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off >= 4096 {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return m.File.ReadAt(ctx, p[:min(len(p), 512)], off)
}

// Peers that say nothing have CI_REPLAY_TIMEOUT between them.
func TestFindMute(t *testing.T) {
	alice := newSigner(t)
	key := Key(conf, commit, tree, []string{"test"})
	p := newPeer(t, alice, key, "passed", time.Now())
	p.tree = mute{p.tree}
	kept, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	m := newMux(passed, map[string]peer{"a": p, "b": p, "c": p})
	var said bytes.Buffer
	r := &Replayer{Store: kept, Signers: trusting(alice),
		Mux: func(context.Context) (fs.Dir, error) { return m, nil }, Ask: m.ask,
		Say: func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }}
	c := *conf
	c.ReplayTimeout = 300 * time.Millisecond
	if run, ok := r.Find(t.Context(), key, &c); ok {
		t.Errorf("Find = %v", run.ID)
	}
	want := "n/a/ci/0123456789ab.1 is not replayed: CI_REPLAY_TIMEOUT has passed\nCI_REPLAY_TIMEOUT=300ms has passed, with 2 still to be looked at\n"
	if said.String() != want {
		t.Errorf("said %q, want %q", said.String(), want)
	}
}

// An orchestrator that is down, or answers nonsense, is told of and is no
// obstacle.
func TestFindNoOrchestrator(t *testing.T) {
	kept, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	key := Key(conf, commit, tree, []string{"test"})
	var said bytes.Buffer
	r := &Replayer{Store: kept, Signers: trusting(),
		Mux: func(context.Context) (fs.Dir, error) { return nil, errors.New("no tree") },
		Ask: func(context.Context, []byte, time.Duration) ([]byte, func(), error) {
			return nil, nil, errors.New("connection refused")
		},
		Say: func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }}
	if _, ok := r.Find(t.Context(), key, conf); ok || said.String() != "orchestrator: connection refused\n" {
		t.Errorf("Find = %v, said %q", ok, said.String())
	}
	said.Reset()
	m := newMux(passed, nil)
	m.answer = "garbage\n"
	r.Mux, r.Ask = func(context.Context) (fs.Dir, error) { return m, nil }, m.ask
	if _, ok := r.Find(t.Context(), key, conf); ok || !strings.Contains(said.String(), `find answered "garbage`) {
		t.Errorf("Find = %v, said %q", ok, said.String())
	}
}

// Of the executors that asked for a key the first runs it, and the others wait for
// that one.
func TestBefore(t *testing.T) {
	alice, mallory := newSigner(t), newSigner(t)
	signers, err := trusting(alice)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const id = "0123456789ab.1"
	a, m := sign.Fingerprint(alice.PublicKey()), sign.Fingerprint(mallory.PublicKey())
	for _, tt := range []struct {
		name  string
		found []ci.Offer
		want  string
	}{
		{"nobody else", []ci.Offer{{Executor: "me", ID: id, State: "queued", Signer: a}}, ""},
		{"I am first", []ci.Offer{{Executor: "me", ID: id, State: "queued", Signer: a}, {Executor: "a", ID: id, State: "queued", Signer: a}}, ""},
		{"alice is first", []ci.Offer{{Executor: "a", ID: id, State: "test", Signer: a}, {Executor: "me", ID: id, State: "queued", Signer: a}}, "a"},
		{"mallory is not waited for", []ci.Offer{{Executor: "m", ID: id, State: "test", Signer: m}, {Executor: "me", ID: id, State: "queued", Signer: a}}, ""},
		{"nor is what has ended", []ci.Offer{{Executor: "a", ID: id, State: "failed", Signer: a}}, ""},
	} {
		o, ok := before(tt.found, signers, "n/me/ci/"+id)
		if o.Executor != tt.want || ok != (tt.want != "") {
			t.Errorf("%s: before = %q, %v, want %q", tt.name, o.Executor, ok, tt.want)
		}
	}
}

func TestKey(t *testing.T) {
	base := string(Key(conf, commit, tree, []string{"test"}).Text())
	for _, want := range []string{"arch=", "cache=''\n", "commit=" + commit, "coreos=debian-12/", "env=''", "net=build", "secrets=''", "target=test", "version=1"} {
		if !strings.Contains("\n"+base, "\n"+want) {
			t.Errorf("the key\n%slacks %s", base, want)
		}
	}
	order := func(names ...string) string {
		return string(Key(&config.Config{Env: names, Secrets: names}, commit, tree, []string{"test"}).Text())
	}
	if order("B=1", "A=2") != order("A=2", "B=1") {
		t.Error("the order of variables is in the key")
	}
	if err := Key(conf, commit, tree, []string{"a\nb"}).Check(); err == nil || !strings.Contains(err.Error(), "the value of target has a newline") {
		t.Errorf("a target with a newline: %v", err)
	}
	for name, c := range map[string]*config.Config{
		"net":     {Net: "all"},
		"env":     {Net: "build", Env: []string{"A=1"}},
		"secrets": {Net: "build", Secrets: []string{"A=1"}},
		"tree":    {Net: "build", MatchTree: true},
	} {
		text := string(Key(c, commit, tree, []string{"test"}).Text())
		if text == base {
			t.Errorf("%s does not change the key", name)
		}
		if name == "secrets" && strings.Contains(text, "A=1") {
			t.Error("the value of a secret is in the key")
		}
		if name == "tree" && strings.Contains(text, commit) {
			t.Error("the commit is in the key of a tree")
		}
	}
}
