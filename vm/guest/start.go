//go:build linux

package guest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// start starts c, with env before its own. The caller must call serve of the
// command.
func start(c Command, env []string) (*command, error) {
	if len(c.Args) == 0 {
		return nil, fmt.Errorf("no command: %w", syscall.EINVAL)
	}
	env = environ(slices.Concat(env, c.Env))
	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	if fi, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !fi.IsDir() {
		return nil, &os.PathError{Op: "chdir", Path: dir, Err: syscall.ENOTDIR}
	}
	path, err := lookPath(c.Args[0], dir, env)
	if err != nil {
		return nil, err
	}
	p := &command{input: newQueue(), window: newWindow()}
	attr := &syscall.ProcAttr{Dir: dir, Env: env}
	var ours, theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	fail := func(err error) (*command, error) {
		for _, f := range ours {
			f.Close()
		}
		return nil, err
	}
	pipe := func() (r, w *os.File, err error) {
		r, w, err = os.Pipe()
		return
	}
	if c.TTY {
		master, slave, err := openTTY(c.Rows, c.Cols)
		if err != nil {
			return nil, err
		}
		ours, theirs = append(ours, master), append(theirs, slave)
		p.tty, p.in = master, master
		p.out = []stream{{rStdout, master}}
		attr.Files = []uintptr{slave.Fd(), slave.Fd(), slave.Fd()}
		attr.Sys = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	} else {
		in, err := os.Open(os.DevNull)
		if c.Input {
			in, p.in, err = pipe()
			if err == nil {
				ours = append(ours, p.in)
			}
		}
		if err != nil {
			return fail(err)
		}
		theirs = append(theirs, in)
		attr.Files = append(attr.Files, in.Fd())
		for _, kind := range []byte{rStdout, rStderr} {
			r, w, err := pipe()
			if err != nil {
				return fail(err)
			}
			ours, theirs = append(ours, r), append(theirs, w)
			widen(r)
			p.out = append(p.out, stream{kind, r})
			attr.Files = append(attr.Files, w.Fd())
		}
		attr.Sys = &syscall.SysProcAttr{Setpgid: true}
	}
	p.pid, p.exited, err = children.fork(path, c.Args, attr)
	if err != nil {
		return fail(&os.PathError{Op: "exec", Path: path, Err: err})
	}
	return p, nil
}

// pipeSize is that of an output pipe: several messages, so that fewer
// switches between a command and this process carry more.
const pipeSize = 256 << 10

// widen makes a pipe hold more. It is no error if it cannot.
func widen(pipe *os.File) {
	ioctl(pipe, func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize)
		return err
	})
}

// environ returns env with only the last value of each name.
func environ(env []string) []string {
	var out []string
	seen := make(map[string]bool)
	for _, e := range slices.Backward(env) {
		name, _, ok := strings.Cut(e, "=")
		if ok && !seen[name] {
			seen[name] = true
			out = append(out, e)
		}
	}
	slices.Reverse(out)
	return out
}

// lookPath finds a program in the PATH of the command's own environment.
func lookPath(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil // relative to dir: chdir comes before exec
	}
	for _, e := range env {
		path, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for _, d := range filepath.SplitList(path) {
			if !filepath.IsAbs(d) {
				d = filepath.Join(dir, d)
			}
			f := filepath.Join(d, name)
			if fi, err := os.Stat(f); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
				return f, nil
			}
		}
	}
	return "", &exec.Error{Name: name, Err: fmt.Errorf("not found in $PATH: %w", syscall.ENOENT)}
}
