package orchestrator

import (
	"context"
	"fmt"
	"time"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
)

const (
	// quiet is for how long no byte has passed on a channel, and none waits for
	// its client, when it counts as idle: more than a slow executor's answers
	// take, less than operators mind.
	quiet     = 3 * time.Second
	drainTick = 100 * time.Millisecond
)

// errStopping is the error of what is asked for once the server is stopping. The
// client may ask again: another server may be there by then.
var errStopping = fmt.Errorf("the orchestrator is stopping: %w", fs.ErrBusy)

func (s *Server) stopping() bool { return s.stop.Err() != nil }

// Drain makes the server take no more connections, channels and announcements, and
// tells all clients that it is stopping. It returns when no transfer is under way,
// or ctx is done, and reports how many it leaves. The ctx of Serve, which goes on,
// is then to be ended.
//
// A transfer is a session, a channel to an executor's SSH server, or a connection that
// is 9P over TLS, on which bytes pass or wait for its client; or a way in to an
// executor that a client holds, whose bytes the server does not see.
func (s *Server) Drain(ctx context.Context) (left int) {
	s.end()
	seen := make(map[*meter]progress)
	count := func() (n int) {
		for m := range s.live.transfers() {
			if seen[m] = seen[m].at(m, time.Now()); seen[m].busy {
				n++
			}
		}
		return n
	}
	left = count()
	all := s.live.all()
	s.log.Info("drain", "connections", len(all))
	for _, c := range all {
		go c.ssh.SendRequest(wire.RequestStopping, false, nil) // which a client that does not read blocks
	}
	tick := time.NewTicker(drainTick)
	defer tick.Stop()
	for left > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return left
		}
		n := count()
		if ctx.Err() != nil {
			return left // n may lack what the end of ctx has cut off
		}
		left = n
	}
	return 0
}

// Progress is how far a transfer has come.
type progress struct {
	moved uint64
	since time.Time // when moved was first seen
	busy  bool
}

func (p progress) at(m *meter, now time.Time) progress {
	if moved := m.moved.Load(); p.since.IsZero() || moved != p.moved {
		p.moved, p.since = moved, now
	}
	p.busy = m.hidden || m.writing.Load() > 0 || now.Sub(p.since) < quiet
	return p
}

// Alive returns once the locks that all clients need could be had. It blocks where
// the server hangs, which a watchdog learns so.
func (s *Server) Alive() {
	s.live.all()
	s.dir.size()
}
