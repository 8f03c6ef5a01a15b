// Package limit holds each of many clients to a rate.
package limit

import (
	"sync"
	"time"
)

// maxKeys is how many keys a Rate remembers.
const maxKeys = 65536

// A Rate gives each key a bucket of tokens: Burst of them at once, and PerSecond
// more each second after that.
type Rate struct {
	Burst, PerSecond float64 // set before the Rate is used

	mu      sync.Mutex // guards buckets
	buckets map[string]*bucket
}

type bucket struct {
	tokens float64
	filled time.Time // when tokens was right
	missed int       // Takes that found no token since the last that did
}

// Take takes a token of key's, and reports whether there was one. If there was,
// missed is how many Takes of key's have found none since the last that did.
func (r *Rate) Take(key string) (missed int, ok bool) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.bucket(key, now)
	b.tokens = min(r.Burst, b.tokens+now.Sub(b.filled).Seconds()*r.PerSecond)
	b.filled = now
	if b.tokens < 1 {
		b.missed++
		return 0, false
	}
	b.tokens--
	missed, b.missed = b.missed, 0
	return missed, true
}

// bucket returns key's bucket. If there are too many, it drops those that have
// been full again for long, and if there is none, all.
func (r *Rate) bucket(key string, now time.Time) *bucket {
	if b := r.buckets[key]; b != nil {
		return b
	}
	if len(r.buckets) >= maxKeys {
		for k, b := range r.buckets {
			if b.tokens+now.Sub(b.filled).Seconds()*r.PerSecond >= r.Burst {
				delete(r.buckets, k)
			}
		}
		if len(r.buckets) >= maxKeys {
			clear(r.buckets)
		}
	}
	if r.buckets == nil {
		r.buckets = make(map[string]*bucket)
	}
	b := &bucket{tokens: r.Burst, filled: now}
	r.buckets[key] = b
	return b
}
