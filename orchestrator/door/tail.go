package door

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"9ci/fs"
)

// How often tail -f looks for more: at first, and after a while without any.
const (
	tailSoon = 100 * time.Millisecond
	tailIdle = time.Second
)

// A tail is how tail prints.
type tail struct {
	n      int64
	bytes  bool // n counts bytes, not lines
	start  bool // from the nth on, not the last n
	follow bool
}

// tail prints the ends of files. With -f it goes on as the files grow, one after the
// other, each until its run has ended.
func (s *session) tail(out io.Writer, args []string) int {
	o := tail{n: 10}
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		flag := args[0][1:]
		args = args[1:]
		if flag == "-" {
			break
		}
		if flag == "f" || flag == "F" {
			o.follow = true
			continue
		}
		if n, err := strconv.ParseUint(flag, 10, 62); err == nil { // tail -20
			o.n = int64(n)
			continue
		}
		if strings.HasPrefix(flag, "fn") || strings.HasPrefix(flag, "fc") {
			o.follow, flag = true, flag[1:]
		}
		if flag[0] != 'n' && flag[0] != 'c' {
			return s.misused("tail", errors.New("there is no flag -"+flag))
		}
		o.bytes = flag[0] == 'c'
		value := flag[1:]
		if value == "" && len(args) > 0 {
			value, args = args[0], args[1:]
		}
		value, o.start = strings.CutPrefix(value, "+")
		n, err := strconv.ParseUint(value, 10, 62)
		if err != nil {
			return s.misused("tail", errors.New("-"+flag[:1]+" wants a number"))
		}
		o.n = int64(n)
	}
	if len(args) == 0 {
		return s.misused("tail", errors.New("of which file?"))
	}
	status := exitOK
	for i, p := range args {
		if len(args) > 1 {
			io.WriteString(out, strings.Repeat("\n", min(i, 1))+"==> "+p+" <==\n")
		}
		if err := s.printTail(out, p, o); err != nil {
			status = s.complain("tail", p, err, status)
		}
	}
	return status
}

func (s *session) printTail(out io.Writer, p string, o tail) error {
	n, err := s.tree.Walk(s.ctx, s.namespace, p)
	if err != nil {
		return err
	}
	if name := path.Base(p); name == "live" || name == "event" || name == "wait" {
		return copyFile(s.ctx, out, n) // it blocks, and has no end to count from
	}
	st, err := n.Stat(s.ctx)
	if err != nil {
		return err
	}
	f, err := n.Open(s.ctx, fs.OpenRead)
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	off, err := o.begin(s.ctx, f, st.Size)
	if err != nil {
		return err
	}
	for delay := tailSoon; ; {
		sealed := st.Version != 0 // before the read: what it reads is all then
		at := off
		if off, err = copyFrom(s.ctx, out, f, off); err != nil || !o.follow || sealed {
			return err
		}
		if delay = min(2*delay, tailIdle); off > at {
			delay = tailSoon
		}
		select {
		case <-time.After(delay):
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
		if n, err = s.tree.Walk(s.ctx, s.namespace, p); err != nil {
			return err
		}
		if st, err = n.Stat(s.ctx); err != nil {
			return err
		}
		if st.Version != 0 { // what was open may be the file as it was
			whole, err := n.Open(s.ctx, fs.OpenRead)
			if err != nil {
				return err
			}
			f.Close()
			f = whole
		}
	}
}

// begin returns the offset at which o begins in a file of that size.
func (o tail) begin(ctx context.Context, f fs.File, size int64) (int64, error) {
	switch {
	case o.bytes && o.start:
		return max(o.n-1, 0), nil
	case o.bytes:
		return max(size-o.n, 0), nil
	case o.start && o.n <= 1:
		return 0, nil
	}
	b := make([]byte, 64<<10)
	if o.start {
		lines := o.n - 1
		for off := int64(0); ; {
			n, err := f.ReadAt(ctx, b, off)
			for i, c := range b[:n] {
				if c == '\n' {
					if lines--; lines == 0 {
						return off + int64(i) + 1, nil
					}
				}
			}
			off += int64(n)
			if err == io.EOF {
				return off, nil
			}
			if err != nil {
				return 0, err
			}
		}
	}
	if o.n == 0 {
		return size, nil
	}
	lines := o.n
	for end := size; end > 0; {
		from := max(end-int64(len(b)), 0)
		p := b[:end-from]
		if err := readFull(ctx, f, p, from); err != nil {
			return 0, err
		}
		if end == size {
			p = bytes.TrimSuffix(p, []byte("\n")) // which ends the last line
		}
		for i := len(p) - 1; i >= 0; i-- {
			if p[i] == '\n' {
				if lines--; lines == 0 {
					return from + int64(i) + 1, nil
				}
			}
		}
		end = from
	}
	return 0, nil
}

// readFull reads len(p) bytes at off, or fewer if f has become shorter.
func readFull(ctx context.Context, f fs.File, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := f.ReadAt(ctx, p, off)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}
