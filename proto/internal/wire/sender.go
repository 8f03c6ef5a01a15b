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
	sock syscall.RawConn // of w, if files can be sent to it

	mu      sync.Mutex // guards what follows
	room    sync.Cond  // queued fell, or the Sender failed
	queue   []piece
	queued  int
	writing bool
	err     error
}

// A piece is what is written at a time: bytes, and behind them a stretch of a
// file.
type piece struct {
	b    []byte
	file *Stretch
}

func (p piece) size() int {
	if p.file != nil {
		return len(p.b) + p.file.Len
	}
	return len(p.b)
}

func NewSender(w io.Writer) *Sender {
	s := &Sender{w: w, sock: sendsFiles(w)}
	s.room.L = &s.mu
	return s
}

// SendsFiles reports whether PutFile may be called.
func (s *Sender) SendsFiles() bool { return s.sock != nil }

// Put queues whole frames. It never blocks, and takes b over.
func (s *Sender) Put(b []byte) { s.put(piece{b: b}) }

// PutFile queues frames the last of which ends with the bytes of file.
func (s *Sender) PutFile(b []byte, file *Stretch) { s.put(piece{b, file}) }

func (s *Sender) put(p piece) {
	s.mu.Lock()
	dead := s.err != nil && !s.writing
	if !dead {
		s.queue = append(s.queue, p)
		s.queued += p.size()
	}
	s.mu.Unlock()
	if dead {
		drop([]piece{p})
	}
}

// Flush writes what is queued, or leaves it to whoever is writing and then
// waits until there is room again.
func (s *Sender) Flush() error {
	s.mu.Lock()
	for s.writing && s.queued > maxQueued && s.err == nil {
		s.room.Wait()
	}
	if s.writing || s.err != nil {
		defer s.mu.Unlock()
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
	err := s.err
	s.unlockFailed()
	return err
}

// unlockFailed gives back what will not be written. It does so without s.mu:
// Done may need locks that are held over put.
func (s *Sender) unlockFailed() {
	var q []piece
	if s.err != nil && !s.writing {
		q, s.queue = s.queue, nil
	}
	s.mu.Unlock()
	drop(q)
}

// write sends q: small frames as one, large ones as they are, so that data is
// never copied on its way.
func (s *Sender) write(q []piece) (n int, err error) {
	for _, p := range q {
		n += p.size()
	}
	q = merge(q)
	for i, p := range q {
		_, err = s.w.Write(p.b)
		if err == nil && p.file != nil {
			err = p.file.send(s.sock)
		}
		if err != nil {
			drop(q[i:])
			return n, err
		}
		drop(q[i : i+1])
	}
	return n, nil
}

// merge makes one piece of small ones.
func merge(q []piece) []piece {
	n := 0
	for _, p := range q {
		if n += len(p.b); p.file != nil || n > mergeLimit {
			return q
		}
	}
	if len(q) < 2 {
		return q
	}
	all := GetBuffer()
	for _, p := range q {
		all = append(all, p.b...)
		PutBuffer(p.b)
	}
	return []piece{{b: all}}
}

// drop gives back what pieces hold.
func drop(q []piece) {
	for _, p := range q {
		PutBuffer(p.b)
		if p.file != nil {
			p.file.Done()
		}
	}
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
	for len(q) > 0 && q[0].file == nil {
		n := 0
		n, err = s.tryWrite(q[0].b)
		total += n
		if n < len(q[0].b) {
			q[0].b = q[0].b[n:]
			break
		}
		PutBuffer(q[0].b)
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
	done := len(s.queue) == 0
	s.unlockFailed()
	return done
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
	s.unlockFailed()
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
