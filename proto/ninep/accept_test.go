package ninep

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"9ci/proto/internal/testtree"
)

// A failing is a listener whose Accept returns what it is given.
type failing struct {
	accepts chan any // a net.Conn or an error
	closed  chan bool
}

func (l *failing) Accept() (net.Conn, error) {
	switch v := (<-l.accepts).(type) {
	case net.Conn:
		return v, nil
	case error:
		return nil, &net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", v)}
	}
	return nil, net.ErrClosed
}

func (l *failing) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *failing) Addr() net.Addr { return &net.UnixAddr{Name: "failing", Net: "unix"} }

// Errors that pass are waited out, as long as they last, and logged. One that
// lasts is returned at once, though a client is connected.
func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root, _ := testtree.New()
		l := &failing{accepts: make(chan any), closed: make(chan bool)}
		var log strings.Builder
		s := &Server{Root: root, Log: slog.New(slog.NewTextHandler(&log, nil))}
		served := make(chan error, 1)
		go func() { served <- s.ServeListener(t.Context(), l) }()

		begin := time.Now()
		for range 20 {
			l.accepts <- syscall.EMFILE
		}
		l.accepts <- syscall.ECONNABORTED
		near, far := net.Pipe()
		l.accepts <- far
		if took := time.Since(begin); took < 10*time.Second || took > 21*time.Second {
			t.Errorf("21 errors were tried again within %v, want pauses that grow to a second", took)
		}
		if n := strings.Count(log.String(), "too many open files"); n != 20 {
			t.Errorf("%d of 20 errors logged:\n%s", n, &log)
		}
		c, err := Import(t.Context(), near, ImportOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()

		l.accepts <- syscall.EBADF
		if err := <-served; !errors.Is(err, syscall.EBADF) {
			t.Errorf("ServeListener = %v, want %v", err, syscall.EBADF)
		}
		<-l.closed
		<-c.Done()
	})
}
