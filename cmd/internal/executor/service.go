package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/vm"
)

// A service is a target service/NAME of the mkfile. It runs in the core OS, beside the
// test and in its network.
type service struct {
	r       *activeRun
	name    string
	log     *store.Service
	last    tail                // of its output; read it when ended is closed
	signals chan syscall.Signal // for it
	cancel  context.CancelCauseFunc
	ended   chan struct{} // closed when it has ended
	code    int           // its exit status, set before ended is closed; and so is err
	err     error
}

const (
	readyTime = 60 * time.Second       // for all services to be ready
	readyPoll = 200 * time.Millisecond // between one question and the next
	endTime   = 15 * time.Second       // for one to end: guest service kills it after ten
)

// serviceNames returns the services of a mkfile. Its other targets below service/, such
// as files, are none.
func (m *mkfile) serviceNames() []string {
	var names []string
	for _, t := range m.Targets {
		if name, ok := strings.CutPrefix(t, "service/"); ok && ci.IsService(name) {
			names = append(names, name)
		}
	}
	return names
}

// besideTest returns a command of the core OS that runs in the test's network.
func (r *activeRun) besideTest(args ...string) []string {
	if r.cfg.Net == "all" {
		return args
	}
	return append([]string{"nsenter", "--net=" + vm.Loopback}, args...)
}

// startServices starts the services of the mkfile and waits until all are ready. If one
// is not, none is left.
func (r *activeRun) startServices(ctx context.Context) (started []*service, err error) {
	names := r.mkfile.serviceNames()
	if len(names) > ci.MaxServices {
		return nil, mkAnswer{1, fmt.Sprintf("the mkfile has %d targets service/NAME: a test may have %d", len(names), ci.MaxServices)}
	}
	defer func() {
		if err != nil {
			endAll(started)
		}
	}()
	for _, name := range names {
		s, err := r.startService(ctx, name)
		if err != nil {
			return started, err
		}
		started = append(started, s)
	}
	wait, cancel := context.WithTimeoutCause(ctx, readyTime, fmt.Errorf("was not ready in %v", readyTime))
	defer cancel()
	var wg sync.WaitGroup
	var first sync.Once
	for _, s := range started {
		wg.Go(func() {
			if e := s.ready(wait); e != nil {
				first.Do(func() { err = e })
				cancel() // nobody needs to know of the others
			}
		})
	}
	wg.Wait()
	return started, err
}

func (r *activeRun) startService(ctx context.Context, name string) (*service, error) {
	log, err := r.run.AddService(name)
	if err != nil {
		return nil, err
	}
	s := &service{r: r, name: name, log: log, signals: make(chan syscall.Signal, 1), ended: make(chan struct{})}
	ctx, s.cancel = context.WithCancelCause(ctx)
	stdout := r.mask.writer(io.MultiWriter(log.Stdout(), &s.last))
	stderr := r.mask.writer(io.MultiWriter(log.Stderr(), &s.last))
	go func() {
		defer close(s.ended)
		s.code, s.err = r.exec(ctx, vm.Cmd{
			Args:    append([]string{vm.GuestPath, "service", name}, r.besideTest(plan9Bin+"/mk", "service/"+name)...),
			Stdout:  stream{r, "stdout of service/" + name, stdout, new(int64), nil},
			Stderr:  stream{r, "stderr of service/" + name, stderr, new(int64), nil},
			Signals: s.signals,
		})
		s.err = errors.Join(s.err, stdout.Flush(), stderr.Flush(), log.Close())
	}()
	return s, nil
}

// ready waits until mk service/NAME/ready succeeds; if there is no such target the
// service is ready at once. If it is not ready before ctx is done, or has ended, that is
// an mkAnswer, and the service ends.
func (s *service) ready(ctx context.Context) error {
	target := "service/" + s.name + "/ready"
	if !s.r.mkfile.hasTarget(target) {
		return nil
	}
	asking, stop := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop(nil)
	wg.Go(func() {
		select {
		case <-s.ended:
			stop(errors.New("ended before it was ready"))
		case <-asking.Done():
		}
	})
	last := new(tail) // of what the questions said
	for {
		said := new(tail)
		w := s.r.mask.writer(said)
		code, err := s.r.exec(asking, vm.Cmd{Args: s.r.besideTest(plan9Bin+"/mk", target), Stdout: w, Stderr: w})
		w.Flush()
		if err == nil || said.String() != "" { // or it was cut off before it could say why
			last = said
		}
		switch {
		case err == nil && code == 0:
			return nil
		case err != nil && asking.Err() == nil:
			return err
		}
		select {
		case <-time.After(readyPoll):
		case <-asking.Done():
			s.end()
			return mkAnswer{1, fmt.Sprintf("service/%s %v; %s%s", s.name, context.Cause(asking), s.how(), quoted("mk "+target, last))}
		}
	}
}

// end ends the service.
func (s *service) end() {
	select {
	case s.signals <- syscall.SIGTERM:
	default: // it has that already
	}
	select {
	case <-s.ended:
	case <-time.After(endTime):
		s.cancel(fmt.Errorf("it did not end in %v", endTime))
		<-s.ended
	}
	s.cancel(nil)
}

// how returns how the service has ended and what it said last.
func (s *service) how() string {
	how := fmt.Sprintf("its status is %d", s.code)
	if s.err != nil {
		how = s.err.Error()
	}
	return how + quoted(fmt.Sprintf("ci/%s/%s", s.r.run.ID(), ci.ServiceLog(s.name)), &s.last)
}

// quoted returns lines that quote the end of what was said.
func quoted(what string, said *tail) string {
	text := strings.TrimSpace(said.String())
	if text == "" {
		return "\n" + what + " says nothing"
	}
	return "\n" + what + " ends with\n\t" + strings.ReplaceAll(text, "\n", "\n\t")
}

// endServices ends services. It says in the test's log which had failed before, unless
// ctx is done: its end is that of the machine, and of all in it.
func (r *activeRun) endServices(ctx context.Context, services []*service) {
	var failed []*service
	for _, s := range services {
		select {
		case <-s.ended:
			if ctx.Err() == nil && (s.code != 0 || s.err != nil) {
				failed = append(failed, s)
			}
		default:
		}
	}
	endAll(services)
	for _, s := range failed {
		r.say("service/%s ended while the test ran: %s", s.name, s.how())
	}
}

func endAll(services []*service) {
	var wg sync.WaitGroup
	for _, s := range services {
		wg.Go(s.end)
	}
	wg.Wait()
}
