package guest

import (
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A thousand commands, many at once, end as they read their input. None
// of them ends the connection.
func TestEndsAsItReads(t *testing.T) {
	c, _ := newGuest(t, time.Minute)
	var wg sync.WaitGroup
	for range 25 {
		wg.Go(func() {
			for range 40 {
				// Many small messages: the guest tells of each that it was taken.
				in := &crumbs{left: 40}
				exit, err := c.Run(t.Context(), Cmd{Args: []string{"head", "-c", "20"}, Stdin: in})
				if err != nil || exit != (Exit{}) {
					t.Errorf("Run = %+v, %v", exit, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := c.Err(); err != nil {
		t.Errorf("the connection ended: %v", err)
	}
}

// crumbs is read a byte at a time.
type crumbs struct{ left int }

func (c *crumbs) Read(p []byte) (int, error) {
	if c.left--; c.left < 0 {
		return 0, errors.New("read on")
	}
	p[0] = 'x'
	return 1, nil
}

// A command ends while its input waits for room on its terminal, which a
// process in the background keeps open and reads from later. That the
// input was taken is not told any more.
func TestExitIsLast(t *testing.T) {
	tty, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	exited := make(chan syscall.WaitStatus, 1)
	input := newQueue()
	s := Server{start: func(Command, []string) (*command, error) {
		return &command{
			input: input, window: newWindow(), exited: exited,
			tty: in, in: in, out: []stream{{rStdout, out}}, dead: true,
		}, nil
	}}
	// The guest's words can be heard until Serve has returned.
	asked, ask := io.Pipe()
	hear, answer := io.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- s.Serve(struct {
			io.Reader
			io.Writer
			io.Closer
		}{asked, answer, io.NopCloser(nil)})
		answer.Close()
	}()
	c := newConn(struct {
		io.Reader
		io.WriteCloser
	}{hear, ask})
	heard := func(kind byte) message {
		t.Helper()
		m, err := c.read()
		if err != nil || m.kind != kind {
			t.Fatalf("read %s, %v, want %s", names[m.kind], err, names[kind])
		}
		return m
	}
	say := func(kind byte, id uint32, data string) {
		t.Helper()
		if err := c.write(kind, id, []byte(data)...); err != nil {
			t.Fatal(err)
		}
	}
	heard(rHello)
	say(tPrep, 0, "{}")
	heard(rPrep)
	say(tBoot, 0, "{}")
	heard(rBoot)
	say(tRun, 1, `{"Args":["x"],"TTY":true}`)
	heard(rRun)
	// The pipe holds 64 KiB, so the third message waits for a reader.
	for range 2 {
		say(tInput, 1, strings.Repeat("x", MaxData))
		heard(rTaken)
	}
	say(tInput, 1, strings.Repeat("x", MaxData))
	for !beingWritten(input) {
		runtime.Gosched()
	}
	exited <- 0
	heard(rExit)
	if _, err := io.CopyN(io.Discard, tty, 3*MaxData); err != nil {
		t.Fatal(err)
	}
	ask.Close()
	if m, err := c.read(); err != io.EOF {
		t.Errorf("behind Rexit: %s of %d, %v", names[m.kind], m.id, err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve = %v", err)
	}
	in.Close()
	tty.Close()
}

// beingWritten reports whether the last that was put into q is being
// consumed.
func beingWritten(q *queue) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.held > 0 && len(q.chunks) == 0
}
