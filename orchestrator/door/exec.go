package door

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"slices"
	"strings"
	"unicode"

	"9ci/fs"
	"9ci/fs/ci"
)

// Exit statuses of commands.
const (
	exitOK      = 0
	exitFail    = 1
	exitUsage   = 2
	exitBusy    = 75  // EX_TEMPFAIL of sysexits.h: all that failed may be tried again
	exitUnknown = 127 // as a shell has it
)

// commands are all that ssh HOST COMMAND can run.
var commands = []struct {
	name, args, what string
	min              int // arguments
	do               func(s *session, out io.Writer, args []string) int
}{
	{"cat", "PATH...", "the bytes of files", 1, (*session).cat},
	{"ls", "[-l] [PATH...]", "the names in directories", 0, (*session).ls},
	{"stat", "PATH...", "mode, size, time and name", 1, (*session).stat},
	{"scp", "-f PATH...", "what scp -O runs here to copy files", 1, (*session).scp},
	{"wait", "PATH", "wait until a run has ended, print its status; 0 if it passed", 1, (*session).wait},
	{"whoami", "", "this key, and what it may do", 0, (*session).whoami},
}

// exec runs a command line.
func (s *session) exec(text string) int {
	words, err := splitCommand(text)
	if err != nil {
		fmt.Fprintf(s.ch.Stderr(), "%v\n", err)
		return exitUsage
	}
	if len(words) == 0 {
		return s.help()
	}
	if len(words) > 1 {
		if ns, ok := strings.CutPrefix(words[1], "namespace="); ok {
			s.namespace = ns
			words = slices.Delete(words, 1, 2)
		}
	}
	for _, c := range commands {
		if c.name != words[0] {
			continue
		}
		if len(words)-1 < c.min {
			fmt.Fprintf(s.ch.Stderr(), "usage: %s %s\n", c.name, c.args)
			return exitUsage
		}
		out := bufio.NewWriterSize(s.ch, 32<<10)
		status := c.do(s, out, words[1:])
		if err := out.Flush(); err != nil && status == exitOK {
			status = exitFail
		}
		return status
	}
	fmt.Fprintf(s.ch.Stderr(), "%s: there is no such command here\n", words[0])
	s.usage(s.ch.Stderr())
	return exitUnknown
}

// help answers a login without a command.
func (s *session) help() int {
	fmt.Fprintf(s.ch, "This is 9ci. It has no shell, only these commands; namespace=NS before a PATH says where ci, n and artifacts are:\r\n")
	s.usage(s.ch)
	return exitOK
}

func (s *session) usage(w io.Writer) {
	for _, c := range commands {
		fmt.Fprintf(w, "\t%-22s %s\r\n", c.name+" "+c.args, c.what)
	}
}

// complain prints an error about a file as the Unix command of that name does. It
// returns what status, that of the command so far, comes to.
func (s *session) complain(name, path string, err error, status int) int {
	fmt.Fprintf(s.ch.Stderr(), "%s: %s: %s\n", name, path, errorText(err))
	return worse(status, err)
}

// worse returns what the status of a command comes to by an error.
func worse(status int, err error) int {
	if errors.Is(err, fs.ErrBusy) && status != exitFail {
		return exitBusy
	}
	return exitFail
}

// errorText returns an error about a file in the words of Unix commands.
func errorText(err error) string {
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return "file not found"
	case errors.Is(err, fs.ErrIsDir):
		return "is a directory"
	case errors.Is(err, fs.ErrNotDir):
		return "not a directory"
	case errors.Is(err, iofs.ErrPermission):
		return "permission denied"
	}
	return err.Error()
}

func (s *session) cat(out io.Writer, paths []string) int {
	status := exitOK
	for _, path := range paths {
		n, err := s.tree.Walk(s.ctx, s.namespace, path)
		if err == nil {
			err = copyFile(s.ctx, out, n)
		}
		if err != nil {
			status = s.complain("cat", path, err, status)
		}
	}
	return status
}

// copyFile writes a file's bytes as they come: it does not hold back those of a
// live file.
func copyFile(ctx context.Context, out io.Writer, n fs.Node) error {
	f, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 64<<10)
	for off := int64(0); ; {
		n, err := f.ReadAt(ctx, b, off)
		if n > 0 {
			if _, err := out.Write(b[:n]); err != nil {
				return err
			}
			off += int64(n)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n < len(b) {
			if b, ok := out.(*bufio.Writer); ok {
				b.Flush() // it may be long until there is more
			}
		}
	}
}

func (s *session) ls(out io.Writer, args []string) int {
	long := len(args) > 0 && args[0] == "-l"
	if long {
		args = args[1:]
	}
	if len(args) == 0 {
		args = []string{"/"}
	}
	status := exitOK
	for _, path := range args {
		if err := s.list(out, path, long, len(args) > 1); err != nil {
			status = s.complain("ls", path, err, status)
		}
	}
	return status
}

// list writes the entries of a directory, or the file itself.
func (s *session) list(out io.Writer, path string, long, header bool) error {
	n, err := s.tree.Walk(s.ctx, s.namespace, path)
	if err != nil {
		return err
	}
	d, ok := n.(fs.Dir)
	if !ok {
		st, err := n.Stat(s.ctx)
		if err != nil {
			return err
		}
		st.Name = path
		writeStat(out, st, long)
		return nil
	}
	if header {
		fmt.Fprintf(out, "%s:\n", path)
	}
	for after := uint64(0); ; {
		page, err := d.ReadDir(s.ctx, after, 256)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		for _, st := range page {
			writeStat(out, st, long)
		}
		after = page[len(page)-1].Cookie
	}
}

func (s *session) stat(out io.Writer, paths []string) int {
	status := exitOK
	for _, path := range paths {
		n, err := s.tree.Walk(s.ctx, s.namespace, path)
		if err == nil {
			var st fs.Stat
			if st, err = n.Stat(s.ctx); err == nil {
				st.Name = path
				writeStat(out, st, true)
			}
		}
		if err != nil {
			status = s.complain("stat", path, err, status)
		}
	}
	return status
}

// writeStat writes one line of ls or stat.
func writeStat(w io.Writer, st fs.Stat, long bool) {
	if !long {
		fmt.Fprintln(w, st.Name)
		return
	}
	fmt.Fprintf(w, "%s %d %s %s", st.Mode, st.Size, ci.FormatTime(st.ModTime), st.Name)
	if strings.ContainsFunc(st.Target, unicode.IsControl) {
		fmt.Fprintf(w, " -> %q", st.Target)
	} else if st.Target != "" {
		fmt.Fprintf(w, " -> %s", st.Target)
	}
	fmt.Fprintln(w)
}

// wait blocks until the run at a path has ended, prints its status, and succeeds
// if it passed.
func (s *session) wait(out io.Writer, args []string) int {
	path := args[0]
	n, err := s.tree.Walk(s.ctx, s.namespace, path+"/wait")
	var b strings.Builder
	if err == nil {
		err = copyFile(s.ctx, &b, n)
	}
	if err != nil {
		return s.complain("wait", path, err, exitOK)
	}
	io.WriteString(out, b.String())
	if st, err := ci.ParseStatus(b.String()); err != nil || st.State != "passed" {
		return exitFail
	}
	return exitOK
}

func (s *session) whoami(out io.Writer, _ []string) int {
	out.Write(s.tree.Whoami.Text())
	return exitOK
}
