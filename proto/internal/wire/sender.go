package wire

import (
	"io"
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
	queue   [][]byte
	queued  int
	writing bool
	err     error
}

func NewSender(w io.Writer) *Sender {
	s := &Sender{w: w}
	s.room.L = &s.mu
	if c, ok := w.(syscall.Conn); ok {
		s.sock, _ = c.SyscallConn()
	}
	return s
}

// Put queues whole frames. It never blocks, and takes b over.
func (s *Sender) Put(b []byte) {
	s.mu.Lock()
	s.queue = append(s.queue, b)
	s.queued += len(b)
	s.mu.Unlock()
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
		if err != nil && s.err == nil {
			s.err = err
		}
		s.room.Broadcast()
	}
	s.writing = false
	return s.err
}

// write sends q: small frames as one, large ones as they are, so that data is
// never copied on its way.
func (s *Sender) write(q [][]byte) (n int, err error) {
	for _, b := range q {
		n += len(b)
	}
	for _, b := range merge(q) {
		if err == nil {
			_, err = s.w.Write(b)
		}
		PutBuffer(b)
	}
	return n, err
}

// merge makes one of small pieces.
func merge(q [][]byte) [][]byte {
	n := 0
	for _, b := range q {
		n += len(b)
	}
	if len(q) < 2 || n > mergeLimit {
		return q
	}
	all := GetBuffer()
	for _, b := range q {
		all = append(all, b...)
		PutBuffer(b)
	}
	return [][]byte{all}
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
		n, err = s.tryWrite(q[0])
		total += n
		if n < len(q[0]) {
			q[0] = q[0][n:]
			break
		}
		PutBuffer(q[0])
		q = q[1:]
	}
	s.mu.Lock()
	s.queue = append(q, s.queue...)
	s.queued -= total
	s.writing = false
	if err != nil && s.err == nil {
		s.err = err
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
	if s.err == nil {
		s.err = err
	}
	s.room.Broadcast()
	s.mu.Unlock()
}

var buffers sync.Pool

func GetBuffer() []byte {
	if p, ok := buffers.Get().(*[]byte); ok {
		return (*p)[:0]
	}
	return make([]byte, 0, 4096)
}

func PutBuffer(b []byte) {
	if cap(b) >= 4096 && cap(b) <= 2*MaxMsize {
		buffers.Put(&b)
	}
}
