package replay

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/config"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
)

// Nearest holds the key against the nearest run, and says what would make that one
// count.
func TestNearest(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", "/config")
	alice, mallory := newSigner(t), newSigner(t)
	conf := &config.Config{Net: "build", MaxAge: time.Hour, Env: []string{"A=1"}}
	env := func(words ...string) ci.Attrs {
		c := *conf
		c.Env = words
		return Key(&c, commit, tree, []string{"test"})
	}
	two := *conf
	two.Env, two.Net = []string{"A=2"}, "all"
	key, now := env("A=1"), time.Now()
	elsewhere := Key(conf, strings.Repeat("8", 40), tree, []string{"test"})
	for _, tt := range []struct {
		name  string
		own   ci.Attrs // of the run in the store; nil: none
		peers map[string]peer
		want  []string // regular expressions, a line each
	}{
		{"nobody", nil, nil, []string{"there is no finished run of this repository to hold it against"}},
		{"in the store", env("A=2", "B='x"), nil, []string{`the nearest is ci/0123456789ab\.1 of the store, passed at .*Z`, `env: yours 'A=1', theirs 'A=2' 'B=''x'`}},
		{"of two the nearer", nil, map[string]peer{
			"a": newPeer(t, alice, Key(&two, commit, tree, []string{"test"}), "passed", now),
			"b": newPeer(t, alice, env("A=2"), "passed", now.Add(-time.Minute)),
		}, []string{"the nearest is n/b/ci/0123456789ab.1 at the orchestrator, passed at .*", "env: yours 'A=1', theirs 'A=2'"}},
		{"the store is nearer", env("A=1", "B=2"), map[string]peer{"a": newPeer(t, alice, Key(&two, commit, tree, []string{"test"}), "passed", now)},
			[]string{"the nearest is ci/.* of the store, .*", "env: yours 'A=1', theirs 'A=1' 'B=2'"}},
		{"another commit", elsewhere, nil, []string{"the nearest is ci/.*", "commit: yours '" + commit + "', theirs '8{40}'"}},
		{"failed", nil, map[string]peer{"a": newPeer(t, alice, key, "failed", now)},
			[]string{"the nearest is n/a/.*, failed at .*", "state: it ended as failed, and only passed runs are replayed"}},
		{"old and of a stranger", nil, map[string]peer{"a": newPeer(t, mallory, key, "passed", now.Add(-3*time.Hour))},
			[]string{"the nearest is n/a/.*", "age: it ended at .*Z, and CI_MAXAGE is 1h0m0s",
				`trust: its signer SHA256:.* is not trusted: .*; if you know whose key that is: echo '\* namespaces="run@9ci" ` +
					regexp.QuoteMeta(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(mallory.PublicKey())))) + `' >>'/config/9ci/allowed_signers'`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kept := newKept(t, alice, tt.own)
			m := newMux(func(name string, p peer) string { return passed(name, p) }, tt.peers)
			r := &Replayer{Store: kept, Signers: trusting(alice),
				Mux: func(context.Context) (fs.Dir, error) { return m, nil }, Ask: m.ask,
				Say: func(format string, args ...any) { t.Errorf(format, args...) }}
			got := r.Nearest(t.Context(), key, commit, tree, conf)
			ok := len(got) == len(tt.want)
			for i := range min(len(got), len(tt.want)) {
				ok = ok && regexp.MustCompile("^"+tt.want[i]+"$").MatchString(got[i])
			}
			if !ok {
				t.Errorf("Nearest says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// newKept returns a store with a run that has that key, unless it is nil.
func newKept(t *testing.T, by ssh.Signer, key ci.Attrs) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if key != nil {
		seal(t, s, by, key, "passed", time.Now())
	}
	return s
}

// Of the many runs that an orchestrator may tell of, Nearest looks at a few.
func TestNearestHostile(t *testing.T) {
	alice := newSigner(t)
	m := newMux(passed, nil)
	for i := range 200 {
		m.answer += ci.Offer{Executor: fmt.Sprint("a", i), ID: "0123456789ab.1", State: "passed"}.String() + "\n"
	}
	looked := 0
	r := &Replayer{Store: newKept(t, alice, nil), Signers: trusting(alice),
		Mux: func(context.Context) (fs.Dir, error) { return counted{m, &looked}, nil }, Ask: m.ask, Say: t.Logf}
	got := r.Nearest(t.Context(), Key(conf, commit, tree, []string{"test"}), commit, tree, conf)
	if len(got) != 1 || looked > 2*maxNeighbours {
		t.Errorf("Nearest says %q after a look at %d runs of 400", got, looked)
	}
}

// An executor may have a key without end.
func TestNearestEndless(t *testing.T) {
	alice := newSigner(t)
	const id = "0123456789ab.1"
	m := newMux(passed, nil)
	m.Dir = fs.NewDir("/", fs.NewDir("n", fs.NewDir("a", fs.NewDir("ci", fs.NewDir(id, fs.Named(endless{}, "key"))))))
	m.answer = ci.Offer{Executor: "a", ID: id, State: "passed"}.String() + "\n"
	r := &Replayer{Store: newKept(t, alice, nil), Signers: trusting(alice), Mux: func(context.Context) (fs.Dir, error) { return m, nil }, Ask: m.ask, Say: t.Logf}
	if got := r.Nearest(t.Context(), Key(conf, commit, tree, []string{"test"}), commit, tree, conf); len(got) != 1 || !strings.HasPrefix(got[0], "there is no finished run") {
		t.Errorf("Nearest says %q", got)
	}
}

// An endless file is the letter a, over and over.
type endless struct{}

func (endless) Stat(context.Context) (fs.Stat, error)              { return fs.Stat{Name: "key", Mode: 0o444}, nil }
func (endless) Open(context.Context, fs.OpenMode) (fs.File, error) { return endless{}, nil }
func (endless) ReadAt(_ context.Context, p []byte, _ int64) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}
func (endless) WriteAt(context.Context, []byte, int64) (int, error) { return 0, fs.ErrReadOnly }
func (endless) Close() error                                        { return nil }

// A counted mux counts the walks to n.
type counted struct {
	fs.Dir
	n *int
}

func (c counted) Walk(ctx context.Context, name string) (fs.Node, error) {
	if name == "n" {
		*c.n++
	}
	return c.Dir.Walk(ctx, name)
}
