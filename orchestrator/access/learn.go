package access

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
)

// People know accounts of people. Most of what these may do is asked of the forges that
// vouched for them. Their methods may be called from several goroutines.
type People interface {
	// Grant returns what an account may do whatever a forge says, because an operator
	// has invited it: without Namespaces, nothing. It asks nobody. The error, which is
	// ErrNoAccount if it is not there, says why the account may not be logged in any
	// more; a client that is, is told it.
	Grant(principal string) (Grant, error)

	// Host returns the host of the namespaces that Learn can tell of, "" if there are
	// none. It asks nobody.
	Host(principal string) string

	// Learn returns what a forge says that an account may do in a namespace. If the
	// forge has not said so after since, it is asked. The error is fs.ErrNotExist of
	// io/fs if the account may not know of the namespace, an *AbsentError if there is
	// something that its person can do about that, and a *RefusedError if the forge
	// answers nothing before the person has logged in again. Any other says why the
	// forge does not tell at present, and is for the log.
	Learn(ctx context.Context, principal, namespace string, since time.Time) (Rights, error)

	// Renew returns an error, a *RefusedError, if an account gets no other certificate
	// before its person has logged in again.
	Renew(principal string) error

	// LoggedOut is called when a person has revoked the last certificate of an account.
	// It does not wait for a forge.
	LoggedOut(principal string)
}

// ErrNoAccount is the error of an account of People that is not there.
var ErrNoAccount = errors.New("this account is not there any more: log in again")

// Rights are what an account may do in a namespace.
type Rights struct {
	Read, Publish bool
	Asked         time.Time // when the forge said so
}

// An AbsentError says that a namespace is not there for an account, whether or not it is
// for others, and what the person can do. It is fs.ErrNotExist of io/fs.
type AbsentError struct{ Words string }

func (e *AbsentError) Error() string { return "file not found: " + e.Words }
func (e *AbsentError) Unwrap() error { return iofs.ErrNotExist }

// An UnknownError says that nobody knows at present what an account may do in a namespace.
// It is fs.ErrBusy if that may pass by itself. Its text is for the client.
type UnknownError struct {
	words string
	busy  error
	Err   error // for the log
}

func (e *UnknownError) Error() string { return e.words }
func (e *UnknownError) Unwrap() error { return e.busy }

const (
	// RightsLife is for how long what a forge has said serves, and AbsentLife for how
	// long nothing is there that was not: somebody may just have been let in.
	RightsLife = 5 * time.Minute
	AbsentLife = 30 * time.Second

	askEarly = time.Minute     // before RightsLife ends it is asked again of what is in use
	askAgain = 5 * time.Second // after a question without an answer

	// LearnTime is how long Learn of a Grant takes at most.
	LearnTime = 5 * time.Second

	maxQuestions = 8    // of one account that are under way
	maxLearned   = 4096 // namespaces of one account of which something is known

	// maxHeld is how many of these may be held. Each is asked of every four minutes,
	// and GitHub answers an account 5000 questions an hour
	// (docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api).
	maxHeld = 256
)

// A knowledge is what has been learned of accounts of people.
type knowledge struct {
	from    People
	changed func() // is called when an account may do less where it does something

	mu       sync.Mutex // guards what follows, and all that is learned
	accounts map[string]*account
	swept    time.Time // when what is over was last forgotten
}

// An account is what is known of one.
type account struct {
	turns   chan struct{} // holds a token for each question that is under way
	learned map[string]*learned
	held    int // of learned
}

// A learned is what is known of an account in one namespace.
type learned struct {
	Rights
	absent error     // why there are none, for the person; nil: nothing more is known
	until  time.Time // for which it is known; zero: never
	err    error     // why the last question got no answer; nil if it did
	again  time.Time // when the next may be asked

	asking chan struct{} // closed when the question under way is over; nil: there is none
	held   int           // by those that do something there
	due    *time.Timer   // of look, while it is held
}

func newKnowledge(people People, changed func()) *knowledge {
	return &knowledge{from: people, changed: changed, accounts: map[string]*account{}}
}

// of returns the account of a principal. k.mu is held.
func (k *knowledge) of(principal string) *account {
	a := k.accounts[principal]
	if a == nil {
		a = &account{turns: make(chan struct{}, maxQuestions), learned: map[string]*learned{}}
		k.accounts[principal] = a
	}
	return a
}

// find returns what is known of an account in a namespace, or makes an entry for it. It
// returns nil if there are too many that somebody needs. k.mu is held.
func (k *knowledge) find(principal, ns string, now time.Time) *learned {
	if now.Sub(k.swept) > RightsLife {
		k.swept = now
		for p, a := range k.accounts {
			if a.forget(func(l *learned) bool { return l.over(now) }); len(a.learned) == 0 {
				delete(k.accounts, p)
			}
		}
	}
	a := k.of(principal)
	l := a.learned[ns]
	if l != nil {
		return l
	}
	if len(a.learned) >= maxLearned {
		a.forget(func(l *learned) bool { return l.over(now) })
	}
	if len(a.learned) >= maxLearned { // any that nobody misses
		n := maxLearned / 8
		a.forget(func(l *learned) bool {
			if n == 0 || !l.idle() {
				return false
			}
			n--
			return true
		})
	}
	if len(a.learned) >= maxLearned {
		return nil
	}
	l = &learned{}
	a.learned[ns] = l
	return l
}

func (a *account) forget(match func(*learned) bool) {
	maps.DeleteFunc(a.learned, func(_ string, l *learned) bool { return match(l) })
}

// idle reports whether nobody needs l.
func (l *learned) idle() bool { return l.held == 0 && l.asking == nil }

func (l *learned) over(now time.Time) bool {
	return l.idle() && !now.Before(l.until) && !now.Before(l.again)
}

// known returns what an account may do in a namespace. It is false if that is not known.
func (k *knowledge) known(principal, ns string) (r Rights, absent error, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a := k.accounts[principal]
	if a == nil {
		return Rights{}, nil, false
	}
	l := a.learned[ns]
	if l == nil || !time.Now().Before(l.until) {
		return Rights{}, nil, false
	}
	return l.Rights, l.absent, true
}

// readable returns the namespaces of which it is known that an account may read them.
func (k *knowledge) readable(principal string) (all []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if a := k.accounts[principal]; a != nil {
		now := time.Now()
		for ns, l := range a.learned {
			if l.Read && now.Before(l.until) {
				all = append(all, ns)
			}
		}
	}
	return all
}

// learn returns when it is known what an account may do in a namespace. The error is an
// *UnknownError.
func (k *knowledge) learn(ctx context.Context, w who, ns string) error {
	k.mu.Lock()
	now := time.Now()
	l := k.find(w.principal, ns, now)
	switch {
	case l == nil:
		k.mu.Unlock()
		return w.unknown(fmt.Errorf("%d questions of this account: %w", maxLearned, fs.ErrBusy))
	case now.Before(l.until):
		k.mu.Unlock()
		return nil
	case l.asking == nil && now.Before(l.again):
		defer k.mu.Unlock()
		return w.unknown(l.err)
	case ctx.Err() != nil:
		defer k.mu.Unlock()
		return w.unknown(ctx.Err())
	case l.asking == nil:
		k.begin(w, ns, l)
	}
	asking := l.asking
	k.mu.Unlock()
	select {
	case <-asking:
	case <-ctx.Done():
		return w.unknown(ctx.Err())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.err != nil && !time.Now().Before(l.until) {
		return w.unknown(l.err)
	}
	return nil
}

// A who is an account, and the host of its forge.
type who struct{ principal, host string }

// unknown returns what the client of the account is told of err.
func (w who) unknown(err error) error {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return &UnknownError{words: refused.Words, Err: err}
	}
	return &UnknownError{fmt.Sprintf("%s does not say at present what this account may do: %v", w.host, fs.ErrBusy), fs.ErrBusy, err}
}

// begin asks the forge. k.mu is held.
func (k *knowledge) begin(w who, ns string, l *learned) {
	since := time.Now().Add(askEarly - RightsLife) // older ones would soon be asked again
	if l.Asked.After(since) {
		since = l.Asked.Add(1)
	}
	a, asking := k.of(w.principal), make(chan struct{})
	l.asking = asking
	go func() { // outlives the one that was first to ask: others wait for it too
		ctx, cancel := context.WithTimeout(context.Background(), LearnTime)
		defer cancel()
		var r Rights
		err := error(nil)
		select {
		case a.turns <- struct{}{}:
			r, err = k.from.Learn(ctx, w.principal, ns, since)
			<-a.turns
		case <-ctx.Done():
			err = fmt.Errorf("%d questions of this account are under way: %w", maxQuestions, fs.ErrBusy)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		defer close(asking)
		l.asking = nil
		k.take(w, ns, l, r, err)
	}()
}

// take notes the answer to a question. k.mu is held.
func (k *knowledge) take(w who, ns string, l *learned, r Rights, err error) {
	now := time.Now()
	was := l.Rights
	var absent *AbsentError
	l.err = nil
	switch {
	case err == nil:
		if r.Asked.IsZero() || r.Asked.After(now) {
			r.Asked = now
		}
		l.Rights, l.absent, l.until = r, nil, r.Asked.Add(RightsLife)
	case errors.Is(err, iofs.ErrNotExist):
		l.Rights, l.absent, l.until = Rights{}, nil, now.Add(AbsentLife)
		if errors.As(err, &absent) {
			l.absent = absent
		}
	default:
		l.err, l.again = err, now.Add(askAgain)
	}
	if l.held > 0 {
		if was.Read && !l.Read || was.Publish && !l.Publish || !now.Before(l.until) {
			k.changed()
		}
		k.watch(w, ns, l, now)
	}
}

// watch has a forge asked in time about something that is held. k.mu is held.
func (k *knowledge) watch(w who, ns string, l *learned, now time.Time) {
	next := l.until.Add(-askEarly)
	if next.Before(l.again) {
		next = l.again
	}
	if now.Before(l.until) && l.until.Before(next) {
		next = l.until
	}
	wait := max(next.Sub(now), time.Second)
	if l.due == nil {
		l.due = time.AfterFunc(wait, func() { k.look(w, ns, l) })
	} else {
		l.due.Reset(wait)
	}
}

// look asks again about something that is held, and tells if it is not known any more.
func (k *knowledge) look(w who, ns string, l *learned) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	switch {
	case l.held == 0 || l.asking != nil: // take looks on
		return
	case !now.Before(l.until.Add(-askEarly)) && !now.Before(l.again):
		k.begin(w, ns, l)
	default:
		k.watch(w, ns, l, now)
	}
	if !now.Before(l.until) {
		k.changed()
	}
}

// hold has what an account may do in a namespace asked again and again, until release is
// called, so that k.changed is called when it may do less. The error is fs.ErrBusy.
func (k *knowledge) hold(w who, ns string) (release func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	l := k.find(w.principal, ns, now)
	a := k.of(w.principal)
	if l == nil || l.held == 0 && a.held >= maxHeld {
		return nil, fmt.Errorf("one account is in %d namespaces at once at most: %w", maxHeld, fs.ErrBusy)
	}
	if l.held++; l.held == 1 {
		a.held++
		k.watch(w, ns, l, now)
	}
	return sync.OnceFunc(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.held--; l.held == 0 {
			a.held--
			l.due.Stop()
		}
	}), nil
}

// An asked is the account of a grant that is asked. The zero one is of a grant that is
// not.
type asked struct {
	k *knowledge
	who
}

// Asks reports whether what the grant is for in ns is learned of a forge.
func (g Grant) Asks(ns string) bool {
	host, _, _ := strings.Cut(ns, "/")
	return g.AskedHost() != "" && host == g.AskedHost()
}

// IsPerson reports whether the grant is a person's.
func (g Grant) IsPerson() bool { return g.asked.k != nil }

// Stands reports whether an account is still there, has been invited to the same
// namespaces, and has the same forge. Of what is no person's it is true, and while that
// cannot be told.
func (g Grant) Stands() bool {
	if !g.IsPerson() {
		return true
	}
	from, principal := g.asked.k.from, g.asked.principal
	now, err := from.Grant(principal)
	if err != nil {
		return !errors.Is(err, ErrNoAccount)
	}
	return slices.Equal(now.Namespaces, g.Namespaces) && from.Host(principal) == g.AskedHost()
}

// AskedHost returns the host of the forge that is asked for this grant, "" if none is.
func (g Grant) AskedHost() string { return g.asked.host }

// Learn returns when MayRead of ns, or MayPublish if publish is set, tells what a forge
// says. That takes no time unless Asks says so, and LearnTime at most. The error is an
// *UnknownError.
func (g Grant) Learn(ctx context.Context, ns string, publish bool) error {
	if clean, err := ci.CleanNamespace(ns); err != nil || clean != ns || !g.Asks(ns) || g.Owns(ns, publish) || !publish && g.public.Has(ns) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, LearnTime)
	defer cancel()
	return g.asked.k.learn(ctx, g.asked.who, ns)
}

// LearnAll is Learn of some namespaces, in LearnTime together. It returns the first error.
func (g Grant) LearnAll(ctx context.Context, list []string, publish bool) error {
	if g.AskedHost() == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, LearnTime)
	defer cancel()
	turns := make(chan struct{}, maxQuestions)
	var first error
	var once sync.Once
	var wg sync.WaitGroup
	for _, ns := range list {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			if err := g.Learn(ctx, ns, publish); err != nil {
				once.Do(func() { first = err })
			}
		})
	}
	wg.Wait()
	return first
}

// Known reports whether Learn would take no time.
func (g Grant) Known(ns string) bool {
	if !g.Asks(ns) {
		return true
	}
	_, _, ok := g.asked.k.known(g.asked.principal, ns)
	return ok
}

// Absent returns what a person may do about a namespace that MayRead has not, as Learn has
// learned: an *AbsentError, or fs.ErrNotExist of io/fs if there is nothing.
func (g Grant) Absent(ns string) error {
	if g.Asks(ns) {
		if _, absent, _ := g.asked.k.known(g.asked.principal, ns); absent != nil {
			return absent
		}
	}
	return iofs.ErrNotExist
}

// Hold has what Learn has learned of ns asked again in time, until release is called: so
// it stays known, and the Changed of the Authority tells if it is less. The error is
// fs.ErrBusy, of an account that holds too much.
func (g Grant) Hold(ns string) (release func(), err error) {
	if !g.Asks(ns) {
		return func() {}, nil
	}
	return g.asked.k.hold(g.asked.who, ns)
}

// rights returns what is known of ns.
func (g Grant) rights(ns string) Rights {
	if !g.Asks(ns) {
		return Rights{}
	}
	r, _, _ := g.asked.k.known(g.asked.principal, ns)
	return r
}
