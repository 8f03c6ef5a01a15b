package door

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"path"
	"strings"

	"9ci/fs"
)

// maxScpDepth bounds a tree that is copied, as fs/ci bounds a run's artifacts.
const maxScpDepth = 128

// An scpSource is the sending side of scp -O, which older clients are by default.
// Its protocol stands in OpenSSH's scp.c: lines T, C, D and E, each answered by a
// byte that is 0, or else begins the line of an error.
type scpSource struct {
	s         *session
	out       *bufio.Writer
	in        *bufio.Reader
	recursive bool
	times     bool
	status    int
}

// errScpEnd is the error of a client that does not go on.
var errScpEnd = errors.New("the client has ended the copy")

// scp answers scp -f, which reads. It refuses scp -t, which writes.
func (s *session) scp(out io.Writer, args []string) int {
	c := &scpSource{s: s, out: out.(*bufio.Writer), in: bufio.NewReader(s.ch)}
	from, to := false, false
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		flags := args[0][1:]
		args = args[1:]
		if flags == "-" {
			break
		}
		for _, f := range flags {
			switch f {
			case 'f':
				from = true
			case 'r':
				c.recursive = true
			case 'p':
				c.times = true
			case 't':
				to = true
			}
		}
	}
	if to {
		return c.refuse(strings.Join(args, " "))
	}
	if !from || len(args) == 0 {
		fmt.Fprint(s.stderr(), "usage: scp -O [-p] [-r] HOST:PATH... DIR, at the client\n")
		return exitUsage
	}
	if c.answer() != nil { // the client is ready
		return exitFail
	}
	for _, p := range args {
		name := path.Base(path.Clean("/" + p))
		n, err := s.tree.Walk(s.ctx, s.namespace, p)
		if err == nil && fs.CheckPlain(name) != nil || name == "/" {
			err = errors.New("say which file or directory below it")
		}
		if err == nil {
			err = c.copy(n, p, name, 0)
		}
		if c.failed(p, err) {
			return exitFail
		}
	}
	return c.status
}

// refuse answers a client that would copy to the tree.
func (c *scpSource) refuse(path string) int {
	c.complain(path, errors.New("the tree is read-only: nothing can be copied to it"))
	return c.status
}

// failed tells the client of an error about a file, and reports whether the copy
// cannot go on.
func (c *scpSource) failed(path string, err error) bool {
	if err == nil {
		return false
	}
	if errors.Is(err, errScpEnd) {
		return true
	}
	c.complain(path, err)
	return false
}

func (c *scpSource) complain(path string, err error) {
	c.status = worse(c.status, err)
	fmt.Fprintf(c.out, "\x01scp: %s: %s\n", strings.ReplaceAll(path, "\n", "?"), errorText(err))
}

// send writes a line and waits for its answer.
func (c *scpSource) send(format string, args ...any) error {
	fmt.Fprintf(c.out, format, args...)
	return c.answer()
}

func (c *scpSource) answer() error {
	if err := c.out.Flush(); err != nil {
		return errScpEnd
	}
	if b, err := c.in.ReadByte(); err != nil || b != 0 {
		return errScpEnd // the client has printed why
	}
	return nil
}

// copy sends what n is, which stands at the path p, by a name.
func (c *scpSource) copy(n fs.Node, p, name string, depth int) error {
	st, err := n.Stat(c.s.ctx)
	if err != nil {
		return err
	}
	d, dir := n.(fs.Dir)
	switch {
	case dir && !c.recursive:
		return errors.New("is a directory: scp -r copies it")
	case depth > maxScpDepth:
		return fmt.Errorf("over %d directories deep", maxScpDepth)
	case name == "wait" && st.Version == 0 && st.Size == 0:
		return errors.New("the run goes on: ssh HOST wait waits")
	}
	if dir {
		return c.directory(d, st, p, name, depth)
	}
	f, err := n.Open(c.s.ctx, fs.OpenRead)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.time(st); err != nil {
		return err
	}
	if err := c.send("C%04o %d %s\n", st.Mode.Perm(), st.Size, name); err != nil {
		return err
	}
	if err := c.bytes(f, st.Size); err != nil {
		// What is missing has been made up with zeros: the client is told.
		c.complain(p, err)
		if c.answer() != nil {
			return errScpEnd
		}
		return nil
	}
	return c.send("\x00")
}

// time sends the time of what comes next, if it is wanted. The protocol has none
// before 1970.
func (c *scpSource) time(st fs.Stat) error {
	if t := st.ModTime.Unix(); c.times && t >= 0 {
		return c.send("T%d 0 %d 0\n", t, t)
	}
	return nil
}

// bytes sends size bytes of f, and zeros for those that cannot be read.
func (c *scpSource) bytes(f fs.File, size int64) (failed error) {
	b := make([]byte, 64<<10)
	for off := int64(0); off < size; {
		p := b[:min(int64(len(b)), size-off)]
		n := 0
		if failed == nil {
			if n, failed = f.ReadAt(c.s.ctx, p, off); failed == io.EOF {
				failed = errors.New("the file has become shorter")
			}
		}
		if failed != nil && n == 0 {
			clear(p)
			n = len(p)
		}
		if _, err := c.out.Write(p[:n]); err != nil {
			return errScpEnd
		}
		off += int64(n)
	}
	return failed
}

// directory sends a directory and what it lists. A link is sent as what it leads
// to; one to a directory is not followed, for it may lead round in a circle.
func (c *scpSource) directory(d fs.Dir, st fs.Stat, p, name string, depth int) error {
	if err := c.time(st); err != nil {
		return err
	}
	if err := c.send("D%04o 0 %s\n", st.Mode.Perm(), name); err != nil {
		return err
	}
	for e, err := range fs.Entries(c.s.ctx, d) {
		if err == nil && fs.CheckPlain(e.Name) != nil {
			continue
		}
		sub := p + "/" + e.Name
		var n fs.Node
		if err == nil && e.Mode&iofs.ModeSymlink != 0 {
			if n, err = c.s.tree.Walk(c.s.ctx, c.s.namespace, sub); err == nil {
				if _, ok := n.(fs.Dir); ok {
					err = errors.New("is a link to a directory, which is not followed")
				}
			}
		} else if err == nil {
			n, err = fs.Child(c.s.ctx, d, e)
		}
		if err == nil {
			err = c.copy(n, sub, e.Name, depth+1)
		}
		if c.failed(sub, err) {
			return errScpEnd
		}
	}
	return c.send("E\n")
}
