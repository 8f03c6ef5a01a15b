package wire

import (
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxQueued bounds the bytes that wait for a peer that does not read; whoever
// has more to say waits.
const maxQueued = 1 << 20

// mergeLimit is the most that is copied to save a write.
const mergeLimit = 16 << 10

// A Sender writes frames in the order they were put. Whoever finds nobody
// writing writes, for others too, so that a burst goes out in one write.
type Sender struct {
	w    io.Writer
	sock syscall.RawConn // of w, if that is a socket

	mu      sync.Mutex // guards what follows
	room    sync.Cond  // queued fell, or the Sender failed
	queue   []piece
	queued  int
	writing bool
	err     error
}

// A piece is part of what is to be sent: bytes, and data of a file behind them.
type piece struct {
	b    []byte
	data Data
}

// Data are N bytes of File, from Off on.
type Data struct {
	File *os.File
	Off  int64
	N    int
	Done func() // called once, when File is not needed any more
}

func (p *piece) size() int { return len(p.b) + p.data.N }

func (p *piece) free() {
	PutBuffer(p.b)
	p.data.Free()
}

// Free is for data that will not be sent.
func (d Data) Free() {
	if d.Done != nil {
		d.Done()
	}
}

func NewSender(w io.Writer) *Sender {
	s := &Sender{w: w}
	s.room.L = &s.mu
	if c, ok := w.(syscall.Conn); ok {
		s.sock, _ = c.SyscallConn()
	}
	return s
}

// Socket reports whether w is a socket, so that PutData may be used.
func (s *Sender) Socket() bool { return s.sock != nil }

// Put queues whole frames. It never blocks, and takes b over.
func (s *Sender) Put(b []byte) { s.put(piece{b: b}) }

// PutData is Put for frames of which the last one ends with data, which the
// kernel takes from the file. It is for who sends by Flush alone.
func (s *Sender) PutData(b []byte, d Data) { s.put(piece{b, d}) }

func (s *Sender) put(p piece) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		defer p.free()
		return
	}
	s.queue = append(s.queue, p)
	s.queued += p.size()
}

// Flush writes what is queued, or leaves it to whoever is writing and then
// waits until there is room again.
func (s *Sender) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.writing && s.queued > maxQueued && s.err == nil {
		s.room.Wait()
	}
	if s.writing || s.err != nil {
		return s.err
	}
	s.writing = true
	for len(s.queue) > 0 && s.err == nil {
		q := s.queue
		s.queue = nil
		s.mu.Unlock()
		n, err := s.write(q)
		s.mu.Lock()
		s.queued -= n
		if err != nil {
			s.fail(err)
		}
		s.room.Broadcast()
	}
	s.writing = false
	return s.err
}

// write sends q: small frames as one, large ones as they are, so that data is
// never copied on its way.
func (s *Sender) write(q []piece) (n int, err error) {
	for i := range q {
		n += q[i].size()
	}
	for _, p := range merge(q) {
		if err == nil && p.data.N > 0 {
			err = s.writeData(p)
		} else if err == nil {
			_, err = s.w.Write(p.b)
		}
		p.free()
	}
	return n, err
}

// writeData sends p by sendfile(2).
func (s *Sender) writeData(p piece) error {
	b, d := p.b, p.data
	src, err := d.File.SyscallConn()
	if err != nil {
		return err
	}
	werr := s.sock.Write(func(fd uintptr) bool {
		for len(b)+d.N > 0 {
			n := 0
			if len(b) > 0 {
				flags := unix.MSG_NOSIGNAL
				if d.N > 0 {
					flags |= unix.MSG_MORE
				}
				n, err = unix.SendmsgN(int(fd), b, nil, nil, flags)
				b = b[max(n, 0):]
			} else {
				cerr := src.Control(func(file uintptr) { n, err = unix.Sendfile(int(fd), int(file), &d.Off, d.N) })
				if d.N -= max(n, 0); cerr != nil {
					err = cerr
				}
				if n == 0 && err == nil || err == unix.EINVAL {
					b, err = readRest(&d)
				}
			}
			switch err {
			case nil, unix.EINTR:
				err = nil
			case unix.EAGAIN:
				err = nil
				return false
			default:
				return true
			}
		}
		return true
	})
	if werr != nil {
		return werr
	}
	return err
}

// readRest reads what is left of d, where the file system knows no sendfile or
// the file was cut off meanwhile. The frame has said how much follows, so
// what is missing is zeros, as it is in a page sent before the cut.
func readRest(d *Data) ([]byte, error) {
	b := make([]byte, d.N)
	d.N = 0
	if _, err := d.File.ReadAt(b, d.Off); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}

// merge makes one of small pieces, if there is no data of files among them.
func merge(q []piece) []piece {
	n := 0
	for i := range q {
		if q[i].data.N > 0 {
			return q
		}
		n += len(q[i].b)
	}
	if len(q) < 2 || n > mergeLimit {
		return q
	}
	all := GetBuffer()
	for _, p := range q {
		all = append(all, p.b...)
		p.free()
	}
	return []piece{{b: all}}
}

// TryFlush writes what the peer takes without being waited for, and reports
// whether that was all. What is left is for Flush.
func (s *Sender) TryFlush() bool {
	s.mu.Lock()
	if s.writing || s.err != nil || s.sock == nil {
		defer s.mu.Unlock()
		return len(s.queue) == 0 && !s.writing
	}
	s.writing = true
	q := merge(s.queue)
	s.queue = nil
	s.mu.Unlock()
	total, err := 0, error(nil)
	for len(q) > 0 {
		n := 0
		n, err = s.tryWrite(q[0].b)
		total += n
		if n < len(q[0].b) {
			q[0].b = q[0].b[n:]
			break
		}
		q[0].free()
		q = q[1:]
	}
	s.mu.Lock()
	s.queue = append(q, s.queue...)
	s.queued -= total
	s.writing = false
	if err != nil {
		s.fail(err)
	}
	s.room.Broadcast()
	defer s.mu.Unlock()
	return len(s.queue) == 0
}

// tryWrite makes one attempt that does not wait.
func (s *Sender) tryWrite(b []byte) (n int, err error) {
	werr := s.sock.Write(func(fd uintptr) bool {
		n, err = unix.Write(int(fd), b)
		return true
	})
	if err == unix.EAGAIN || err == unix.EINTR {
		return 0, nil
	}
	if werr != nil {
		err = werr
	}
	return max(n, 0), err
}

// Room waits until the peer has read enough for more to be said to it. Somebody
// else must be flushing.
func (s *Sender) Room() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.queued > maxQueued && s.err == nil {
		s.room.Wait()
	}
	return s.err
}

// Fail makes every flush return err from now on.
func (s *Sender) Fail(err error) {
	s.mu.Lock()
	s.fail(err)
	s.room.Broadcast()
	s.mu.Unlock()
}

// fail keeps the first error and drops what is queued. s.mu is held.
func (s *Sender) fail(err error) {
	if s.err == nil {
		s.err = err
	}
	q := s.queue
	s.queue = nil
	for i := range q {
		s.queued -= q[i].size()
		defer q[i].free()
	}
}
