// Package wake lets goroutines wait for a change.
package wake

import "sync"

// A Signal wakes those that wait for a change. They hold no lock. The zero
// Signal is ready.
type Signal struct {
	mu sync.Mutex
	c  chan struct{} // closed, and forgotten, at a change
}

// Wait returns a channel that is closed at the next Broadcast.
func (s *Signal) Wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

// Broadcast wakes those that wait.
func (s *Signal) Broadcast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}
