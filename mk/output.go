package mk

import (
	"fmt"
	"os"
	"syscall"
)

// output is mk's two outputs. What mk prints on the first is buffered as
// bio(3) does, in blocks of 8192 bytes, and flushed before a process starts;
// errors and explanations are not buffered, and overtake it.
type output struct {
	stdout, stderr file
	buf            []byte
	broken         error // of stdout: nothing more is written to it
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

// write writes b. Its first error is printed, unless it is that nobody reads.
func (o *output) write(b []byte) {
	if o.broken != nil {
		return
	}
	if _, err := o.stdout.Write(b); err != nil {
		o.broken = fmt.Errorf("write standard output: %w", err)
		if err != syscall.EPIPE {
			o.error("mk: write standard output: " + errno(err) + "\n")
		}
	}
}

// end writes what is left. If the output is broken and *err is nil, it becomes
// that error.
func (o *output) end(err *error) {
	o.flush()
	if *err == nil {
		*err = o.broken
	}
}

// error writes s to the standard error output.
func (o *output) error(s string) { o.stderr.Write([]byte(s)) }
