package executor

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"9ci/cmd/internal/config"
)

// A line is a Queue and the runs that a test has put into it.
type line struct {
	t     *testing.T
	q     *Queue
	leave map[string]func() // of those that go
	order []string          // in which they came to go
	stop  map[string]context.CancelCauseFunc
}

func newLine(t *testing.T, jobs int) *line {
	return &line{t: t, q: &Queue{Jobs: jobs}, leave: map[string]func(){}, stop: map[string]context.CancelCauseFunc{}}
}

// come puts a run into the queue, named by its repository and a number.
func (l *line) come(name string, c *config.Config) {
	ctx, cancel := context.WithCancelCause(l.t.Context())
	l.stop[name] = cancel
	of, digits, _ := strings.Cut(name, ".")
	number, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		l.t.Fatal(err)
	}
	p := l.q.join(of, number, c)
	go func() {
		leave, err := l.q.wait(ctx, p)
		l.q.mu.Lock() // of the test's maps too
		defer l.q.mu.Unlock()
		if err != nil {
			l.order = append(l.order, name+" "+err.Error())
			return
		}
		l.leave[name] = leave
		l.order = append(l.order, name)
	}()
	synctest.Wait()
}

func (l *line) end(name string) {
	l.leave[name]()
	synctest.Wait()
}

func (l *line) want(want ...string) {
	l.t.Helper()
	if !slices.Equal(l.order, want) {
		l.t.Errorf("so far %q go, want %q", l.order, want)
	}
}

// Runs go in the order of their repository, and repositories take turns.
func TestQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, 2)
		c := new(config.Config)
		for i := range 4 {
			l.come(fmt.Sprintf("a.%d", i), c)
		}
		l.come("b.0", c)
		l.come("c.0", c)
		l.come("b.1", c)
		l.want("a.0", "a.1")
		l.end("a.1")
		l.want("a.0", "a.1", "b.0")
		l.end("a.0") // one of b goes, none of a and c: a came first
		l.want("a.0", "a.1", "b.0", "a.2")
		l.end("b.0")
		l.want("a.0", "a.1", "b.0", "a.2", "c.0")

		// One that is cancelled leaves the line, and its place to others.
		l.stop["b.1"](errors.New("cancelled"))
		synctest.Wait()
		l.want("a.0", "a.1", "b.0", "a.2", "c.0", "b.1 cancelled")
		l.end("c.0")
		l.want("a.0", "a.1", "b.0", "a.2", "c.0", "b.1 cancelled", "a.3")
		l.end("a.2")
		l.end("a.3")
		if len(l.q.waiting)+len(l.q.going) > 0 {
			t.Errorf("%d wait and %d go at the end", len(l.q.waiting), len(l.q.going))
		}
	})
}

// A run that joins late, as it was looking for another, has its place by its number.
func TestQueueLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, 1)
		c := new(config.Config)
		l.come("a.1", c)
		l.come("a.4", c)
		l.come("b.9", c)
		l.come("a.3", c)
		l.come("a.2", c)
		for i := range 4 {
			l.end(l.order[i])
		}
		l.want("a.1", "a.2", "b.9", "a.3", "a.4")
		l.end("a.4")
	})
}

// Without Jobs the processors count, and the memory always does. What is alone goes, and
// what has no room is not overtaken.
func TestQueueRoom(t *testing.T) {
	host, err := config.HostMemory()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		all := runtime.NumCPU()
		l := newLine(t, 0)
		l.come("a.0", &config.Config{CPUs: all + 1})
		l.come("b.0", &config.Config{CPUs: 1})
		l.want("a.0")
		l.end("a.0")
		for i := range all {
			l.come(fmt.Sprintf("c.%d", i), &config.Config{CPUs: 1})
		}
		if len(l.order) != all+1 {
			t.Errorf("%d runs have gone, want %d", len(l.order), all+1)
		}

		// Those that have all processors share them, but none that one has to itself.
		l = newLine(t, 0)
		for i := range all + 1 {
			l.come(fmt.Sprintf("a.%d", i), &config.Config{})
		}
		if len(l.order) != all {
			t.Errorf("%d runs with all processors go at once, want %d", len(l.order), all)
		}
		l = newLine(t, 0)
		l.come("a.0", &config.Config{CPUs: all})
		l.come("b.0", &config.Config{})
		l.want("a.0")
		l.end("a.0")
		l.come("a.1", &config.Config{CPUs: all})
		l.want("a.0", "b.0")
		l.end("b.0")
		l.want("a.0", "b.0", "a.1")

		l = newLine(t, 9)
		l.come("a.0", &config.Config{CPUs: all, Memory: host / 2})
		l.come("b.0", &config.Config{CPUs: all, Memory: host / 8})
		l.come("c.0", &config.Config{CPUs: all, Memory: host / 2})
		l.come("d.0", &config.Config{Memory: 1})
		l.want("a.0", "b.0")
		l.end("b.0")
		l.want("a.0", "b.0")
		l.end("a.0") // now there is room for both
		slices.Sort(l.order)
		l.want("a.0", "b.0", "c.0", "d.0")
	})
}
