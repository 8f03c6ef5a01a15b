package access

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
)

// testPeople are accounts at one forge, which the test answers for.
type testPeople struct {
	mu         sync.Mutex // guards what follows
	grant      Grant
	may        map[string]Rights // by namespace; Asked is when it is asked
	err        error             // of all questions
	took       time.Duration     // of a question
	asked      []string          // namespaces, in their order
	most       int               // questions at once
	now        int               // questions
	out, ended error             // of Grant and Renew
	left       []string          // by LoggedOut
}

func (p *testPeople) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *testPeople) Grant(string) (Grant, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.grant, p.out
}
func (p *testPeople) Host(principal string) string {
	return map[bool]string{true: "github.com"}[principal != "passkey:1"]
}
func (p *testPeople) Renew(string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

func (p *testPeople) LoggedOut(principal string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = append(p.left, principal)
}

func (p *testPeople) Learn(ctx context.Context, principal, ns string, since time.Time) (Rights, error) {
	p.mu.Lock()
	p.asked = append(p.asked, principal+" "+ns)
	p.now++
	p.most = max(p.most, p.now)
	took := p.took
	p.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now--
	if ctx.Err() != nil {
		return Rights{}, ctx.Err()
	}
	r, ok := p.may[ns]
	switch {
	case p.err != nil:
		return Rights{}, p.err
	case !ok:
		return Rights{}, &AbsentError{"install the app"}
	case r.Asked.IsZero() || r.Asked.Before(since):
		r.Asked = time.Now()
	}
	return r, nil
}

// questions returns what has been asked since the last call.
func (p *testPeople) questions() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.asked
	p.asked = nil
	return all
}

// A personTest is a person's grant, in a bubble.
type personTest struct {
	*testing.T
	people  *testPeople
	k       *knowledge
	grant   Grant
	changes int
	mu      sync.Mutex // guards changes
}

func person(t *testing.T, f func(t *testing.T, p *personTest)) {
	synctest.Test(t, func(t *testing.T) {
		p := &personTest{T: t, people: &testPeople{may: map[string]Rights{
			hello: {Read: true, Publish: true}, "github.com/alice/read": {Read: true}, "github.com/alice/none": {},
		}}}
		p.k = newKnowledge(p.people, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.changes++
		})
		p.grant = p.of("github:1")
		f(t, p)
		time.Sleep(LearnTime) // for questions that nobody waits for
	})
}

func (p *personTest) of(principal string) Grant {
	return Grant{Read: true, Publish: true, asked: asked{p.k, who{principal, p.people.Host(principal)}}}
}

func (p *personTest) changed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.changes
	p.changes = 0
	return n
}

func (p *personTest) learn(ns string) error {
	p.Helper()
	return p.grant.Learn(p.Context(), ns, false)
}

func (p *personTest) hold(ns string) (release func()) {
	p.Helper()
	release, err := p.grant.Hold(ns)
	if err != nil {
		p.Error(err)
	}
	return release
}

func (p *personTest) may(ns string, read, publish bool) {
	p.Helper()
	if p.grant.MayRead(ns) != read || p.grant.MayPublish(ns) != publish {
		p.Errorf("%s: read %v, publish %v, want %v, %v", ns, p.grant.MayRead(ns), p.grant.MayPublish(ns), read, publish)
	}
}

// What a person may do is what the forge says, as long as that serves: it is asked once
// for it, and never of what it cannot know.
func TestLearn(t *testing.T) {
	person(t, func(t *testing.T, p *personTest) {
		for _, ns := range []string{hello, "github.com/alice/read", "github.com/alice/none", "github.com/bob/secret", "gitlab.com/a/b", "local/x", "github.com/a", "github.com/Alice/Hello", "github.com/../x"} {
			p.may(ns, false, false)
		}
		for _, test := range []struct {
			ns            string
			read, publish bool
			asks          bool
		}{
			{hello, true, true, true},
			{"github.com/alice/read", true, false, true},
			{"github.com/alice/none", false, false, true},
			{"github.com/bob/secret", false, false, true},
			{"gitlab.com/a/b", false, false, false},
			{"github.com.evil.example/a/b", false, false, false},
			{"local/x", false, false, false},
			{"github.com/a", false, false, false},
			{"github.com/Alice/Hello", false, false, false}, // not its one form
			{"github.com/../x", false, false, false},
		} {
			for range 3 {
				if err := p.learn(test.ns); err != nil {
					t.Errorf("Learn(%q): %v", test.ns, err)
				}
				p.may(test.ns, test.read, test.publish)
			}
			if got, want := len(p.people.questions()), map[bool]int{true: 1}[test.asks]; got != want {
				t.Errorf("%s: %d questions, want %d", test.ns, got, want)
			}
		}
		if err := p.grant.Absent("github.com/bob/secret"); !errors.Is(err, iofs.ErrNotExist) || err.Error() != "file not found: install the app" {
			t.Errorf("Absent: %v", err)
		}
		if err := p.grant.Absent("gitlab.com/a/b"); err != iofs.ErrNotExist {
			t.Errorf("Absent of what is not asked: %v", err)
		}
		if got := slices.Sorted(slices.Values(p.grant.Readable())); !slices.Equal(got, []Pattern{hello, "github.com/alice/read"}) {
			t.Errorf("Readable = %v", got)
		}
		// Somebody may have been let in since.
		time.Sleep(AbsentLife - 1)
		p.learn("github.com/bob/secret")
		p.learn(hello)
		if got := p.people.questions(); len(got) != 0 {
			t.Errorf("asked too early: %v", got)
		}
		time.Sleep(time.Nanosecond)
		p.people.set(func() { p.people.may["github.com/bob/secret"] = Rights{Read: true} })
		p.learn("github.com/bob/secret")
		p.may("github.com/bob/secret", true, false)
		p.people.questions()
		time.Sleep(RightsLife - AbsentLife)
		p.may(hello, false, false)
		p.learn(hello)
		p.may(hello, true, true)
		if got := p.people.questions(); len(got) != 1 {
			t.Errorf("after %v: %v", RightsLife, got)
		}
	})
}

// An answer that the forge gave earlier serves for what is left of its time.
func TestLearnOld(t *testing.T) {
	person(t, func(t *testing.T, p *personTest) {
		p.people.may[hello] = Rights{Read: true, Asked: time.Now()}
		time.Sleep(3 * time.Minute)
		p.learn(hello)
		time.Sleep(2*time.Minute - 1)
		p.may(hello, true, false)
		time.Sleep(time.Nanosecond)
		p.may(hello, false, false)
		// One from the future does not serve longer.
		p.people.may[hello] = Rights{Read: true, Asked: time.Now().Add(time.Hour)}
		p.learn(hello)
		time.Sleep(RightsLife)
		p.may(hello, false, false)
	})
}

// While the forge says nothing, what is known serves until it is too old, and then the
// error says so; it is not asked in a row.
func TestLearnDown(t *testing.T) {
	person(t, func(t *testing.T, p *personTest) {
		p.learn(hello)
		p.people.set(func() { p.people.err = errors.New("dial tcp 192.0.2.1:443: connection refused") })
		p.people.questions()
		time.Sleep(RightsLife - 1)
		if err := p.learn(hello); err != nil {
			t.Errorf("while it is known: %v", err)
		}
		time.Sleep(time.Nanosecond)
		for range 10 {
			err := p.learn(hello)
			var unknown *UnknownError
			if !errors.As(err, &unknown) || !errors.Is(err, fs.ErrBusy) || errors.Is(err, iofs.ErrNotExist) || err.Error() != "github.com does not say at present what this account may do: "+fs.ErrBusy.Error() || unknown.Err != p.people.err {
				t.Fatalf("Learn: %v", err)
			}
			p.may(hello, false, false)
		}
		if got := p.people.questions(); len(got) != 1 {
			t.Errorf("asked in a row: %v", got)
		}
		time.Sleep(askAgain)
		p.people.set(func() { p.people.err = nil })
		if err := p.learn(hello); err != nil {
			t.Errorf("when it says something again: %v", err)
		}
		p.may(hello, true, true)
		// What the person can mend is told, and not as busy.
		p.people.set(func() { p.people.err = &RefusedError{"log in by github.com again", errors.New("invalid_grant")} })
		if err := p.learn("github.com/alice/read"); err == nil || err.Error() != "log in by github.com again" || errors.Is(err, fs.ErrBusy) {
			t.Errorf("Learn: %v", err)
		}
	})
}

// A forge that does not answer holds nobody longer than LearnTime; who gives up holds
// nobody else; and of one account few questions are under way.
func TestLearnSlow(t *testing.T) {
	person(t, func(t *testing.T, p *personTest) {
		p.people.took = time.Hour
		began := time.Now()
		if err := p.learn(hello); !errors.Is(err, fs.ErrBusy) || time.Since(began) != LearnTime {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		p.people.set(func() { p.people.took = time.Second; p.people.may = map[string]Rights{hello: {Read: true}} })
		time.Sleep(askAgain)
		p.people.questions()
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 20 {
			wg.Go(func() {
				if i == 0 {
					p.grant.Learn(ctx, hello, false)
				} else if err := p.learn(hello); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		p.may(hello, true, false)
		if got := p.people.questions(); len(got) != 1 {
			t.Errorf("one thing was asked %d times", len(got))
		}
		var all []string
		for i := range 100 {
			all = append(all, fmt.Sprintf("github.com/alice/r%d", i))
		}
		p.people.set(func() { p.people.most = 0; p.people.took = 100 * time.Millisecond })
		for range 30 {
			wg.Go(func() { p.grant.LearnAll(t.Context(), all, false) })
		}
		wg.Wait()
		if p.people.most != maxQuestions {
			t.Errorf("%d questions at once, want %d", p.people.most, maxQuestions)
		}
		began = time.Now()
		p.people.set(func() { p.people.took = time.Second })
		other := p.of("github:2")
		if err := other.LearnAll(t.Context(), all, false); !errors.Is(err, fs.ErrBusy) || time.Since(began) != LearnTime {
			t.Errorf("LearnAll took %v: %v", time.Since(began), err)
		}
	})
}

// What is in use is asked again before it is too old, and a change is told.
func TestHold(t *testing.T) {
	person(t, func(t *testing.T, p *personTest) {
		p.learn(hello)
		release, second := p.hold(hello), p.hold(hello)
		for range 10 { // it never goes
			time.Sleep(RightsLife - askEarly)
			synctest.Wait()
			p.may(hello, true, true)
		}
		if n := len(p.people.questions()); n < 10 || n > 12 || p.changed() != 0 {
			t.Errorf("%d questions in %v", n, 10*(RightsLife-askEarly))
		}
		p.people.set(func() { p.people.may[hello] = Rights{Read: true} })
		time.Sleep(RightsLife - askEarly + time.Second)
		synctest.Wait()
		if p.may(hello, true, false); p.changed() != 1 {
			t.Error("nobody is told that publish has gone")
		}
		// A forge that is down for less than a minute is not noticed.
		p.people.set(func() { p.people.err = errors.New("down") })
		time.Sleep(RightsLife - askEarly + 50*time.Second)
		p.people.set(func() { p.people.err = nil })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if p.may(hello, true, false); p.changed() != 0 {
			t.Error("a change is told, and there was none")
		}
		// One that stays down ends it.
		p.people.set(func() { p.people.err = errors.New("down") })
		time.Sleep(RightsLife)
		synctest.Wait()
		if p.may(hello, false, false); p.changed() == 0 {
			t.Error("nobody is told that the forge is down")
		}
		p.people.set(func() { p.people.err = nil; delete(p.people.may, hello) })
		time.Sleep(time.Minute)
		synctest.Wait()
		if p.may(hello, false, false); p.changed() == 0 {
			t.Error("nobody is told that read has gone")
		}
		release()
		release()
		second()
		p.people.questions()
		time.Sleep(time.Hour)
		if got := p.people.questions(); len(got) != 0 {
			t.Errorf("what nobody holds is asked: %v", got)
		}
	})
}

// An account that looks at very many names fills no memory, and takes nothing from others.
func TestLearnMany(t *testing.T) {
	person(t, func(t *testing.T, p *personTest) {
		other := p.of("github:2")
		other.Learn(t.Context(), hello, false)
		p.learn(hello)
		defer p.hold(hello)()
		for i := range 2 * maxLearned {
			p.learn(fmt.Sprintf("github.com/x/r%d", i))
		}
		if n := len(p.k.accounts["github:1"].learned); n > maxLearned {
			t.Errorf("%d are remembered", n)
		}
		p.may(hello, true, true)
		if !other.MayRead(hello) {
			t.Error("another account's is forgotten")
		}
		var held []func()
		for i := range maxHeld - 1 {
			held = append(held, p.hold(fmt.Sprintf("github.com/y/r%d", i)))
		}
		if _, err := p.grant.Hold("github.com/z/z"); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("one more: %v", err)
		}
		p.hold(hello)() // it is held already
		for _, r := range held {
			r()
		}
		time.Sleep(2 * RightsLife)
		p.learn(hello)
		if got := slices.Collect(maps.Keys(p.k.accounts)); !slices.Equal(got, []string{"github:1"}) || len(p.k.accounts["github:1"].learned) != 1 {
			t.Errorf("what is over is not forgotten: %v", got)
		}
	})
}

// An invitation, and what is public, need no forge.
func TestPersonGrant(t *testing.T) {
	person(t, func(t *testing.T, p *personTest) {
		g := p.grant
		g.Namespaces = []Pattern{"gitlab.com/team/...", "local/x"}
		for ns, want := range map[string]bool{"gitlab.com/team/a": true, "local/x": true, hello: false, "local/y": false} {
			if g.MayRead(ns) != want || g.MayPublish(ns) != want || g.Owns(ns, true) != want {
				t.Errorf("%s: %v, want %v", ns, g.MayRead(ns), want)
			}
		}
		passkey := p.of("passkey:1")
		if passkey.Asks(hello) || passkey.MayRead(hello) || passkey.Learn(t.Context(), hello, true) != nil || passkey.Asks("/x/y") {
			t.Error("a forge is asked for a passkey")
		}
		if n := len(p.people.questions()); n != 0 {
			t.Errorf("%d questions", n)
		}
	})
}
