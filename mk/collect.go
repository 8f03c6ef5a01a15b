package mk

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// A collector keeps what the recipe of a job prints until the job ends, so that the
// output of jobs that run at once is not mixed. It reads pipes: a file in the place
// of a terminal would be emptied by a recipe's >/dev/stderr. Both streams have one
// pipe if both go to one file, and so stay in order there.
type collector struct {
	out   *output
	tmp   func() (*os.File, error) // makes the file for what is too much for buf
	pipes []*os.File               // by stream
	wg    sync.WaitGroup           // of a goroutine for each pipe

	mu     sync.Mutex // guards what follows
	buf    []byte     // records; see add
	file   *os.File   // the records before buf; nil if there are none
	size   int64      // of file
	direct bool       // what comes is printed at once
}

// maxCollected is how many bytes of a job's output are kept in memory. pipeSize is
// what a pipe holds; see pipe(7).
const (
	maxCollected = 64 << 10
	pipeSize     = 64 << 10
)

// newCollector returns a collector and the files that a recipe prints to, which the
// caller closes once the recipe has them.
func (r *run) newCollector() (c *collector, stdout, stderr *os.File, err error) {
	c = &collector{out: r.out, tmp: r.tempFile}
	n := 2
	if w := r.procs.w; sameFile(w.stdout, w.stderr) {
		n = 1
	}
	var ends [2]*os.File
	for i := range n {
		var p *os.File
		if p, ends[i], err = os.Pipe(); err != nil {
			for j := range i {
				c.pipes[j].Close()
				ends[j].Close()
			}
			return nil, nil, nil, err
		}
		c.pipes = append(c.pipes, p)
	}
	c.start()
	return c, ends[0], ends[n-1], nil
}

// tempFile returns a file in $TMPDIR that has no name.
func (r *run) tempFile() (*os.File, error) {
	dir := r.first("TMPDIR")
	if dir == "" {
		dir = "/tmp"
	}
	f, err := os.CreateTemp(r.cfg.path(dir), "mk")
	if err == nil {
		os.Remove(f.Name())
	}
	return f, err
}

func sameFile(a, b *os.File) bool {
	fa, err := a.Stat()
	if err != nil {
		return false
	}
	fb, err := b.Stat()
	return err == nil && os.SameFile(fa, fb)
}

func (c *collector) start() {
	for i, p := range c.pipes {
		if p != nil {
			c.wg.Go(func() { c.read(i, p) })
		}
	}
}

func (c *collector) read(stream int, p *os.File) {
	b := make([]byte, pipeSize)
	for {
		n, err := p.Read(b)
		c.add(stream, b[:n])
		if err != nil {
			return
		}
	}
}

// end prints all that the job has printed. What a process that the job left in the
// background prints later is printed at once. End tells whether there is such a
// process, which stop sees to.
func (c *collector) end() (more bool) {
	more = c.drain()
	c.mu.Lock()
	c.replay(func(stream int, b []byte) {
		if stream == 0 {
			c.out.write(b)
		} else {
			c.out.stderr.Write(b)
		}
	})
	c.mu.Unlock()
	c.start()
	return more
}

// stop ends the reading.
func (c *collector) stop() {
	c.drain()
	for _, p := range c.pipes {
		if p != nil {
			p.Close()
		}
	}
}

// drain stops the goroutines, reads what the pipes hold, and closes those that
// nobody writes to any more. It tells whether one is left.
func (c *collector) drain() (left bool) {
	for _, p := range c.pipes {
		if p != nil {
			p.SetReadDeadline(time.Now())
		}
	}
	c.wg.Wait()
	b := make([]byte, pipeSize)
	for i, p := range c.pipes {
		if p == nil {
			continue
		}
		p.SetReadDeadline(time.Time{})
		open := false
		for total := 0; ; {
			n, err := readNow(p, b)
			if n <= 0 {
				open = err == syscall.EAGAIN
				break
			}
			c.add(i, b[:n])
			if total += n; total >= pipeSize {
				open = true // somebody goes on writing
				break
			}
		}
		if !open {
			p.Close()
			c.pipes[i] = nil
		}
		left = left || open
	}
	return left
}

// readNow reads what there is. Its error is EAGAIN if that is nothing yet.
func readNow(p *os.File, b []byte) (n int, err error) {
	conn, err := p.SyscallConn()
	if err != nil {
		return 0, err
	}
	err2 := conn.Read(func(fd uintptr) bool {
		for {
			if n, err = syscall.Read(int(fd), b); err != syscall.EINTR {
				return true
			}
		}
	})
	if err == nil {
		err = err2
	}
	return n, err
}

// add takes what was printed on a stream: a record of the stream, the length in four
// bytes, and b.
func (c *collector) add(stream int, b []byte) {
	if len(b) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.direct {
		c.print(stream, b)
		return
	}
	c.buf = append(c.buf, byte(stream))
	c.buf = binary.LittleEndian.AppendUint32(c.buf, uint32(len(b)))
	c.buf = append(c.buf, b...)
	if len(c.buf) < maxCollected {
		return
	}
	if err := c.spill(); err != nil {
		c.out.error("mk: output is no longer collected: " + err.Error() + "\n")
		c.replay(c.print)
	}
}

// print prints b past mk's buffer and notes, which belong to another goroutine.
func (c *collector) print(stream int, b []byte) {
	if stream == 0 {
		c.out.stdout.Write(b)
	} else {
		c.out.stderr.Write(b)
	}
}

// spill moves buf to the file.
func (c *collector) spill() (err error) {
	if c.file == nil {
		if c.file, err = c.tmp(); err != nil {
			return err
		}
	}
	n, err := c.file.WriteAt(c.buf, c.size)
	if err != nil {
		return err
	}
	c.size += int64(n)
	c.buf = c.buf[:0]
	return nil
}

// replay prints the records, after which there are none, and more will be printed at
// once.
func (c *collector) replay(print func(stream int, b []byte)) {
	if c.direct {
		return
	}
	var all io.Reader = bytes.NewReader(c.buf)
	if c.file != nil {
		all = io.MultiReader(bufio.NewReader(io.NewSectionReader(c.file, 0, c.size)), all)
		defer c.file.Close()
	}
	b := make([]byte, pipeSize)
	for {
		var head [5]byte
		if _, err := io.ReadFull(all, head[:]); err != nil {
			break
		}
		for n := int(binary.LittleEndian.Uint32(head[1:])); n > 0; {
			m, err := io.ReadFull(all, b[:min(n, len(b))])
			print(int(head[0]), b[:m])
			if n -= m; err != nil {
				break
			}
		}
	}
	c.buf, c.file, c.direct = nil, nil, true
}
