package report

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access"
)

const (
	hello  = "github.com/alice/hello"
	commit = "3f2a9c1d0b7e4a5f6a7b8c9d0e1f2a3b4c5d6e7f"
	tree   = "1111111111111111111111111111111111111111"
)

// A mux is a tree of namespaces in a test.
type mux struct {
	mu     sync.Mutex
	spaces map[string]*muxSpace
	events fs.Feed
	read   func(ctx context.Context, run string) // is called before a key is read

	indexed func() // is called when an index is read
}

type muxSpace struct {
	events    fs.Feed
	executors []string
	lines     []string          // of the index, the newest first
	keys      map[string]string // by path
}

func newMux() *mux { return &mux{spaces: map[string]*muxSpace{}} }

func (m *mux) space(ns string) *muxSpace {
	sp := m.spaces[ns]
	if sp == nil {
		sp = &muxSpace{keys: map[string]string{}}
		m.spaces[ns] = sp
	}
	return sp
}

func (m *mux) join(ns, executor string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sp := m.space(ns)
	line := "/n/" + executor + " join " + ci.FormatTime(time.Now()) + "\n"
	sp.executors = append(sp.executors, executor)
	sp.events.Write(line)
	m.events.Write("/" + ns + line)
}

func (m *mux) leave(ns, executor string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sp := m.space(ns)
	prefix := "/n/" + executor + "/"
	sp.executors = slices.DeleteFunc(sp.executors, func(e string) bool { return e == executor })
	sp.lines = slices.DeleteFunc(sp.lines, func(l string) bool { return strings.HasPrefix(l, prefix) })
	for path := range sp.keys {
		if strings.HasPrefix(path, prefix) {
			delete(sp.keys, path)
		}
	}
	line := "/n/" + executor + " leave " + ci.FormatTime(time.Now()) + "\n"
	sp.events.Write(line)
	m.events.Write("/" + ns + line)
}

// show has an executor show a run. A state "passed 0 1.000" is the end of it, now unless
// end is given.
func (m *mux) show(ns, executor, id, commit, state, key string, end ...time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sp := m.space(ns)
	path := "/n/" + executor + "/ci/" + id
	at := time.Now()
	if len(end) > 0 {
		at = end[0]
	}
	status := state + " " + ci.FormatTime(at)
	sp.lines = slices.DeleteFunc(sp.lines, func(l string) bool { return strings.HasPrefix(l, path+" ") })
	sp.lines = slices.Insert(sp.lines, 0, fmt.Sprintf("%s %s %s %s signer %x", path, status, tree, commit, sha256.Sum256([]byte(id+status+key))))
	sp.keys[path] = key
	sp.events.Write(path + " " + status + "\n")
}

func text(name string, text func() string) fs.Node {
	return fs.Text{Name: name, Make: func(context.Context) ([]byte, error) { return []byte(text()), nil }, ModTime: time.Now}
}

type feedFile struct {
	f   *fs.Feed
	off int64
}

func (f *feedFile) ReadAt(ctx context.Context, p []byte, _ int64) (int, error) {
	n, err := f.f.ReadAt(ctx, p, f.off)
	f.off += int64(n)
	return n, err
}
func (f *feedFile) WriteAt(context.Context, []byte, int64) (int, error) { return 0, fs.ErrReadOnly }
func (f *feedFile) Close() error                                        { return nil }

type feedNode struct{ f *fs.Feed }

func (n feedNode) Stat(context.Context) (fs.Stat, error) {
	return fs.FileStat("event", 1, 0, time.Time{}), nil
}
func (n feedNode) Open(context.Context, fs.OpenMode) (fs.File, error) { return &feedFile{f: n.f}, nil }

// dir is the directory at a path of the tree.
func (m *mux) dir(path string) fs.Dir {
	return fs.SynthDir{
		Describe: func() (fs.Stat, error) { return fs.DirStat("x", 1, time.Time{}), nil },
		List:     func(context.Context) ([]fs.Node, error) { return nil, nil },
		Find: func(ctx context.Context, name string) (fs.Node, error) {
			p := strings.TrimPrefix(path+"/"+name, "/")
			m.mu.Lock()
			defer m.mu.Unlock()
			if p == "event" {
				return feedNode{&m.events}, nil
			}
			for ns, sp := range m.spaces {
				rest, ok := strings.CutPrefix(p, ns)
				if !ok || len(sp.executors) == 0 {
					continue
				}
				run, isKey := strings.CutSuffix(rest, "/key")
				switch {
				case rest == "/event":
					return feedNode{&sp.events}, nil
				case rest == "/index":
					return text("index", func() string {
						m.mu.Lock()
						defer m.mu.Unlock()
						if m.indexed != nil {
							m.indexed()
						}
						return strings.Join(append(slices.Clone(sp.lines), ""), "\n")
					}), nil
				case isKey:
					if key, ok := sp.keys[run]; ok {
						read := m.read
						if read != nil {
							m.mu.Unlock()
							read(ctx, run)
							m.mu.Lock()
						}
						return text("key", func() string { return key }), nil
					}
					return nil, iofs.ErrNotExist
				}
			}
			return m.dir(p), nil
		},
	}
}

// A site is a forge in a test.
type site struct {
	mu      sync.Mutex
	tells   func(ns string) bool                                   // nil: all
	say     func(ctx context.Context, s access.CommitStatus) error // nil: it takes all
	lost    bool                                                   // it takes the next status, and its answer is lost
	has     map[string][]access.CommitStatus                       // by commit, the oldest first
	asked   int
	calls   int
	atOnce  map[string]int
	mostNow int
}

func newSite() *site { return &site{has: map[string][]access.CommitStatus{}, atOnce: map[string]int{}} }

func (s *site) Tells(ns string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tells == nil || s.tells(ns)
}

func (s *site) Tell(ctx context.Context, is access.CommitStatus) error {
	s.mu.Lock()
	say := s.say
	s.calls++
	s.atOnce[is.Namespace]++
	s.mostNow = max(s.mostNow, len(s.atOnce))
	if s.atOnce[is.Namespace] > 1 {
		panic("two statuses of one namespace at once")
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.atOnce, is.Namespace)
	}()
	if say != nil {
		if err := say(ctx, is); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.has[is.Commit] = append(s.has[is.Commit], is)
	if s.lost {
		s.lost = false
		return fmt.Errorf("%w: the answer was lost", fs.ErrBusy)
	}
	return nil
}

func (s *site) Told(_ context.Context, is access.CommitStatus) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	for _, x := range slices.Backward(s.has[is.Commit]) {
		if x.Context == is.Context {
			return x == is, nil
		}
	}
	return false, nil
}

// counts returns how often the forge was asked what it has, how often it was told, and of
// how many namespaces at once at most.
func (s *site) counts() (asked, told, atOnce int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked, s.calls, s.mostNow
}

func (s *site) set(say func(ctx context.Context, s access.CommitStatus) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.say = say
}

// of returns what a commit has, a line each: context, state, and the beginning of the
// description.
func (s *site) of(commit string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, x := range s.has[commit] {
		word, _, _ := strings.Cut(x.Description, " ")
		fmt.Fprintf(&b, "%s %v %s\n", x.Context, x.Passed, word)
	}
	return b.String()
}

// A world is a mux, a forge and a Reporter between them, in a bubble.
type world struct {
	*testing.T
	*mux
	*site
	dir      string
	log      bytes.Buffer
	end      func()
	reporter *Reporter
}

func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, mux: newMux(), site: newSite(), dir: t.TempDir(), end: func() {}}
		w.start()
		f(t, w)
		w.end()
	})
}

// start starts a Reporter, as at a start of the orchestrator.
func (w *world) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	w.reporter = New(Options{Dir: w.dir, URL: "https://ci.example.org", Forge: w.site, Log: slog.New(slog.NewTextHandler(&w.log, nil))})
	go func() {
		done <- w.reporter.Run(ctx, w.mux.dir(""))
	}()
	w.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			w.Errorf("Run = %v", err)
		}
	})
}

func (w *world) want(what, commit, want string) {
	w.Helper()
	synctest.Wait()
	if got := w.of(commit); got != want {
		w.Errorf("%s: the commit has\n%s, want\n%s", what, got, want)
	}
}

const amd64 = "arch=amd64\ntarget=test\n"

// Runs that have ended get their commit a status, by context, in order, once each.
func TestStatuses(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.join(hello, "box")
		w.show(hello, "box", "3f2a9c1d0b7e.1", commit, "boot - 0.100", amd64)
		w.want("a run goes on", commit, "")
		w.show(hello, "box", "3f2a9c1d0b7e.1", commit, "failed 2 41.000", amd64)
		w.want("it failed", commit, "9ci/amd64 false failed\n")
		got := w.has[commit][0]
		if got.Namespace != hello || got.URL != "https://ci.example.org/rev/"+commit+"/"+hello || !strings.HasPrefix(got.Description, "failed with status 2 in 41.000 s, ") {
			t.Errorf("it has %+v", got)
		}
		time.Sleep(time.Second)
		w.show(hello, "box", "3f2a9c1d0b7e.2", commit, "passed 0 40.000", amd64)
		w.want("then passed", commit, "9ci/amd64 false failed\n9ci/amd64 true passed\n")
		w.show(hello, "box", "3f2a9c1d0b7e.3", commit, "cancelled - 1.000", amd64)
		w.show(hello, "box", "3f2a9c1d0b7e.4", commit, "error - 1.000", amd64)
		w.want("what neither passed nor failed", commit, "9ci/amd64 false failed\n9ci/amd64 true passed\n")
		w.show(hello, "box", "3f2a9c1d0b7e.5", commit, "passed 0 1.000", "arch=amd64\ntarget='lint vet'\n")
		w.show(hello, "box", "3f2a9c1d0b7e.6", commit, "passed 0 1.000", "arch=arm64\ntarget=''\n")
		synctest.Wait()
		for _, c := range []string{"9ci/amd64 lint vet true passed\n", "9ci/arm64 true passed\n"} {
			if !strings.Contains(w.of(commit), c) {
				t.Errorf("no %q in %q", c, w.of(commit))
			}
		}
		if asked, _, _ := w.counts(); asked != 0 {
			t.Errorf("the forge was asked %d times what it has", asked)
		}
	})
}

// A run that others have adopted, or run's executor shows again, is told once; so is one
// that an executor shows that has come with it. One that ended before the one that was
// told is not.
func TestOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.join(hello, "box")
		first := time.Now()
		time.Sleep(time.Minute)
		end := time.Now()
		w.show(hello, "box", "3f2a9c1d0b7e.1", commit, "passed 0 40.000", amd64, end)
		const once = "9ci/amd64 true passed\n"
		w.want("one", commit, once)
		w.join(hello, "other")
		w.show(hello, "other", "3f2a9c1d0b7e.1", commit, "passed 0 40.000", amd64, end)
		w.show(hello, "box", "3f2a9c1d0b7e.1", commit, "passed 0 40.000", amd64, end)
		w.want("a copy", commit, once)
		w.show(hello, "other", "3f2a9c1d0b7e.2", commit, "failed 1 3.000", amd64, first)
		w.want("an older one", commit, once)
		w.leave(hello, "box")
		w.leave(hello, "other")
		synctest.Wait()
		w.join(hello, "box")
		w.show(hello, "box", "3f2a9c1d0b7e.1", commit, "passed 0 40.000", amd64, end)
		time.Sleep(scanEvery)
		w.want("again", commit, once)
		w.end()
		w.start()
		time.Sleep(scanEvery)
		w.want("after a restart", commit, once)
		w.end()
		if err := os.Remove(filepath.Join(w.dir, File)); err != nil {
			t.Fatal(err)
		}
		w.start()
		w.want("after the file was lost", commit, once)
	})
}

// Of the copies of a run that executors come with, few keys are read.
func TestCopies(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var reads atomic.Int64
		w.read = func(context.Context, string) { reads.Add(1) }
		end := time.Now()
		for i := range 100 {
			box := fmt.Sprintf("box%d", i)
			w.join(hello, box)
			w.show(hello, box, "3f2a9c1d0b7e.1", commit, "passed 0 1.000", amd64, end)
			synctest.Wait()
		}
		time.Sleep(scanEvery)
		w.want("a hundred copies", commit, "9ci/amd64 true passed\n")
		if n := reads.Load(); n != 1 {
			t.Errorf("%d keys were read", n)
		}
	})
}

// Two executors that show one run at the same moment have it told once.
func TestTwoExecutors(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.join(hello, "a")
		w.join(hello, "b")
		end := time.Now()
		for i := range 50 {
			c := fmt.Sprintf("%040x", i+1)
			w.show(hello, "a", c[28:]+".1", c, "passed 0 1.000", amd64, end)
			w.show(hello, "b", c[28:]+".1", c, "passed 0 1.000", amd64, end)
		}
		for i := range 50 {
			w.want("two", fmt.Sprintf("%040x", i+1), "9ci/amd64 true passed\n")
		}
	})
}

// What ended before the orchestrator began is told too, unless it was told or is old; an
// executor that leaves as its run ends has it told.
func TestLate(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.end()
		w.join(hello, "box")
		other := strings.Repeat("2", 40)
		w.show(hello, "box", "3f2a9c1d0b7e.1", commit, "passed 0 1.000", amd64, time.Now().Add(-time.Hour))
		w.show(hello, "box", "222222222222.1", other, "passed 0 1.000", amd64, time.Now().Add(-toldFor-time.Second))
		w.show(hello, "box", "222222222222.2", other, "passed 0 1.000", amd64, time.Now().Add(skew+2*time.Second))
		w.start()
		w.want("an hour ago", commit, "9ci/amd64 true passed\n")
		w.want("too old, or in the future", other, "")
		if asked, _, _ := w.counts(); asked != 1 {
			t.Errorf("the forge was asked %d times what it has", asked)
		}
		third := strings.Repeat("3", 40)
		w.show(hello, "box", "333333333333.1", third, "boot - 0.100", amd64)
		synctest.Wait()
		w.set(func(context.Context, access.CommitStatus) error { return fs.ErrBusy })
		w.show(hello, "box", "333333333333.1", third, "passed 0 1.000", amd64)
		w.leave(hello, "box")
		w.want("the forge is down", third, "")
		w.end()
		w.set(nil)
		w.start() // the run is in the file, and no executor has it
		w.want("the executor has left", third, "9ci/amd64 true passed\n")
	})
}

// An orchestrator that is killed between what it writes and what it tells tells no run
// twice, and loses none; an answer that is lost is asked for.
func TestKilled(t *testing.T) {
	for _, taken := range []bool{false, true} {
		inWorld(t, func(t *testing.T, w *world) {
			w.join(hello, "box")
			synctest.Wait()
			w.set(func(ctx context.Context, is access.CommitStatus) error { // a forge that never answers
				if taken {
					w.site.mu.Lock()
					w.site.has[is.Commit] = append(w.site.has[is.Commit], is)
					w.site.mu.Unlock()
				}
				<-ctx.Done()
				return ctx.Err()
			})
			w.show(hello, "box", "3f2a9c1d0b7e.1", commit, "passed 0 1.000", amd64)
			synctest.Wait()
			text, err := os.ReadFile(filepath.Join(w.dir, File))
			if err != nil || !strings.Contains(string(text), "\nbegun "+hello+" "+commit+" 9ci/amd64 passed 0 1.000 ") {
				t.Errorf("the file has %q, %v", text, err)
			}
			w.end()
			text = append(text, "told "+hello+" "+commit...) // it was killed while it wrote
			if err := os.WriteFile(filepath.Join(w.dir, File), text, 0o600); err != nil {
				t.Fatal(err)
			}
			w.set(nil)
			w.start()
			w.want(fmt.Sprintf("taken: %v", taken), commit, "9ci/amd64 true passed\n")
			if asked, _, _ := w.counts(); asked != 1 {
				t.Errorf("the forge was asked %d times", asked)
			}
		})
	}
	inWorld(t, func(t *testing.T, w *world) {
		w.join(hello, "box")
		synctest.Wait()
		w.site.mu.Lock()
		w.site.lost = true
		w.site.mu.Unlock()
		w.show(hello, "box", "3f2a9c1d0b7e.1", commit, "passed 0 1.000", amd64)
		synctest.Wait()
		time.Sleep(busyMax)
		w.want("the answer was lost", commit, "9ci/amd64 true passed\n")
		if asked, _, _ := w.counts(); asked != 1 {
			t.Errorf("the forge was asked %d times", asked)
		}
	})
}

// A forge that is down is told later, one that takes none rarely, and the log has the
// reason once; a commit that is not there is told when it has been pushed; what is not
// taken is given up; and of runs that end meanwhile the last one is told.
func TestRetry(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.join(hello, "box")
		synctest.Wait()
		logged := func(words string) int { return strings.Count(w.log.String(), words) }
		failing := func(err error, state, want string, least, most int, during time.Duration) {
			t.Helper()
			w.set(func(context.Context, access.CommitStatus) error { return err })
			_, told, _ := w.counts()
			before := w.of(commit)
			w.show(hello, "box", "3f2a9c1d0b7e.1", commit, state, amd64)
			time.Sleep(during)
			synctest.Wait()
			_, now, _ := w.counts()
			if n := now - told; n < least || n > most {
				t.Errorf("%v: the forge was told %d times in %v, want %d to %d", err, n, during, least, most)
			}
			if logged(err.Error()) > 1 {
				t.Errorf("%v is in the log %d times", err, logged(err.Error()))
			}
			w.set(nil)
			time.Sleep(time.Hour)
			w.want(err.Error(), commit, before+want)
		}
		failing(fmt.Errorf("%w: the forge is down", fs.ErrBusy), "failed 1 1.000", "9ci/amd64 false failed\n", 8, 14, time.Hour)
		failing(&access.ForbiddenError{Words: "no permission"}, "passed 0 1.000", "9ci/amd64 true passed\n", 6, 40, 24*time.Hour)
		failing(access.ErrNoCommit, "failed 1 1.000", "9ci/amd64 false failed\n", 20, 120, 24*time.Hour)
		failing(&access.RejectedError{Words: "a thousand statuses"}, "passed 0 1.000", "", 1, 1, 24*time.Hour)
		if logged("no permission") != 1 || logged("the forge is down") != 1 || logged("a thousand") != 1 {
			t.Errorf("the log: %s", w.log.String())
		}
		w.set(func(context.Context, access.CommitStatus) error { return fs.ErrBusy })
		before := w.of(commit)
		w.show(hello, "box", "3f2a9c1d0b7e.7", commit, "failed 1 1.000", amd64)
		time.Sleep(2 * time.Second)
		w.show(hello, "box", "3f2a9c1d0b7e.8", commit, "passed 0 1.000", amd64)
		time.Sleep(time.Second)
		w.set(nil)
		time.Sleep(busyMax)
		w.want("the last one", commit, before+"9ci/amd64 true passed\n")

		w.set(func(context.Context, access.CommitStatus) error { return access.ErrNoCommit })
		other := strings.Repeat("2", 40)
		w.show(hello, "box", "222222222222.1", other, "passed 0 1.000", amd64)
		time.Sleep(toldFor + time.Hour)
		synctest.Wait()
		_, told, _ := w.counts()
		w.set(nil)
		time.Sleep(toldFor)
		w.want("a commit that never came", other, "")
		if _, now, _ := w.counts(); now > told {
			t.Errorf("it is told still, %d times", now-told)
		}
	})
}

// A forge that hangs, and one of its namespaces with many runs, hold up no other forge;
// and the Reporter ends all the same.
func TestHangs(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.set(func(ctx context.Context, is access.CommitStatus) error {
			if strings.HasPrefix(is.Namespace, "github.com/") {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		for i := range 20 {
			ns := fmt.Sprintf("github.com/alice/r%d", i)
			w.join(ns, "box")
			w.show(ns, "box", "3f2a9c1d0b7e.1", commit, "passed 0 1.000", amd64)
		}
		other := strings.Repeat("2", 40)
		w.join("gitlab.com/a/b", "box")
		w.show("gitlab.com/a/b", "box", "222222222222.1", other, "passed 0 1.000", amd64)
		w.want("another forge", other, "9ci/amd64 true passed\n")
		time.Sleep(time.Hour)
		if _, _, n := w.counts(); n > maxAtOnce+1 {
			t.Errorf("%d were told at once", n)
		}
		began := time.Now()
		w.end()
		if took := time.Since(began); took > 0 {
			t.Errorf("the end took %v", took)
		}
	})
}

// An executor that does not say what its run is holds up no other, and its run is told
// when it says.
func TestSilentExecutor(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		silent := true
		w.read = func(ctx context.Context, run string) {
			if w.mux.mu.Lock(); silent && strings.HasPrefix(run, "/n/silent/") {
				w.mux.mu.Unlock()
				<-ctx.Done()
				return
			}
			w.mux.mu.Unlock()
		}
		w.join(hello, "silent")
		w.join(hello, "box")
		other := strings.Repeat("2", 40)
		for i := range 30 {
			w.show(hello, "silent", fmt.Sprintf("222222222222.%d", i+1), other, "passed 0 1.000", "")
		}
		w.show(hello, "silent", "222222222222.31", other, "passed 0 1.000", amd64)
		w.show(hello, "box", "3f2a9c1d0b7e.1", commit, "passed 0 1.000", amd64)
		w.want("another executor", commit, "9ci/amd64 true passed\n")
		w.mux.mu.Lock()
		silent = false
		w.mux.mu.Unlock()
		time.Sleep(2 * scanEvery)
		if got := w.of(other); !strings.Contains(got, "9ci/amd64 true passed\n") {
			t.Errorf("the silent one's: %q", got)
		}
	})
}

// Namespaces are told whose forge is to be, from when it is and until it is no more.
func TestTells(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		may := false
		w.site.mu.Lock()
		w.tells = func(ns string) bool { return may && ns == hello }
		w.site.mu.Unlock()
		set := func(is bool) {
			w.site.mu.Lock()
			may = is
			w.site.mu.Unlock()
			time.Sleep(lookEvery)
		}
		w.join(hello, "box")
		w.join("github.com/bob/other", "box")
		w.show(hello, "box", "3f2a9c1d0b7e.1", commit, "passed 0 1.000", amd64)
		w.want("it tells none", commit, "")
		set(true)
		w.want("it tells", commit, "9ci/amd64 true passed\n")
		set(false)
		w.show(hello, "box", "3f2a9c1d0b7e.2", commit, "failed 1 1.000", amd64)
		w.want("it tells no more", commit, "9ci/amd64 true passed\n")
		other := strings.Repeat("2", 40)
		w.show("github.com/bob/other", "box", "222222222222.1", other, "passed 0 1.000", amd64)
		w.want("another namespace", other, "")
	})
}

// A flood of runs is told as fast as forges like it, and their number is bounded.
func TestFlood(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.join(hello, "box")
		synctest.Wait()
		for i := range 2 * maxTold {
			w.show(hello, "box", fmt.Sprintf("3f2a9c1d0b7e.%d", i+1), commit, "passed 0 1.000", fmt.Sprintf("arch=amd64\ntarget=t%d\n", i))
			synctest.Wait()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		var reads atomic.Int64 // of the index, which events of what is no run cause
		w.mux.mu.Lock()
		w.mux.indexed = func() { reads.Add(1) }
		w.mux.mu.Unlock()
		for i := range 1000 {
			w.mux.mu.Lock()
			w.mux.space(hello).events.Write(fmt.Sprintf("/n/box/ci/444444444444.%d boot - 0.100 %s\n", i+1, ci.FormatTime(time.Now())))
			w.mux.mu.Unlock()
			synctest.Wait()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := reads.Load(); n > passesAtOnce+passesPer {
			t.Errorf("the index was read %d times", n)
		}
		if got := strings.Count(w.of(commit), "\n"); got != maxTold {
			t.Errorf("%d were told at once", got)
		}
		time.Sleep(maxTold * toldEach)
		synctest.Wait()
		if got := strings.Count(w.of(commit), "\n"); got != 2*maxTold {
			t.Errorf("%d were told", got)
		}
	})
}
