package store

import (
	"sync"
	"time"

	"9ci/fs/ci"
)

// holdbackTime is how long a part of a line waits for its rest.
const holdbackTime = 50 * time.Millisecond

// logLines makes lines of a log from two streams, standard output and standard error. A part
// of a line waits for its rest for holdbackTime.
type logLines struct {
	mu   *sync.Mutex                        // held by the callers of all methods
	keep func(lines []byte, said int) error // adds lines, which hold said bytes, to the log; mu is held

	split [2]ci.Splitter
	timer *time.Timer // writes what split holds; nil where it holds nothing
	buf   []byte
}

func newLogLines(mu *sync.Mutex, keep func(lines []byte, said int) error) logLines {
	return logLines{mu: mu, keep: keep, split: [2]ci.Splitter{{Stream: "stdout"}, {Stream: "stderr"}}}
}

// write takes the next bytes of a stream: 0 is standard output.
func (l *logLines) write(stream int, p []byte) error {
	split := &l.split[stream]
	if err := l.add(split.Write(l.buf[:0], p, time.Now())); err != nil {
		return err
	}
	if split.Waits() && l.timer == nil {
		l.timer = time.AfterFunc(holdbackTime, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.flush()
		})
	}
	return nil
}

// flush writes what is held back, as parts of lines.
func (l *logLines) flush() error {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	now := time.Now()
	lines, n := l.split[0].Flush(l.buf[:0], now)
	lines, m := l.split[1].Flush(lines, now)
	return l.add(lines, n+m)
}

func (l *logLines) add(lines []byte, said int) error {
	if l.buf = lines; cap(l.buf) > 1<<20 {
		l.buf = nil
	}
	if len(lines) == 0 {
		return nil
	}
	return l.keep(lines, said)
}
