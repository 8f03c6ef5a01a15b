package wire

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxQueued bounds the bytes that wait for a peer that does not read. Behind
// them Flush blocks.
const MaxQueued = 1 << 20

// mergeLimit is the most that is copied to save a write.
const mergeLimit = 16 << 10

// A Sender writes frames in the order in which they were put. Several goroutines
// may put and flush: the one that finds no other writing writes for all, so that
// a burst goes out in one write.
type Sender struct {
	// Total, if set, has what is queued by all Senders that have the same.
	Total *atomic.Int64

	w    io.Writer
	sock syscall.RawConn // of w, if that is a socket

	mu      sync.Mutex // guards what follows
	room    sync.Cond  // queued fell, or the Sender failed
	queue   []piece
	queued  int
	taken   int64 // bytes that have left the queue
	writing bool
	err     error
}

// A piece is part of what is to be sent: bytes, and data of a file behind them.
type piece struct {
	b    []byte
	buf  []byte // whole: b is what is left of it
	data Data
}

// Data are bytes of a file that the kernel sends.
type Data struct {
	File *os.File
	Off  int64  // of the first byte
	N    int    // bytes; 0: there is no data
	Done func() // called once, when File is not needed any more
}

func (p *piece) size() int { return len(p.b) + p.data.N }

func (p *piece) free() {
	PutBuffer(p.buf)
	p.data.Free()
}

// Free calls Done, for data that will not be sent.
func (d Data) Free() {
	if d.Done != nil {
		d.Done()
	}
}

// NewSender returns a Sender that writes to w, which stays its caller's to close.
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

// Put queues whole frames. It never blocks. b is the Sender's from then on.
// After a failure the frames are dropped.
func (s *Sender) Put(b []byte) { s.put(piece{b: b, buf: b}) }

// PutPart is Put for frames that are a part of buf, which is the Sender's too from
// then on.
func (s *Sender) PutPart(b, buf []byte) { s.put(piece{b: b, buf: buf}) }

// PutData is Put for frames of which the last one ends with data that the kernel
// takes from the file, so Socket must report true. A user of PutData must not
// use TryFlush.
func (s *Sender) PutData(b []byte, d Data) { s.put(piece{b, b, d}) }

func (s *Sender) put(p piece) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		defer p.free()
		return
	}
	s.queue = append(s.queue, p)
	s.count(p.size())
}

// count adds n to what is queued. s.mu is held.
func (s *Sender) count(n int) {
	s.queued += n
	s.taken += int64(max(0, -n))
	if s.Total != nil {
		s.Total.Add(int64(n))
	}
}

// Flush writes what is queued, and blocks until the peer has taken it. If another
// goroutine is writing, it leaves that to it, and blocks only until there is room
// again. The error is that of the first write that failed, or of Fail.
func (s *Sender) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.writing && s.queued > MaxQueued && s.err == nil {
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
		s.count(-n)
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
				flags := msgNoSignal
				if d.N > 0 {
					flags |= msgMore
				}
				n, err = unix.SendmsgN(int(fd), b, nil, nil, flags)
				b = b[max(n, 0):]
			} else {
				cerr := src.Control(func(file uintptr) { n, err = sendfile(int(fd), int(file), &d.Off, d.N) })
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
	return []piece{{b: all, buf: all}}
}

// TryFlush writes what the peer takes at once and never blocks. It reports whether
// all was written; if not, a Flush must follow.
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
	s.count(-total)
	s.writing = false
	if err != nil {
		s.fail(err)
	}
	s.room.Broadcast()
	defer s.mu.Unlock()
	return len(s.queue) == 0
}

// Claim makes the caller the one that writes, if nothing is queued and no other
// goroutine writes. WriteClaimed must follow. What is put meanwhile goes out behind.
func (s *Sender) Claim() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writing || s.err != nil || s.sock == nil || len(s.queue) > 0 {
		return false
	}
	s.writing = true
	return true
}

// WriteClaimed is TryFlush for whole frames that stay the caller's, after Claim. Only
// what the peer does not take at once is copied or, if it is much and take is not nil,
// kept: take gives the Sender the buffer that b is a part of.
func (s *Sender) WriteClaimed(b []byte, take func() []byte) bool {
	n, err := s.tryWrite(b)
	var rest, buf []byte
	switch rest = b[n:]; {
	case len(rest) == 0 || err != nil:
		rest = nil
	case take != nil && len(rest) > mergeLimit:
		buf = take()
	default:
		rest = append(GetBufferFor(len(rest)), rest...)
		buf = rest
	}
	s.mu.Lock()
	s.writing = false
	switch {
	case err != nil:
		s.fail(err)
	case rest != nil && s.err == nil:
		s.queue = append([]piece{{b: rest, buf: buf}}, s.queue...)
		s.count(len(rest))
	}
	s.room.Broadcast()
	more := len(s.queue) > 0
	s.mu.Unlock()
	return !more || rest == nil && s.TryFlush()
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

// Progress returns how many bytes are queued, and how many have left the queue so far.
func (s *Sender) Progress() (queued int, taken int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queued, s.taken
}

// Room blocks until no more than most bytes are queued, or the Sender has failed,
// which is the error. Another goroutine must be flushing.
func (s *Sender) Room(most int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.queued > most && s.err == nil {
		s.room.Wait()
	}
	return s.err
}

// Wait is Room that leaves no more than n bytes in the queue, and does not wait any
// more once Wake was called after enough was set.
func (s *Sender) Wait(n int, enough *atomic.Bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.queued > n && s.err == nil && !enough.Load() {
		s.room.Wait()
	}
}

// Wake has Wait look again.
func (s *Sender) Wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room.Broadcast()
}

// Fail drops what is queued, and makes every Flush and Room return err from now
// on, or the error of an earlier failure.
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
		s.count(-q[i].size())
		defer q[i].free()
	}
}
