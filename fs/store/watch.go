package store

import (
	"context"
	"sync"
	"time"
)

// indexPoll is how often a watched index is looked at. Inotify(7) tells at once,
// but a user can have used up its watches, and it tells nothing of what another
// host writes on a network file system.
const indexPoll = 5 * time.Second

// watchIndex lets the file event tell of runs that other processes seal, until
// Close. A tree calls it when that file is opened: nobody else waits for them.
func (s *Store) watchIndex() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.unwatch != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	s.unwatch = func() {
		cancel()
		wg.Wait()
	}
	changed := make(chan struct{}, 1)
	if f, err := watchDir(s.path()); err == nil {
		context.AfterFunc(ctx, func() { f.Close() })
		wg.Go(func() {
			b := make([]byte, 4096) // of events, which all mean the same
			for {
				if _, err := f.Read(b); err != nil {
					return
				}
				select {
				case changed <- struct{}{}:
				default:
				}
			}
		})
	}
	wg.Go(func() {
		poll := time.NewTicker(indexPoll)
		defer poll.Stop()
		for {
			select {
			case <-changed:
			case <-poll.C:
			case <-ctx.Done():
				return
			}
			s.mu.Lock()
			s.refresh()
			s.mu.Unlock()
		}
	})
}
