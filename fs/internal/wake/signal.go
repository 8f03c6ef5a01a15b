package wake

import "sync"

// A signal wakes all who wait for a change. Those who wait hold no lock.
type Signal struct {
	mu sync.Mutex
	c  chan struct{} // closed, and forgotten, at a change
}

// wait returns a channel that is closed at the next change.
func (s *Signal) Wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

func (s *Signal) Broadcast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}
