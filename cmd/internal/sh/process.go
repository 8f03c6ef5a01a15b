package sh

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/syntax"
)

// job is a process that was started, or could not be.
type job struct {
	pid    int           // 0 if it could not be started
	done   chan struct{} // closed when it has ended, and status is set
	status int
	signal syscall.Signal // that ended it
}

// failed is a job that could not be started.
func failed(status int) *job {
	j := &job{done: make(chan struct{}), status: status}
	close(j.done)
	return j
}

// files are the descriptors of a command that is started, under the script's numbers.
func (s *shell) files() []uintptr {
	top := -1
	for n := range s.fds {
		top = max(top, n)
	}
	files := make([]uintptr, max(top+1, 3))
	for i := range files {
		files[i] = ^uintptr(0)
		if fd, ok := s.fds[i]; ok {
			files[i] = uintptr(fd)
		}
	}
	return files
}

// launch starts a process, and takes its status when it ends.
func (s *shell) launch(path string, args []string, files []uintptr) (*job, error) {
	pid, err := syscall.ForkExec(path, args, &syscall.ProcAttr{Env: s.environ(), Files: files})
	if err != nil {
		return nil, err
	}
	j := &job{pid: pid, done: make(chan struct{})}
	go func() {
		defer close(j.done)
		var ws syscall.WaitStatus
		for {
			if _, err := syscall.Wait4(pid, &ws, 0, nil); err != syscall.EINTR {
				break
			}
		}
		j.status = ws.ExitStatus()
		if ws.Signaled() {
			j.signal = ws.Signal()
			j.status = 128 + int(j.signal)
		}
	}()
	return j, nil
}

// spawn starts a command that is not part of the shell.
func (s *shell) spawn(args []string) *job {
	path, status := s.find(args[0])
	if status != 0 {
		return failed(status)
	}
	argv := args
	if path == "" {
		path, argv = s.self[0], append(s.self[:len(s.self):len(s.self)], args[1:]...)
	}
	j, err := s.launch(path, argv, s.files())
	if err == syscall.ENOEXEC && isText(path) { // a script that does not say for what
		argv = append(append(s.self[:len(s.self):len(s.self)], path), args[1:]...)
		j, err = s.launch(s.self[0], argv, s.files())
	}
	if err != nil {
		s.errorf("%s: %s", args[0], reason(err))
		return failed(126)
	}
	return j
}

// isText tells whether a file may be a script: its first line has no NUL.
func isText(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 256)
	n, _ := f.Read(b)
	line, _, _ := bytes.Cut(b[:n], []byte("\n"))
	return bytes.IndexByte(line, 0) < 0
}

// find returns the file of a command. It is empty where the command is sh, and
// there is none but this shell. If there is no such command, find says so and
// returns its status.
func (s *shell) find(name string) (path string, status int) {
	path, err := s.look(name)
	switch {
	case err == nil:
		return path, 0
	case name == "sh" || name == "/bin/sh":
		return "", 0
	case err == syscall.ENOENT || err == syscall.ENOTDIR:
		s.errorf("%s: not found", name)
		return "", 127
	}
	s.errorf("%s: %s", name, reason(err))
	return "", 126
}

// look returns the file of a command in $PATH.
func (s *shell) look(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	err := error(syscall.ENOENT)
	if name == "" {
		return "", err
	}
	for _, dir := range s.path() {
		file := filepath.Join(dir, name)
		if dir == "" {
			file = "./" + name
		}
		switch e := executable(file); e {
		case nil:
			return file, nil
		case syscall.ENOENT, syscall.ENOTDIR:
		default:
			err = e
		}
	}
	return "", err
}

// path returns the directories where commands are looked for.
func (s *shell) path() []string {
	if v := s.vars["PATH"]; v != nil && v.set {
		return strings.Split(v.value, ":")
	}
	return nil
}

// standardPath is $PATH where the shell is started without one.
const standardPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func executable(file string) error {
	var st syscall.Stat_t
	if err := syscall.Stat(file, &st); err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return syscall.EACCES
	}
	return unix.Access(file, unix.X_OK)
}

// start starts a subshell that runs list.
func (s *shell) start(line uint, list []*syntax.Stmt) *job {
	j, err := s.startShell(line, list)
	if err != nil {
		s.fail("cannot start a subshell: %s", reason(err))
		return failed(2)
	}
	return j
}

func (s *shell) startShell(line uint, list []*syntax.Stmt) (*job, error) {
	script, args, err := s.state(line, list)
	if err != nil {
		return nil, err
	}
	fd, err := memory("state", script)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	files := s.files()
	for len(files) <= stateFD {
		files = append(files, ^uintptr(0))
	}
	files[stateFD] = uintptr(fd)
	return s.launch(s.self[0], append(s.self[:len(s.self):len(s.self)], args...), files)
}

// await waits for a job in the foreground, and says if a signal has ended it.
func (s *shell) await(j *job) int {
	<-j.done
	s.sayKilled(j)
	return j.status
}

// sayKilled says so if a signal has ended a job, unless its user knows.
func (s *shell) sayKilled(j *job) {
	if j.signal != 0 && j.signal != syscall.SIGINT && j.signal != syscall.SIGPIPE {
		text := j.signal.String()
		s.write(2, []byte(strings.ToUpper(text[:1])+text[1:]+"\n"))
	}
}

// background starts a statement that the shell does not wait for. Its standard
// input is empty unless it says otherwise.
func (s *shell) background(st *syntax.Stmt) {
	body := *st
	body.Background = false
	old := s.fds
	s.fds = maps.Clone(old)
	null, err := openFile(os.DevNull, syscall.O_RDONLY)
	if err == nil {
		s.fds[0] = null
	}
	j := s.start(st.Pos().Line(), []*syntax.Stmt{&body})
	s.fds = old
	if err == nil {
		syscall.Close(null)
	}
	if s.leave != nothing {
		return
	}
	s.status = 0
	if j.pid != 0 {
		s.last = j.pid
		s.jobs[j.pid] = j
	}
}

// stages returns the commands of a pipeline.
func stages(c *syntax.BinaryCmd) []*syntax.Stmt {
	var list []*syntax.Stmt
	for _, st := range []*syntax.Stmt{c.X, c.Y} {
		if b, ok := st.Cmd.(*syntax.BinaryCmd); ok && b.Op == syntax.Pipe && len(st.Redirs) == 0 && !st.Negated {
			list = append(list, stages(b)...)
		} else {
			list = append(list, st)
		}
	}
	return list
}

// pipeline runs commands each of which reads what the one before it writes. Its
// status is that of the last one.
func (s *shell) pipeline(list []*syntax.Stmt) {
	old := s.fds
	var jobs []*job
	in := -1
	for i, st := range list {
		s.fds = maps.Clone(old)
		if in >= 0 {
			s.fds[0] = in
		}
		p := []int{-1, -1}
		if i < len(list)-1 {
			if err := syscall.Pipe2(p, syscall.O_CLOEXEC); err != nil {
				s.fds = old
				s.fail("cannot make a pipe: %s", reason(err))
				break
			}
			s.fds[1] = p[1]
		}
		jobs = append(jobs, s.start(st.Pos().Line(), []*syntax.Stmt{st}))
		s.fds = old
		for _, fd := range []int{in, p[1]} {
			if fd >= 0 {
				syscall.Close(fd)
			}
		}
		in = p[0]
	}
	for _, j := range jobs {
		status := s.await(j)
		if s.leave == nothing {
			s.status = status
		}
	}
}

// substitute returns the output of a command substitution.
func (s *shell) substitute(cs *syntax.CmdSubst) []byte {
	s.subst = 0
	if len(cs.Stmts) == 0 {
		return nil
	}
	p := make([]int, 2)
	if err := syscall.Pipe2(p, syscall.O_CLOEXEC); err != nil {
		s.fail("cannot make a pipe: %s", reason(err))
		return nil
	}
	old := s.fds
	s.fds = maps.Clone(old)
	s.fds[1] = p[1]
	j := s.start(cs.Pos().Line(), cs.Stmts)
	s.fds = old
	syscall.Close(p[1])
	var out bytes.Buffer
	b := make([]byte, 32<<10)
	for {
		n, err := readFD(p[0], b)
		out.Write(b[:n])
		if err != nil {
			break
		}
	}
	syscall.Close(p[0])
	s.subst = s.await(j)
	return out.Bytes()
}

// exec replaces the shell with a command. Without one, the redirections of the
// statement stay.
func (s *shell) exec(args []string) (keep bool) {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		s.status = 0
		return true
	}
	path, status := s.find(args[0])
	if status == 0 {
		argv := args
		if path == "" {
			path, argv = s.self[0], append(s.self[:len(s.self):len(s.self)], args[1:]...)
		}
		s.errorf("%s: %s", args[0], reason(s.replace(path, argv)))
		status = 126
	}
	s.status, s.leave = status, exiting
	return true
}

// replace is execve(2) with the script's descriptors in their places. It returns
// only if that fails, and then descriptors 0 to 9 are what the script made them.
func (s *shell) replace(path string, argv []string) error {
	if err := executable(path); err != nil {
		return err
	}
	high := make(map[int]int)
	for n, fd := range s.fds {
		h, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, stateFD)
		if err != nil {
			return err
		}
		high[n] = h
	}
	for n := range 3 {
		if _, ok := high[n]; !ok {
			syscall.Close(n)
		}
	}
	for n, h := range high {
		if err := unix.Dup3(h, n, 0); err != nil {
			return err
		}
	}
	s.fds = high
	err := syscall.Exec(path, argv, s.environ())
	if err == syscall.ENOEXEC && isText(path) {
		argv = append(append(s.self[:len(s.self):len(s.self)], path), argv[1:]...)
		err = syscall.Exec(s.self[0], argv, s.environ())
	}
	return err
}
