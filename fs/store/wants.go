package store

import (
	"os"
	"time"
)

// HasScore reports whether the store has the run whose manifest has this SHA-256,
// in hexadecimal.
func (s *Store) HasScore(score string) bool {
	if len(score) != 64 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	for r := range byHash(s.index.byScore, score, scoreOf) {
		if _, err := os.Lstat(s.runPath(r.id())); err == nil {
			return true
		}
	}
	return false
}

// Wants reports whether it is worth while to adopt a run that nobody asked for,
// which ended at the time given and has so many bytes: whether the policy keeps
// runs of that age and size, and it would not evict one that ended later. The
// second keeps stores that adopt from each other from doing so without end.
func (s *Store) Wants(end time.Time, size int64) (bool, error) {
	s.mu.Lock()
	k := s.policy
	s.mu.Unlock()
	if k.Age > 0 && time.Since(end) > k.Age || k.Size > 0 && size > k.Size {
		return false, nil
	}
	surplus, err := s.surplus(k, &record{size: size, state: "passed", adopted: true})
	if err != nil {
		return false, err
	}
	for _, r := range surplus {
		if time.Unix(r.end, 0).After(end) {
			return false, nil
		}
	}
	return true, nil
}
