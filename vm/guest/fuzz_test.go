package guest

import (
	"io"
	"net"
	"os"
	"syscall"
	"testing"
)

// Whatever a guest says, the host's side ends, and each run with it.
func FuzzClient(f *testing.F) {
	start := msg(rHello, 0, []byte(Version)...) + msg(rPrep, 0) + msg(rBoot, 0)
	ran := msg(rRun, 1, 1, 0, 0, 0)
	f.Add(start + ran + msg(rStdout, 1, 'x') + msg(rStderr, 1, 'y') + msg(rExit, 1, make([]byte, 8)...))
	f.Add(start + msg(rError, 1, 2, 0, 0, 0, 'n', 'o'))
	f.Add(start + ran + msg(rTaken, 1, 10, 0, 0, 0) + msg(rPing, 0))
	f.Add(start + ran + msg(rStdout, 1))
	f.Add(msg(rHello, 0, []byte(Version)...) + msg(rError, 0, 5, 0, 0, 0))
	f.Add("\xff\xff\xff\xff\x01\x00\x00\x00\x00")
	f.Fuzz(func(t *testing.T, say string) {
		c := newLiar(t, say)
		<-c.Done()
		if c.Err() == nil {
			t.Error("Err = nil after Done")
		}
	})
}

// Whatever a host says, the guest's side ends, and starts nothing but what
// a Trun says.
func FuzzServer(f *testing.F) {
	boot := msg(tPrep, 0, []byte("{}")...) + msg(tBoot, 0, []byte("{}")...)
	run := msg(tRun, 1, []byte(`{"Args":["x"],"Input":true}`)...)
	f.Add(boot + run + msg(tInput, 1, 'x') + msg(tInput, 1) + msg(tTaken, 1, 10, 0, 0, 0))
	f.Add(boot + run + msg(tSignal, 1, 15, 0, 0, 0) + msg(tResize, 1, 1, 0, 1, 0) + msg(tPing, 0))
	f.Add(run)
	f.Add(boot + boot + msg(tHalt, 0))
	f.Add("\x09\x00\x00\x00\x05")
	f.Fuzz(func(t *testing.T, say string) {
		s := Server{start: startNothing}
		ours, theirs := net.Pipe()
		served := make(chan error)
		go func() { served <- s.Serve(theirs) }()
		heard := make(chan bool)
		go func() {
			defer close(heard)
			io.Copy(io.Discard, ours)
		}()
		io.WriteString(ours, say)
		ours.Close()
		<-served
		<-heard
		if len(s.cmds) != 0 {
			t.Errorf("%d commands left", len(s.cmds))
		}
	})
}

// startNothing is a command without a process: it says a word, reads what
// it is told, and ends.
func startNothing(c Command, env []string) (*command, error) {
	if len(c.Args) == 0 {
		return nil, syscall.EINVAL
	}
	out, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	w.WriteString("word")
	w.Close()
	exited := make(chan syscall.WaitStatus, 1)
	exited <- 0
	p := &command{
		input: newQueue(), window: newWindow(), exited: exited,
		out:  []stream{{rStdout, out}},
		dead: true,
	}
	if c.Input {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		r.Close()
		p.in = w
	}
	return p, nil
}
