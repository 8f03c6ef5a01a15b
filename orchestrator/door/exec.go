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
	"9ci/orchestrator/access"
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
func commands() []command {
	return []command{
		{"cat", "PATH...", "the bytes of files", 1, (*session).cat},
		{"tail", "[-f] [-n N] [-c N] PATH...", "their ends; -f: and what comes, until the run has ended", 1, (*session).tail},
		{"ls", "[-1adl] [PATH...]", "the names in directories", 0, (*session).ls},
		{"find", "[PATH...] [-name PATTERN] [-type f|d|l] [-maxdepth N]", "the paths below directories", 0, (*session).find},
		{"stat", "PATH...", "mode, size, time and name", 1, (*session).stat},
		{"scp", "-f PATH...", "what scp -O runs here to copy files", 1, (*session).scp},
		{"wait", "REV|PATH", "wait for a run, the first if there is none, print its status; 0 if it passed", 1, (*session).wait},
		{"sh", "[-root] [REV]", "a shell in the machine of a held run", 0, (*session).sh},
		{"told", "COMMIT", "what the forge was told of how its runs ended", 1, (*session).told},
		{"whoami", "", "this key, and what it may do", 0, (*session).whoami},
		{"logout", "", "revoke this key's certificates", 0, (*session).logout},
	}
}

// A command is a row of commands.
type command struct {
	name, args, what string
	min              int // arguments
	do               func(s *session, out io.Writer, args []string) int
}

// commands are those of all that the session can run.
func (s *session) commands() []command {
	return slices.DeleteFunc(commands(), func(c command) bool {
		return c.name == "sh" && s.tree.Shell == nil || c.name == "told" && s.tree.Told == nil
	})
}

// exec runs a command line.
func (s *session) exec(text string) int {
	line, err := splitCommand(text)
	if s.pty && (err != nil || len(line) == 0 || line[0].text != "sh") {
		s.wg.Go(s.interrupt)
	}
	if err != nil {
		fmt.Fprintf(s.stderr(), "%v\n", err)
		return exitUsage
	}
	if len(line) == 0 {
		return s.help()
	}
	if len(line) > 1 {
		if ns, ok := strings.CutPrefix(line[1].text, "namespace="); ok {
			s.namespace = ns
			line = slices.Delete(line, 1, 2)
		}
	}
	words, err := s.expand(line)
	if err != nil {
		fmt.Fprintf(s.stderr(), "%s: %v\n", line[0].text, err)
		return exitUsage
	}
	for _, c := range s.commands() {
		if c.name != words[0] {
			continue
		}
		if len(words)-1 < c.min {
			fmt.Fprintf(s.stderr(), "usage: %s %s\n", c.name, c.args)
			return exitUsage
		}
		if c.name != "scp" && c.name != "sh" && !s.pty { // which nobody else reads
			s.wg.Go(func() { io.Copy(io.Discard, s.ch) })
		}
		out := bufio.NewWriterSize(s.stdout(), 32<<10)
		status := c.do(s, out, words[1:])
		if err := out.Flush(); err != nil && status == exitOK {
			status = exitFail
		}
		return status
	}
	fmt.Fprintf(s.stderr(), "%s: there is no such command here\n", words[0])
	s.usage(s.stderr())
	return exitUnknown
}

// help answers a login without a command.
func (s *session) help() int {
	fmt.Fprintf(s.stdout(), "This is 9ci. It has no shell, only these commands; namespace=NS before a PATH says where ci, n and artifacts are:\n")
	s.usage(s.stdout())
	return exitOK
}

func (s *session) usage(w io.Writer) {
	for _, c := range s.commands() {
		fmt.Fprintf(w, "\t%-27s %s\n", c.name+" "+c.args, c.what)
	}
}

// complain prints an error about a file as the Unix command of that name does. It
// returns what status, that of the command so far, comes to.
func (s *session) complain(name, path string, err error, status int) int {
	fmt.Fprintf(s.stderr(), "%s: %s: %s\n", name, path, errorText(err))
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
	var absent *access.AbsentError
	switch {
	case errors.As(err, &absent):
		return absent.Error()
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
	_, err = copyFrom(ctx, out, f, 0)
	return err
}

// copyFrom is copyFile of an open file from an offset on. It returns the offset of
// the end.
func copyFrom(ctx context.Context, out io.Writer, f fs.File, off int64) (int64, error) {
	b := make([]byte, 64<<10)
	for {
		n, err := f.ReadAt(ctx, b, off)
		if n > 0 {
			if _, err := out.Write(b[:n]); err != nil {
				return off, err
			}
			off += int64(n)
		}
		if n < len(b) {
			if b, ok := out.(*bufio.Writer); ok {
				b.Flush() // it may be long until there is more
			}
		}
		if err == io.EOF {
			return off, nil
		}
		if err != nil {
			return off, err
		}
	}
}

func (s *session) ls(out io.Writer, args []string) int {
	var o listing
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		flags := args[0][1:]
		args = args[1:]
		if flags == "-" {
			break
		}
		for _, f := range flags {
			switch f {
			case 'l':
				o.long = true
			case 'a':
				o.dots = true
			case 'd':
				o.self = true
			case '1':
			default:
				return s.misused("ls", fmt.Errorf("there is no flag -%c", f))
			}
		}
	}
	if len(args) == 0 {
		args = []string{"/"}
	}
	o.header = len(args) > 1
	status := exitOK
	for _, path := range args {
		if err := s.list(out, path, o); err != nil {
			status = s.complain("ls", path, err, status)
		}
	}
	return status
}

// A listing is how ls lists.
type listing struct {
	long   bool
	dots   bool // . and .. too: the other names are listed in any case
	self   bool // a directory itself, not its entries
	header bool // the path before them
}

// misused prints how a command is used.
func (s *session) misused(name string, err error) int {
	for _, c := range commands() {
		if c.name == name {
			fmt.Fprintf(s.stderr(), "%s: %v; usage: %s %s\n", name, err, name, c.args)
		}
	}
	return exitUsage
}

// list writes the entries of a directory, or the file itself.
func (s *session) list(out io.Writer, path string, o listing) error {
	n, err := s.tree.Walk(s.ctx, s.namespace, path)
	if err != nil {
		return err
	}
	d, ok := n.(fs.Dir)
	if !ok || o.self {
		st, err := n.Stat(s.ctx)
		if err != nil {
			return err
		}
		st.Name = path
		writeStat(out, st, o.long)
		return nil
	}
	if o.header {
		fmt.Fprintf(out, "%s:\n", path)
	}
	if o.dots {
		for _, name := range []string{".", ".."} {
			n, err := s.tree.Walk(s.ctx, s.namespace, path+"/"+name)
			if err != nil {
				return err
			}
			st, err := n.Stat(s.ctx)
			if err != nil {
				return err
			}
			st.Name = name
			writeStat(out, st, o.long)
		}
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
			writeStat(out, st, o.long)
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

func (s *session) told(out io.Writer, args []string) int {
	if len(args) > 1 {
		return s.misused("told", errors.New("it takes one commit"))
	}
	text, err := s.tree.Told(s.ctx, s.namespace, args[0])
	if err != nil {
		return s.complain("told", args[0], err, exitOK)
	}
	io.WriteString(out, text)
	return exitOK
}

func (s *session) whoami(out io.Writer, _ []string) int {
	out.Write(s.tree.Whoami(s.ctx).Text())
	return exitOK
}

func (s *session) logout(out io.Writer, args []string) int {
	switch {
	case len(args) > 0:
		return s.misused("logout", errors.New("it takes no arguments"))
	case s.tree.Logout == nil:
		return s.fail("logout", errors.New("no certificates are made here: log out at the orchestrator"))
	}
	words, err := s.tree.Logout()
	if err != nil {
		return s.fail("logout", err)
	}
	fmt.Fprintln(out, words)
	return exitOK
}
