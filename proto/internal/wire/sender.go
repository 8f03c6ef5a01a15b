package wire

import (
	"io"
	"sync"
	"syscall"
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
	bytesOnly := true
	for _, p := range q {
		n += p.size()
		bytesOnly = bytesOnly && p.file == nil
	}
	if len(q) > 1 && bytesOnly && n <= mergeLimit {
		all := GetBuffer()
		for _, p := range q {
			all = append(all, p.b...)
			PutBuffer(p.b)
		}
		q = append(q[:0], piece{b: all})
	}
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

// drop gives back what pieces hold.
func drop(q []piece) {
	for _, p := range q {
		PutBuffer(p.b)
		if p.file != nil {
			p.file.Done()
		}
	}
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
