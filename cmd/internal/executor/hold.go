package executor

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"9ci/cmd/internal/config"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/vm"
)

// maxHeld is how many machines a process holds at once: each has its memory all the
// time, and no place in the queue but for that. If they are several, they have half of the
// host's memory together at most: a run that is alone goes in any case.
const maxHeld = 4

// A wish is how long the machine of a run is to be held if the run fails.
type wish struct {
	time time.Duration
	by   string
}

// A hold keeps the machine of a failed run for shells.
type hold struct {
	r     *activeRun
	id    string
	over  chan struct{} // closed when the machine is to end
	ended chan struct{} // closed when nothing is left of it

	imaging sync.Mutex // guards image, and is held while it is made
	image   string     // of the test's container as the test left it

	// Guarded by the mu of holds:
	by     string
	until  time.Time
	timer  *time.Timer // ends the hold
	isOver bool
	shells int
}

// holds are the held machines of a process, the one that was held last at the end.
type holds struct {
	mu   sync.Mutex // guards list
	list []*hold
}

// find returns the hold of a run, or nil. s.mu is held.
func (s *holds) find(e *Executor, id string) *hold {
	for _, h := range s.list {
		if h.r.e == e && h.id == id && !h.isOver {
			return h
		}
	}
	return nil
}

// add adds a hold. If there is no room for it, those end that were held first and in which
// nobody has a shell; if that does not do, add reports false.
func (s *holds) add(h *hold, w wish) bool {
	host, err := config.HostMemory()
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	stay := slices.DeleteFunc(slices.Clone(s.list), func(h *hold) bool { return h.isOver })
	var leave []*hold
	for len(stay) > 0 && (len(stay) >= maxHeld || memory(stay)+h.r.cfg.Memory > host/2) {
		i := slices.IndexFunc(stay, func(h *hold) bool { return h.shells == 0 })
		if i < 0 {
			return false
		}
		leave = append(leave, stay[i])
		stay = slices.Delete(stay, i, i+1)
	}
	for _, h := range leave {
		h.end()
	}
	h.by, h.until = w.by, time.Now().Add(w.time)
	h.timer = time.AfterFunc(w.time, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !h.until.After(time.Now()) { // it has not been prolonged meanwhile
			h.end()
		}
	})
	s.list = append(s.list, h)
	return true
}

// end has the machine end. The mu of holds is held.
func (h *hold) end() {
	if !h.isOver {
		h.isOver = true
		h.timer.Stop()
		close(h.over)
	}
}

// prolong has a hold end after the time of w, from now on, or at once if that is 0. It
// reports false if the run has no hold.
func (s *holds) prolong(e *Executor, id string, w wish) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.find(e, id)
	if h == nil {
		return false
	}
	if w.time == 0 {
		h.end()
		return true
	}
	h.by, h.until = w.by, time.Now().Add(w.time)
	h.timer.Reset(w.time)
	return true
}

// remove takes a hold of which nothing is left off the list.
func (s *holds) remove(h *hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.end()
	s.list = slices.DeleteFunc(s.list, func(o *hold) bool { return o == h })
}

// memory returns how much the machines have together, in bytes.
func (s *holds) memory() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return memory(s.list)
}

func memory(list []*hold) (n int64) {
	for _, h := range list {
		n += h.r.cfg.Memory
	}
	return n
}

// enter counts a shell in the machine of a run, and returns the hold, or nil if there is
// none. The caller calls leave.
func (s *holds) enter(e *Executor, id string) *hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.find(e, id)
	if h != nil {
		h.shells++
	}
	return h
}

func (s *holds) leave(h *hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.shells--
}

// toHold reports whether the machine is to be held if the run fails, as far as anybody has
// said so far.
func (r *activeRun) toHold() bool {
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	u := r.e.unfinished[r.run.ID()]
	return u != nil && u.wish().time > 0
}

// hold keeps the machine of a run that is about to be sealed in that state, if somebody
// wishes so, and reports whether it does: r.close is then called in the end. From then on
// a hold in the ctl of the run is one of this machine.
func (r *activeRun) hold(ctx context.Context, state string) bool {
	e, id := r.e, r.run.ID()
	e.mu.Lock()
	defer e.mu.Unlock()
	u := e.unfinished[id]
	if u == nil {
		return false
	}
	w := u.wish()
	u.past = true
	if w.time == 0 || r.m == nil || state != "failed" && state != "error" || ctx.Err() != nil || !r.spare() {
		return false
	}
	h := &hold{r: r, id: id, over: make(chan struct{}), ended: make(chan struct{})}
	if !e.Queue.holds.add(h, w) {
		e.Log.Warn("not held: there is a shell in each of the machines that may be held at once", "run", id)
		return false
	}
	e.wg.Go(h.wait)
	return true
}

// wait keeps the machine until its time is over, and then ends it.
func (h *hold) wait() {
	e := h.r.e
	defer close(h.ended)
	defer e.Queue.wake()
	defer e.Queue.holds.remove(h)
	defer h.r.close()
	select {
	case <-h.r.run.Done():
		release, err := e.Store.Use(h.id)
		if err != nil { // it could not be sealed
			return
		}
		defer release()
	case <-e.Context.Done():
	}
	select {
	case <-h.over:
	case <-h.r.m.Done():
	case <-e.Context.Done():
	}
}

// wish returns how long the run's machine is to be held: what its configuration says, or
// what a ctl has said since. The caller holds e.mu.
func (u *unfinished) wish() wish {
	if u.wished != nil {
		return *u.wished
	}
	return wish{u.configured, processUser()}
}

// processUser returns the name of the user of this process.
var processUser = sync.OnceValue(func() string {
	u, err := user.Current()
	if err != nil {
		return "-"
	}
	return u.Username
})

// Hold sets how long the machine of a run is held, as store.Holder has it.
func (e *Executor) Hold(ctx context.Context, id string, d time.Duration) error {
	w := wish{d, ci.Dash(fs.UserOf(ctx).Name)}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.Queue.holds.prolong(e, id, w) {
		return nil
	}
	if u := e.unfinished[id]; u != nil && !u.past {
		u.wished = &w
		return nil
	}
	return fmt.Errorf("hold: %s has ended, and its machine with it: CI_HOLD=10m 9ci run -f holds that of a run that fails: %w", id, iofs.ErrInvalid)
}

// wishAtLeast has the machine of a run that others have asked for be held for a time at
// least.
func (e *Executor) wishAtLeast(u *unfinished, d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w := u.wish(); !u.past && d > w.time {
		u.wished = &wish{d, processUser()}
	}
}

// Held returns the attributes of the file hold of a run, as store.Holder has it.
func (e *Executor) Held(id string) ci.Attrs {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &e.Queue.holds
	s.mu.Lock()
	defer s.mu.Unlock()
	attrs := func(until, by string, shells int) ci.Attrs {
		return ci.Attrs{{Name: "until", Value: until}, {Name: "by", Value: by}, {Name: "shells", Value: strconv.Itoa(shells)}}
	}
	if h := s.find(e, id); h != nil {
		return attrs(ci.FormatTime(h.until), h.by, h.shells)
	}
	if u := e.unfinished[id]; u != nil && !u.past {
		if w := u.wish(); w.time > 0 {
			return attrs("-", w.by, 0)
		}
	}
	return nil
}

// LastHeld returns the run that has failed last of those whose machines are held, or "".
func (e *Executor) LastHeld() string {
	s := &e.Queue.holds
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range slices.Backward(s.list) {
		if h.r.e == e && !h.isOver {
			return h.id
		}
	}
	return ""
}

// AwaitHold returns when the machine of a run is not held any more, or ctx is done.
func (e *Executor) AwaitHold(ctx context.Context, id string) {
	s := &e.Queue.holds
	s.mu.Lock()
	h := s.find(e, id)
	s.mu.Unlock()
	if h == nil {
		return
	}
	select {
	case <-h.ended:
	case <-ctx.Done():
	}
}

// A NotHeldError is the error of a shell in a machine that is not held.
type NotHeldError struct {
	Run string // as it was named
}

func (e *NotHeldError) Error() string {
	return fmt.Sprintf("the machine of %s is not held: CI_HOLD=10m 9ci run -f holds that of a run that fails", e.Run)
}

// Shell runs a shell in the held machine of the run that rev, a name below /ci, stands
// for, or, if rev is digits of a commit or tree, of the best of its runs that is held: in a
// container as that of the test, or, if root is set or the run has none, in the core OS.
// c has the shell's input and output. Nothing of what the shell says is masked.
// Shell reports a NotHeldError.
func (e *Executor) Shell(ctx context.Context, rev string, root bool, c vm.Cmd) (vm.Exit, error) {
	run, err := e.Find(ctx, rev)
	if errors.Is(err, iofs.ErrNotExist) {
		return vm.Exit{}, &NotHeldError{rev}
	}
	if err != nil {
		return vm.Exit{}, err
	}
	if run.Run != nil {
		return vm.Exit{}, fmt.Errorf("%s has not ended: a shell comes when it has failed", run.ID)
	}
	s := &e.Queue.holds
	h := s.enter(e, run.ID)
	for _, name := range []string{run.Commit, run.Tree} {
		if !ci.IsPrefix(rev) || !strings.HasPrefix(name, rev) {
			continue
		}
		for _, other := range e.Store.Ranked(name) {
			if h == nil {
				h = s.enter(e, other.ID)
			}
		}
	}
	if h == nil {
		return vm.Exit{}, &NotHeldError{run.ID}
	}
	defer s.leave(h)
	exit, err := h.shell(ctx, root, c)
	if err != nil && ctx.Err() == nil {
		select {
		case <-h.over:
			err = fmt.Errorf("the time in which the machine of %s was held is over", h.id)
		default:
		}
	}
	return exit, err
}

// Names in the machine of what its shells have.
const (
	testContainer = "9ci-test" // the test's, if the machine is to be held
	heldImage     = "localhost/9ci:held"
)

// shellScript is for rc, which every image has: it becomes the best shell that there is.
const shellScript = `for(s in /bin/bash /bin/sh) if(test -x $s) exec $s
exec ` + plan9Bin + `/rc`

func (h *hold) shell(ctx context.Context, root bool, c vm.Cmd) (vm.Exit, error) {
	r := h.r
	tell := func(format string, args ...any) {
		end := "\n"
		if c.TTY {
			end = "\r\n"
		}
		fmt.Fprintf(c.Stderr, "9ci: "+format+end, args...)
	}
	env := c.Env
	c.Dir, c.Env = srcDir, append(r.env(), env...)
	args := []string{plan9Bin + "/rc", "-c", shellScript}
	if root || r.base.name == "" {
		if !root {
			tell("the run has no base image: this is the core OS")
			if r.tested {
				args = r.besideTest(args...)
			}
		}
		c.Args = args
		return r.m.Run(ctx, c)
	}
	image, err := h.makeImage(ctx, tell)
	if err != nil {
		return vm.Exit{}, err
	}
	name := "9ci-shell-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	flags := []string{"--rm", "--name=" + name, "--interactive"}
	if c.TTY {
		flags = append(flags, "--tty")
	}
	for _, v := range env {
		flags = append(flags, "--env="+v)
	}
	c.Args = r.podman(flags, image, args...)
	if len(r.cfg.Secrets) > 0 {
		c.Args = append([]string{"/bin/sh", "-c", secretsScript(r.cfg.Secrets), "9ci"}, c.Args...)
	}
	exit, err := r.m.Run(ctx, c)
	if err != nil && ctx.Err() != nil {
		// Podman is gone, and the container may not be.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		r.m.Run(ctx, vm.Cmd{Args: []string{"podman", "rm", "--force", "--ignore", "--time=0", name}, Env: r.env()})
	}
	return exit, err
}

// secretsScript returns a script for sh(1) that runs its arguments with the secrets, which
// it has in its environment, at descriptor 3 for guest env.
func secretsScript(secrets []string) string {
	var b strings.Builder
	b.WriteString(`exec 4<&0; printf '%s\0'`)
	for _, v := range secrets {
		name, _, _ := strings.Cut(v, "=")
		fmt.Fprintf(&b, ` "%s=$%[1]s"`, name)
	}
	b.WriteString(` | "$@" 3<&0 <&4 4<&-`)
	return b.String()
}

// makeImage returns the image of the test's container as the test has left it, or the base
// image if there is no such container.
func (h *hold) makeImage(ctx context.Context, tell func(format string, args ...any)) (string, error) {
	h.imaging.Lock()
	defer h.imaging.Unlock()
	if h.image != "" {
		return h.image, nil
	}
	var said tail
	exit, err := h.r.m.Run(ctx, vm.Cmd{
		Args:   []string{"/bin/sh", "-c", `podman container exists "$1" || exit 3; exec podman commit -q "$1" "$2"`, "9ci", testContainer, heldImage},
		Env:    h.r.env(),
		Stderr: &said,
	})
	switch {
	case err != nil:
		return "", err
	case exit.Code == 0:
		h.image = heldImage
	case exit.Code == 3:
		tell("the test's own container is not there: this is a new one of its image")
		h.image = h.r.base.name
	default:
		return "", fmt.Errorf("podman commit: status %d: %s", exit.Code, strings.TrimSpace(said.String()))
	}
	return h.image, nil
}

var _ store.Holder = (*Executor)(nil)
