package mk

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// streams are the files that mk and its recipes share.
type streams struct {
	stdin, stdout, stderr *os.File
	opened                []*os.File // ours to close
	pipes                 []*os.File // read ends
	copying               sync.WaitGroup
	err                   error // of the caller's Stdout, known when copying is done
}

// openStreams returns files for c's streams, pipes where they are none.
func openStreams(c *Config) (*streams, error) {
	s := new(streams)
	var err error
	if s.stdin = c.Stdin; s.stdin == nil {
		if s.stdin, err = os.Open(os.DevNull); err != nil {
			return nil, err
		}
		s.opened = append(s.opened, s.stdin)
	}
	if s.stdout, err = s.writer(c.Stdout, &s.err); err != nil {
		s.close()
		return nil, err
	}
	if same(c.Stderr, c.Stdout) {
		s.stderr = s.stdout
	} else if s.stderr, err = s.writer(c.Stderr, new(error)); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// writer returns a file whose bytes go to w, until w answers with an error.
func (s *streams) writer(w io.Writer, failed *error) (*os.File, error) {
	if f, ok := w.(*os.File); ok {
		return f, nil
	}
	if w == nil {
		w = io.Discard
	}
	r, f, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.opened = append(s.opened, f)
	s.pipes = append(s.pipes, r)
	s.copying.Go(func() {
		io.Copy(noting{w, failed}, r)
		io.Copy(io.Discard, r)
	})
	return f, nil
}

// noting is a writer whose last error is noted.
type noting struct {
	io.Writer
	err *error
}

func (w noting) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	*w.err = err
	return n, err
}

// end is close, whose error becomes *err if that is nil.
func (s *streams) end(err *error) {
	s.close()
	if *err == nil && s.err != nil {
		*err = fmt.Errorf("write standard output: %w", s.err)
	}
}

// linger is how long close waits for the output of processes that recipes
// left in the background.
const linger = time.Second

// close returns when all output was written to the caller's writers.
func (s *streams) close() {
	for _, f := range s.opened {
		f.Close()
	}
	if len(s.pipes) == 0 {
		return
	}
	t := time.AfterFunc(linger, func() {
		for _, r := range s.pipes {
			r.Close()
		}
	})
	s.copying.Wait()
	t.Stop()
	for _, r := range s.pipes {
		r.Close()
	}
}

// searchPath finds a command as execvp(3) does.
func searchPath(c *Config, name string, env []string) (string, error) {
	if strings.IndexByte(name, '/') >= 0 {
		return name, nil
	}
	if name == "" {
		return "", syscall.ENOENT
	}
	path := "/bin:/usr/bin"
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
			break
		}
	}
	var err error = syscall.ENOENT
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		file := dir + "/" + name
		switch e := syscall.Access(c.path(file), 1); {
		case e == nil && isFile(c.path(file)):
			return file, nil
		case e == nil, e == syscall.EACCES:
			err = syscall.EACCES
		}
	}
	return "", err
}

func isFile(name string) bool {
	var st syscall.Stat_t
	return syscall.Stat(name, &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFREG
}

// same tells whether a and b are one writer. Writers that cannot be compared
// are not.
func same(a, b io.Writer) bool {
	defer func() { recover() }()
	return a != nil && a == b
}
