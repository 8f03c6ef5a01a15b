package guest

import "sync"

// cost is how much of a window a message with n bytes of data takes. Headers
// count, so that many small messages do not hold much more memory than Window.
func cost(n int) int { return headerSize + n }

// A window is how much a sender may still send of one command.
type window struct {
	mu   sync.Mutex // guards the rest
	cond sync.Cond
	free int
	shut bool
}

func newWindow() *window {
	w := &window{free: Window}
	w.cond.L = &w.mu
	return w
}

// take waits until a message with n bytes of data may be sent. It reports
// false when the window is shut.
func (w *window) take(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.free < cost(n) && !w.shut {
		w.cond.Wait()
	}
	if w.shut {
		return false
	}
	w.free -= cost(n)
	return true
}

// give adds the n bytes that the peer has taken. It reports false if the peer had
// fewer to take.
func (w *window) give(n uint32) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n == 0 || int64(w.free)+int64(n) > Window {
		return false
	}
	w.free += int(n)
	w.cond.Broadcast()
	return true
}

// shutdown makes every take report false.
func (w *window) shutdown() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shut = true
	w.cond.Broadcast()
}

// A chunk is what one stream of a command has brought.
type chunk struct {
	kind byte
	data []byte
	cost int
}

// A queue holds what a peer has sent of one command until it is taken.
// The peer's window bounds it.
type queue struct {
	mu     sync.Mutex // guards the rest
	cond   sync.Cond
	chunks []chunk
	held   int // cost of what was put and is not yet taken
	ended  bool
	shut   bool // the reader has gone: forget what comes
}

func newQueue() *queue {
	q := &queue{}
	q.cond.L = &q.mu
	return q
}

// put adds a copy of data. It reports false if the peer had no window for that, or
// had ended the queue.
func (q *queue) put(kind byte, data []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := cost(len(data))
	if q.ended || len(data) == 0 || len(data) > MaxData || q.held+c > Window {
		return false
	}
	q.held += c
	if q.shut {
		return true
	}
	// Small ones of a stream are joined: the reader gets fewer, larger writes.
	if n := len(q.chunks); n > 0 && q.chunks[n-1].kind == kind && len(q.chunks[n-1].data)+len(data) <= MaxData {
		last := &q.chunks[n-1]
		last.data = append(last.data, data...)
		last.cost += c
	} else {
		q.chunks = append(q.chunks, chunk{kind, append([]byte(nil), data...), c})
	}
	q.cond.Signal()
	return true
}

// get waits for the next chunk; it reports false at the end. The chunk
// counts as held until taken.
func (q *queue) get() (chunk, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.chunks) == 0 && !q.ended && !q.shut {
		q.cond.Wait()
	}
	if len(q.chunks) == 0 {
		return chunk{}, false
	}
	c := q.chunks[0]
	q.chunks[0].data = nil
	q.chunks = q.chunks[1:]
	return c, true
}

// taken says that c from get has been consumed. Only then may the peer be
// told, or it could overrun held.
func (q *queue) taken(c chunk) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held -= c.cost
}

// end makes get report the end once the queue is empty. It reports false if it was
// called before.
func (q *queue) end() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	was := q.ended
	q.ended = true
	q.cond.Broadcast()
	return !was
}

// shutdown makes get report the end at once. What is there, or comes, is dropped.
func (q *queue) shutdown() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shut = true
	q.chunks = nil
	q.cond.Broadcast()
}
