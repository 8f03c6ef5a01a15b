package forge

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access"
)

const (
	rightsFresh = access.RightsLife // for which a forge's answer serves
	absentFresh = access.AbsentLife // and one that there is nothing
	maxRights   = 1 << 16           // answers that are remembered, of 300 bytes each

	// learnTime is how long it may take to learn what somebody may do: a token is
	// renewed, two questions are asked.
	learnTime = 3 * answerTime
)

// An Access is what an account may do in a namespace, as its forge says.
type Access struct {
	Read, Publish bool
	RepositoryID  string    // at the forge, in decimal
	Asked         time.Time // when the forge was asked
}

// An AbsentError says that a namespace is not there for an account: there may be no such
// repository, it may have another name now, or the account may not see it. It is
// fs.ErrNotExist of io/fs.
type AbsentError struct {
	Namespace string
	Install   string // where GitHub's App is installed, if it may be that; "" if not
}

func (e *AbsentError) Error() string {
	s := fmt.Sprintf("%s is not there, or this account may not see it", e.Namespace)
	if e.Install != "" {
		s += ", or the app is not installed there: " + e.Install
	}
	return s
}

func (e *AbsentError) Unwrap() error { return iofs.ErrNotExist }

// Access returns what an account may do in a namespace. It asks the forge as that person,
// unless it has done so in the last five minutes and after since. Who may push may publish.
//
// The error is an *AbsentError, fs.ErrBusy if the forge does not say at present, ErrLogin,
// or why a file of the state directory cannot be read or written.
func (f *Forges) Access(ctx context.Context, principal, namespace string, since time.Time) (Access, error) {
	q := f.question(principal, namespace)
	if q == nil {
		return Access{}, &AbsentError{Namespace: namespace}
	}
	if a, err, ok := f.known(q); ok && (err != nil || a.Asked.After(since)) {
		return a, err
	}
	select {
	case r := <-f.learning.DoChan(principal+"\x00"+namespace, func() (any, error) { return f.learn(q) }):
		return r.Val.(Access), r.Err
	case <-ctx.Done():
		return Access{}, busy(fmt.Errorf("%s has not said yet what this account may see", q.forge.host))
	}
}

// Host returns the host of the namespaces that Access can tell an account of, "" if there
// are none. It asks nobody.
func (f *Forges) Host(principal string) string {
	if fg, _ := f.ofPrincipal(principal); fg != nil && f.accounts != nil {
		return fg.host
	}
	return ""
}

// A question is what an account may do in a namespace of its forge.
type question struct {
	forge *forge
	rightsKey
	id   string   // of the account at the forge
	path []string // of the repository there
}

type rightsKey struct{ principal, namespace string }

// A known is an answer to a question.
type known struct {
	Access       // the zero one: absent
	err    error // there was no answer
	until  time.Time
}

// question returns a question that a forge can answer, or nil.
func (f *Forges) question(principal, namespace string) *question {
	fg, id := f.ofPrincipal(principal)
	if fg == nil || f.accounts == nil {
		return nil
	}
	host, rest, _ := strings.Cut(namespace, "/")
	if ns, err := ci.CleanNamespace(namespace); err != nil || ns != namespace || host != fg.host || !fg.has(ns) {
		return nil
	}
	path := strings.Split(rest, "/")
	if len(path) > 2 && !fg.kind.groups {
		return nil
	}
	return &question{fg, rightsKey{principal, namespace}, id, path}
}

func (q *question) absent() error {
	e := &AbsentError{Namespace: q.namespace}
	if install := q.forge.kind.people.install; install != nil {
		e.Install = install(q.forge)
	}
	return e
}

// known returns the answer to a question if there is a fresh one.
func (f *Forges) known(q *question) (a Access, err error, ok bool) {
	f.mu.Lock()
	k, ok := f.rights[q.rightsKey]
	f.mu.Unlock()
	switch {
	case !ok || !time.Now().Before(k.until):
		return Access{}, nil, false
	case k.err != nil:
		return Access{}, k.err, true
	case k.RepositoryID == "":
		return Access{}, q.absent(), true
	}
	if _, err := f.pins.Same(q.namespace, q.forge.host, k.RepositoryID); err != nil {
		return Access{}, q.absent(), true
	}
	return k.Access, nil, true
}

// learn asks the forge, for learnTime at most, and notes what it says. It goes on whether
// or not anybody waits: the next one does not ask again.
func (f *Forges) learn(q *question) (Access, error) {
	u := f.user(q.principal)
	u.mu.Lock()
	paused, ended := u.paused, u.ended
	u.mu.Unlock()
	if time.Now().Before(paused) {
		return Access{}, errWait(q.forge, paused)
	}
	ctx, cancel := context.WithTimeout(context.Background(), learnTime)
	defer cancel()
	asked := time.Now()
	a, err := f.askRights(ctx, q, u)
	if err == nil {
		a.Asked = asked
	}
	now, k := time.Now(), known{Access: a}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case err == nil:
		k.until = asked.Add(rightsFresh)
	case errors.Is(err, iofs.ErrNotExist):
		k.until = now.Add(absentFresh)
	case errors.Is(err, fs.ErrBusy) && !now.Before(u.paused): // the next walks do not all ask again
		k.err, k.until = err, now.Add(downPause)
	default:
		return Access{}, err
	}
	if u.ended != ended { // it was logged out meanwhile
		return Access{}, ErrLogin
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trim()
	f.rights[q.rightsKey] = k
	return a, err
}

// trim makes room for an answer. f.mu is held.
func (f *Forges) trim() {
	if len(f.rights) < maxRights {
		return
	}
	now := time.Now()
	maps.DeleteFunc(f.rights, func(_ rightsKey, k known) bool { return !now.Before(k.until) })
	for k := range f.rights { // any of those that are left
		if len(f.rights) < maxRights-maxRights/8 {
			break
		}
		delete(f.rights, k)
	}
}

// unlearn forgets what is known of an account.
func (f *Forges) unlearn(principal string) {
	u := f.user(principal)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended++
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.rights, func(k rightsKey, _ known) bool { return k.principal == principal })
}

// askRights returns what the forge says.
func (f *Forges) askRights(ctx context.Context, q *question, u *user) (Access, error) {
	fg, p := q.forge, q.forge.kind.people
	var r repository
	if err := f.askAs(ctx, q, u, p.project(q.path), &r); err != nil {
		return Access{}, err
	}
	a := Access{RepositoryID: strconv.FormatInt(r.ID, 10)}
	a.Read, a.Publish = p.rights(r)
	name := r.FullName
	if name == "" {
		name = r.Path
	}
	// A forge that answers for an old name, or ignores case, says what the name is.
	if !isID(a.RepositoryID) || !a.Read || !strings.EqualFold(name, strings.Join(q.path, "/")) {
		return Access{}, q.absent()
	}
	if p.members && !a.Publish {
		var l level
		err := f.askAs(ctx, q, u, "/projects/"+a.RepositoryID+"/members/all/"+q.id, &l)
		if err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return Access{}, err
		}
		a.Publish = err == nil && l.Access >= developer && (l.State == "" || l.State == "active")
	}
	seen, err := f.pins.Same(q.namespace, fg.host, a.RepositoryID)
	switch {
	case seen, err != nil:
	case r.public() && !a.Publish: // anybody may read it: nobody's walks fill the file
	case !u.pins.Allow():
		return Access{}, busy(errors.New("too many repositories at once that nobody was in before: try again in a minute"))
	default:
		err = f.pins.Know(q.namespace, fg.host, a.RepositoryID)
	}
	if errors.Is(err, access.ErrOtherRepository) {
		f.log.Warn("repository refused", "err", err)
		return Access{}, q.absent()
	} else if err != nil {
		return Access{}, err
	}
	return a, nil
}

// absentStatus are the answers of a forge that has nothing for an account under a name:
// one that has moved is not followed.
var absentStatus = []int{http.StatusForbidden, http.StatusNotFound, http.StatusGone, http.StatusUnavailableForLegalReasons}

// askAs decodes what the API answers to the account into v. The error is that of
// question.absent if there is nothing.
func (f *Forges) askAs(ctx context.Context, q *question, u *user, path string, v any) error {
	fg, bad := q.forge, secret("")
	for range 2 {
		t, err := f.current(ctx, fg, q.principal, bad)
		if err != nil {
			return err
		}
		select {
		case u.asking <- struct{}{}:
		case <-ctx.Done():
			return busy(errors.New("this account asks too much at once"))
		}
		r, err := fg.ask(ctx, f.staying(), call{method: http.MethodGet, url: fg.kind.people.api(fg) + path, Bearer: t.Access})
		<-u.asking
		if err != nil {
			return err
		}
		now := time.Now()
		if wait := r.wait(now); wait > 0 {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.paused = now.Add(wait)
			return errWait(fg, u.paused)
		}
		switch {
		case r.status == http.StatusOK:
			return fg.decode(r, v)
		case r.status == http.StatusUnauthorized: // it may have ended, or another one has come
			bad = t.Access
		case r.status >= 300 && r.status < 400 || slices.Contains(absentStatus, r.status):
			return q.absent()
		default:
			return busy(fmt.Errorf("%s: %s: status %d", fg.host, path, r.status))
		}
	}
	// A token that was got just now is refused too: the person has taken it back.
	if sealed, err := f.accounts.Token(q.principal); err != nil {
		return err
	} else if len(sealed) > 0 {
		return f.drop(q.principal, sealed)
	}
	return ErrLogin
}
