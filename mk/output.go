package mk

import (
	"os"
	"syscall"
)

// output is mk's two outputs. What mk prints on the first is buffered as
// bio(3) does, in blocks of 8192 bytes, and flushed before a process starts;
// errors and explanations are not buffered, and overtake it.
type output struct {
	stdout, stderr file
	buf            []byte
	broken         error // of a stdout that has no reader
}

// bsize is bio(3)'s.
const bsize = 8192

func newOutput(stdout, stderr *os.File) *output {
	return &output{stdout: file(stdout.Fd()), stderr: file(stderr.Fd())}
}

// print adds s to the buffered output.
func (o *output) print(s string) {
	for s != "" {
		if len(o.buf) == bsize {
			o.flush()
		}
		n := min(bsize-len(o.buf), len(s))
		o.buf = append(o.buf, s[:n]...)
		s = s[n:]
	}
}

func (o *output) flush() {
	if len(o.buf) > 0 {
		o.write(o.buf)
		o.buf = o.buf[:0]
	}
}

// say writes s to the standard output now.
func (o *output) say(s string) { o.write([]byte(s)) }

func (o *output) write(b []byte) {
	if _, err := o.stdout.Write(b); err == syscall.EPIPE {
		o.broken = err
	}
}

// error writes s to the standard error output.
func (o *output) error(s string) { o.stderr.Write([]byte(s)) }
