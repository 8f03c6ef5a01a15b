package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
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

// A city is a namespace at an orchestrator whose executors come and go.
type city struct {
	t      *testing.T
	events *fs.Feed

	mu     sync.Mutex // guards what follows
	down   bool
	n      map[string]fs.Dir
	adopts []string
}

func newCity(t *testing.T) *city { return &city{t: t, events: new(fs.Feed), n: map[string]fs.Dir{}} }

func (c *city) say(format string, args ...any) { c.events.Write(fmt.Sprintf(format, args...)) }

func (c *city) join(name string, tree fs.Dir) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[name] = tree
	c.say("/n/%s join %s\n", name, ci.FormatTime(time.Now()))
}

func (c *city) leave(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.n, name)
	c.say("/n/%s leave %s\n", name, ci.FormatTime(time.Now()))
}

// tell says that a run of an executor has passed.
func (c *city) tell(name, id string) {
	c.say("/n/%s/ci/%s passed 0 1.000 %s\n", name, id, ci.FormatTime(time.Now()))
}

// restart loses all connections: events end, and begin with who is there.
func (c *city) restart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.events
	c.events = new(fs.Feed)
	for name := range c.n {
		c.say("/n/%s join %s\n", name, ci.FormatTime(time.Now()))
	}
	old.Close()
}

func (c *city) root(context.Context) (fs.Dir, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return nil, errors.New("connection refused")
	}
	return cityDir{fs.NewDir("/", fs.NewDir("n")), c}, nil
}

type cityDir struct {
	fs.Dir
	c *city
}

func (d cityDir) Walk(ctx context.Context, name string) (fs.Node, error) {
	c := d.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch name {
	case "n":
		var nodes []fs.Node
		for name, tree := range c.n {
			nodes = append(nodes, fs.Named(tree, name))
		}
		return fs.NewDir("n", nodes...), nil
	case "event":
		return feedFile{c.events}, nil
	case "status":
		text := "mode=orchestrator\n"
		for _, a := range c.adopts {
			text += "adopts=" + a + "\n"
		}
		return fs.TextFile("status", func(context.Context) ([]byte, error) { return []byte(text), nil }), nil
	}
	return d.Dir.Walk(ctx, name)
}

// A feedFile is a file that blocks.
type feedFile struct{ feed *fs.Feed }

func (f feedFile) Stat(context.Context) (fs.Stat, error) {
	return fs.Stat{Name: "event", Mode: 0o444}, nil
}
func (f feedFile) Open(context.Context, fs.OpenMode) (fs.File, error)  { return f, nil }
func (f feedFile) WriteAt(context.Context, []byte, int64) (int, error) { return 0, fs.ErrReadOnly }
func (f feedFile) Close() error                                        { return nil }
func (f feedFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return f.feed.ReadAt(ctx, p, off)
}

// index is a tree with an index file of its own, and of another tree's files.
type index struct {
	fs.Dir
	text string
}

func (x index) Walk(ctx context.Context, name string) (fs.Node, error) {
	if name == "index" {
		return fs.TextFile("index", func(context.Context) ([]byte, error) { return []byte(x.text), nil }), nil
	}
	return x.Dir.Walk(ctx, name)
}

// An adoptTest is an Adopter in a city.
type adoptTest struct {
	*city
	alice, mallory ssh.Signer
	kept           *store.Store
	said           []string // guarded by the city's mu
	r              *Replayer
	ends           int
}

func newAdoptTest(t *testing.T, keep store.Keep) *adoptTest {
	a := &adoptTest{city: newCity(t), alice: newSigner(t), mallory: newSigner(t)}
	a.kept = a.store()
	a.kept.SetKeep(keep)
	a.r = &Replayer{Store: a.kept, Signers: trusting(a.alice), Mux: a.root, Ask: a.find,
		Name: func(context.Context) (string, error) { return "me", nil },
		Say: func(format string, args ...any) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.said = append(a.said, fmt.Sprintf(format, args...))
		}}
	return a
}

func (a *adoptTest) store() *store.Store {
	s, err := store.Open(a.t.TempDir())
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { s.Close() })
	return s
}

// made puts a run of another target into a store, a second after the last.
func (a *adoptTest) made(s *store.Store, by ssh.Signer, state string) store.Entry {
	a.ends++
	key := Key(conf, commit, tree, []string{fmt.Sprint("target", a.ends)})
	e, err := s.Get(seal(a.t, s, by, key, state, time.Now().Add(time.Duration(a.ends)*time.Second-time.Minute)))
	if err != nil {
		a.t.Fatal(err)
	}
	return e
}

// start lets an Adopter go until the test's end.
func (a *adoptTest) start() {
	ad := &Adopter{Replayer: func() *Replayer { return a.r }, Config: &config.Config{MaxAge: time.Hour, ReplayTimeout: time.Minute}}
	ctx, cancel := context.WithCancel(a.t.Context())
	done := make(chan struct{})
	go func() { ad.Run(ctx); close(done) }()
	a.t.Cleanup(func() { cancel(); <-done })
}

func (a *adoptTest) want(when string, runs ...store.Entry) {
	a.t.Helper()
	synctest.Wait()
	var got, want []string
	for e := range a.kept.Runs() {
		got = append(got, e.Score)
	}
	for _, e := range runs {
		want = append(want, e.Score)
	}
	slices.Sort(got)
	slices.Sort(want)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Equal(got, want) {
		a.t.Errorf("%s: the store has %d runs, want %d\nsaid %s", when, len(got), len(want), strings.Join(a.said, "\n"))
	}
}

// count returns how often something was said, and forgets all.
func (a *adoptTest) count(words string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.said {
		if strings.Contains(s, words) {
			n++
		}
	}
	a.said = nil
	return n
}

func TestAdopt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdoptTest(t, store.Keep{})
		s, other := a.store(), a.store()
		one := a.made(s, a.alice, "passed")
		a.made(s, a.alice, "failed")
		a.made(s, a.mallory, "passed")
		two := a.made(s, a.alice, "passed")
		a.join("alice", store.NewTree(s, nil))
		a.start()
		a.want("at first", one, two)
		if n := a.count("is adopted from n/alice, signed by " + sign.Fingerprint(a.alice.PublicKey())); n != 2 {
			t.Errorf("%d adoptions were told, want 2", n)
		}

		// What it has it does not fetch, from others or from itself.
		a.join("me", store.NewTree(a.kept, nil))
		tar := func(e store.Entry) io.Reader {
			r, w := io.Pipe()
			go func() { w.CloseWithError(s.WriteTar(t.Context(), w, e.ID)) }()
			return r
		}
		for _, e := range []store.Entry{one, two} {
			if _, err := other.Adopt(t.Context(), tar(e), nil); err != nil {
				t.Fatal(err)
			}
		}
		a.join("other", store.NewTree(other, nil))
		a.want("when another has them", one, two)

		three := a.made(s, a.alice, "passed")
		a.tell("alice", three.ID)
		a.want("after a result", one, two, three)

		// Of a run that was evicted here it knows that it had it.
		for e := range a.kept.Runs() {
			if e.Score == one.Score {
				if err := a.kept.Forget(e.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		a.leave("alice")
		a.join("alice", store.NewTree(s, nil))
		a.want("after one was forgotten", two, three)

		// The orchestrator goes, and comes back later.
		a.mu.Lock()
		a.down = true
		a.mu.Unlock()
		a.restart()
		four := a.made(s, a.alice, "passed")
		time.Sleep(10 * time.Minute)
		a.mu.Lock()
		a.down = false
		a.mu.Unlock()
		a.want("while it is down", two, three)
		if n := a.count("nothing is adopted: connection refused: it is tried again"); n != 1 {
			t.Errorf("that nothing is adopted was told %d times, want once", n)
		}
		time.Sleep(time.Minute)
		a.want("when it is back", two, three, four)
	})
}

// The newest runs are adopted, as many as are kept, and none of those for which a
// newer one would go.
func TestAdoptKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdoptTest(t, store.Keep{Count: 3})
		own := a.made(a.kept, a.alice, "passed")
		last := a.made(a.kept, a.alice, "failed")
		s := a.store()
		var made []store.Entry
		for range 10 {
			made = append(made, a.made(s, a.alice, "passed"))
		}
		a.join("alice", store.NewTree(s, nil))
		a.start()
		a.want("at first", own, last, made[9], made[8], made[7])
		if n := a.count("is adopted"); n != 3 {
			t.Errorf("%d adoptions were told, want 3", n)
		}
	})
}

// An executor that offers what it has not, sends something else, stalls or vanishes
// does not keep others back, and is asked ever less.
func TestAdoptHostile(t *testing.T) {
	line := func(e store.Entry, id, signer, score string, end time.Time) string {
		return string(ci.IndexLine{ID: id, Status: ci.Status{State: "passed", Code: 0, Took: time.Second, Time: end}, Tree: tree, Commit: commit, Signer: signer, Score: score}.Append(nil))
	}
	for name, hostile := range map[string]func(a *adoptTest, good store.Entry, s *store.Store) fs.Dir{
		"claims": func(a *adoptTest, good store.Entry, s *store.Store) fs.Dir {
			var text strings.Builder
			for i := range 5000 {
				text.WriteString(line(good, fmt.Sprintf("0123456789ab.%d", i+1), good.Signer, fmt.Sprintf("%064x", i+1), time.Now()))
			}
			return index{store.NewTree(a.store(), nil), text.String()}
		},
		"another run for the score": func(a *adoptTest, good store.Entry, s *store.Store) fs.Dir {
			forged := a.store()
			e := a.made(forged, a.mallory, "passed")
			return index{store.NewTree(forged, nil), line(good, e.ID, good.Signer, good.Score, good.Time)}
		},
		"a later end": func(a *adoptTest, good store.Entry, s *store.Store) fs.Dir {
			return index{store.NewTree(s, nil), line(good, good.ID, good.Signer, good.Score, good.Time.Add(time.Second))}
		},
		"another score": func(a *adoptTest, good store.Entry, s *store.Store) fs.Dir {
			return index{store.NewTree(s, nil), line(good, good.ID, good.Signer, strings.Repeat("0", 64), good.Time.Add(time.Second))}
		},
		"vanishes": func(a *adoptTest, good store.Entry, s *store.Store) fs.Dir { return cut{store.NewTree(s, nil)} },
		"stalls":   func(a *adoptTest, good store.Entry, s *store.Store) fs.Dir { return mute{store.NewTree(s, nil)} },
		"a failed run": func(a *adoptTest, good store.Entry, s *store.Store) fs.Dir {
			failed := a.store()
			e := a.made(failed, a.alice, "failed")
			return index{store.NewTree(failed, nil), line(e, e.ID, e.Signer, e.Score, e.Time)}
		},
		"another repository's": func(a *adoptTest, good store.Entry, s *store.Store) fs.Dir {
			foreign := a.store()
			run, err := foreign.Create(commit)
			if err != nil {
				t.Fatal(err)
			}
			run.SetKey(Key(conf, commit, tree, []string{"foreign"}))
			run.SetInfo(ci.Attrs{{Name: "repo", Value: "example.org/bob/other"}})
			if err := run.Seal(t.Context(), "passed", 0, func(m []byte) ([]byte, error) { return sign.Manifest(a.alice, m) }); err != nil {
				t.Fatal(err)
			}
			return store.NewTree(foreign, nil)
		},
		"garbage": func(a *adoptTest, good store.Entry, s *store.Store) fs.Dir {
			return index{store.NewTree(s, nil), strings.Repeat("x", 1<<20)}
		},
	} {
		for _, later := range []time.Duration{500 * time.Millisecond, 30 * time.Minute} {
			t.Run(fmt.Sprint(name, " ", later), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := newAdoptTest(t, store.Keep{})
					s := a.store()
					good := a.made(s, a.alice, "passed")
					a.join("mallory", hostile(a, good, s))
					a.start()
					time.Sleep(later)
					a.want("from mallory")
					a.join("alice", store.NewTree(s, nil))
					time.Sleep(30 * time.Second)
					a.want("from alice", good)
					if n := a.count("is not adopted"); n > 20 {
						t.Errorf("%d failures in half an hour were told", n)
					}
				})
			})
		}
	}
}

// A run that one executor fails to give comes from another at once.
func TestAdoptVanishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdoptTest(t, store.Keep{})
		s := a.store()
		good := a.made(s, a.alice, "passed")
		a.join("a", cut{store.NewTree(s, nil)})
		a.join("b", cut{store.NewTree(s, nil)})
		a.join("c", store.NewTree(s, nil))
		a.start()
		a.want("at once", good)
	})
}

// find answers as the orchestrator does, whatever is asked.
func (a *adoptTest) find(ctx context.Context, _ []byte, _ time.Duration) (answer []byte, release func(), err error) {
	if _, err := a.root(ctx); err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, tree := range a.n {
		index, err := ask.File(ctx, tree, "index")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(index)) {
			if l, err := ci.ParseIndexLine(strings.TrimSuffix(line, "\n")); err == nil {
				answer = fmt.Appendln(answer, ci.Offer{Executor: name, ID: l.ID, State: l.State, Took: l.Took, Score: l.Score, Signer: l.Signer})
			}
		}
	}
	return answer, func() {}, nil
}

// An executor that leaves waits until one that adopts has its run: not for others,
// and not for long.
func TestAwaitAdopter(t *testing.T) {
	for _, tt := range []struct {
		name   string
		adopts []string
		then   func(a *adoptTest, run store.Entry, tree fs.Dir) // after a second
		took   time.Duration
		said   string
	}{
		{"none is there", nil, nil, 0, ""},
		{"itself alone", []string{"me"}, nil, 0, ""},
		{"adopted", []string{"me", "bob"}, func(a *adoptTest, run store.Entry, tree fs.Dir) {
			a.join("bob", tree)
			a.tell("bob", run.ID)
		}, time.Second, ""},
		{"replayed by another", []string{"bob"}, func(a *adoptTest, run store.Entry, tree fs.Dir) {
			a.join("carol", tree)
			a.tell("carol", run.ID)
		}, 30 * time.Second, "within 30s"},
		{"the adopter leaves", []string{"bob"}, func(a *adoptTest, run store.Entry, tree fs.Dir) {
			a.mu.Lock()
			a.adopts = nil
			a.mu.Unlock()
			a.leave("bob")
		}, time.Second, ""},
		{"it does not trust us", []string{"bob"}, func(a *adoptTest, run store.Entry, tree fs.Dir) {
			for range 100 {
				a.tell("bob", "0123456789ab.77")
			}
		}, 30 * time.Second, "no adopter has taken ci/0123456789ab.1 within 30s"},
		{"the orchestrator starts anew", []string{"bob"}, func(a *adoptTest, run store.Entry, tree fs.Dir) {
			a.restart()
			time.Sleep(5 * time.Second)
			a.join("bob", tree)
			a.tell("bob", run.ID)
		}, 6 * time.Second, ""},
		{"the orchestrator is lost", []string{"bob"}, func(a *adoptTest, run store.Entry, tree fs.Dir) {
			a.mu.Lock()
			a.down = true
			a.mu.Unlock()
			a.restart()
		}, 30 * time.Second, "within 30s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAdoptTest(t, store.Keep{})
				run := a.made(a.kept, a.alice, "passed")
				a.join("me", store.NewTree(a.kept, nil))
				a.adopts = tt.adopts
				go func() {
					time.Sleep(time.Second)
					if tt.then != nil {
						tt.then(a, run, store.NewTree(a.kept, nil))
					}
				}()
				began := time.Now()
				a.r.AwaitAdopter(t.Context(), run)
				if took := time.Since(began); took != tt.took {
					t.Errorf("it waited for %v, want %v", took, tt.took)
				}
				if n := a.count(tt.said); tt.said != "" && n != 1 || tt.took == 0 && n > 0 {
					t.Errorf("%q was said %d times", tt.said, n)
				}
				time.Sleep(time.Minute) // then has ended
			})
		})
	}
	// A signal ends it.
	synctest.Test(t, func(t *testing.T) {
		a := newAdoptTest(t, store.Keep{})
		run := a.made(a.kept, a.alice, "passed")
		a.adopts = []string{"bob"}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		if a.r.AwaitAdopter(ctx, run); time.Since(began) != time.Second {
			t.Errorf("it waited for %v after a signal", time.Since(began)-time.Second)
		}
	})
}
