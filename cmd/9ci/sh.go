package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"os/signal"
	"path"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"9ci/cmd/internal/show"
	"9ci/fs/ci"
	"9ci/proto/ninep"
)

// shCommand is a shell in the machine of a held run. Its status is the shell's.
func shCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("sh")
	root := f.Bool("root", false, "")
	if err := parseFlags(f, args, 0, 1); err != nil {
		return exitError, err
	}
	show.Outlive() // the terminal is to be set as it was
	rev := "held"
	if f.NArg() > 0 {
		rev = strings.TrimPrefix(f.Arg(0), "ci/")
	}
	if rev == "" || strings.ContainsAny(rev, "/'\n") {
		return exitError, fmt.Errorf("%q is no run: want an id, last, head, or digits of a commit", f.Arg(0))
	}
	here, err := stand(ctx)
	if err == nil && here == nil {
		err = errors.New("this is in no repository: 9ci sh looks for the runs of the one that it is in")
	}
	if err != nil {
		return exitError, err
	}
	_, p, err := search{}.find(ctx, path.Join("ci", rev, "hold"))
	if _, ok := errors.AsType[*told](err); !ok && errors.Is(err, iofs.ErrNotExist) {
		// The run is there. Of a commit it is the best one, which need not be the one that is held.
		held := err
		if ci.IsPrefix(rev) {
			_, p, held = search{}.find(ctx, "ci/held/hold")
		}
		if err = nil; held != nil {
			err = fmt.Errorf("the machine of %s is not held: CI_HOLD=10m 9ci run -f holds that of a run that fails", rev)
		}
	}
	if err != nil {
		return failed(exitError, err)
	}
	defer p.close()
	nc, err := ninep.DialOwn(ctx, p.addr)
	if err != nil {
		return exitError, err
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	// The kernel has told whose socket this is; the host key is made for it.
	sc, chans, reqs, err := ssh.NewClientConn(nc, p.addr, &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		return exitError, fmt.Errorf("%s: %w", p.addr, err)
	}
	c := ssh.NewClient(sc, chans, reqs)
	defer c.Close()
	command := "sh namespace='" + here.namespace + "'"
	if *root {
		command += " -root"
	}
	code, err := remoteShell(c, command+" 'ci/"+rev+"'")
	if ctx.Err() != nil {
		return exitError, context.Cause(ctx)
	}
	return code, err
}

// remoteShell runs a command with this process's terminal, if its standard input is one, and
// returns the exit status. What the shell writes goes out as it is: it is the user who works
// there.
func remoteShell(c *ssh.Client, command string) (int, error) {
	s, err := c.NewSession()
	if err != nil {
		return exitError, err
	}
	defer s.Close()
	s.Stdout, s.Stderr = reader{show.Out.Raw(), c}, reader{show.Err.Raw(), c}
	in, err := s.StdinPipe()
	if err != nil {
		return exitError, err
	}
	fd := int(os.Stdin.Fd())
	if term.IsTerminal(fd) {
		size := func() (rows, cols int) {
			cols, rows, err := term.GetSize(fd)
			if err != nil {
				return 0, 0
			}
			return rows, cols
		}
		rows, cols := size()
		if err := s.RequestPty(os.Getenv("TERM"), rows, cols, ssh.TerminalModes{}); err != nil {
			return exitError, err
		}
		was, err := term.MakeRaw(fd)
		if err != nil {
			return exitError, err
		}
		defer term.Restore(fd, was)
		resized := make(chan os.Signal, 1)
		signal.Notify(resized, syscall.SIGWINCH)
		done := make(chan struct{})
		var wg sync.WaitGroup
		defer wg.Wait()
		defer close(done)
		defer signal.Stop(resized)
		wg.Go(func() {
			for {
				select {
				case <-resized:
					s.WindowChange(size())
				case <-done:
					return
				}
			}
		})
	}
	if err := s.Start(command); err != nil {
		return exitError, err
	}
	go func() { // a read of the terminal ends with the process
		io.Copy(in, os.Stdin)
		in.Close()
	}()
	err = s.Wait()
	if exit, ok := errors.AsType[*ssh.ExitError](err); ok {
		return exit.ExitStatus(), nil
	}
	if err != nil {
		return exitError, fmt.Errorf("the connection to the machine is lost: %w", err)
	}
	return 0, nil
}

// A reader gets what a shell says. A reader that has gone hangs up the shell, as it does
// that of ssh(1).
type reader struct {
	io.Writer
	shell io.Closer
}

func (r reader) Write(p []byte) (int, error) {
	n, err := r.Writer.Write(p)
	if err != nil {
		r.shell.Close()
	}
	return n, err
}
