// Package limit holds each of many clients to a rate, and to a number of things at once.
package limit

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxKeys is how many keys a Rate remembers.
const maxKeys = 65536

// A Rate gives each key a limiter of its own: Burst tokens at once, and PerSecond more
// each second after that.
type Rate struct {
	Burst     int // set before the Rate is used, as is PerSecond
	PerSecond rate.Limit

	mu   sync.Mutex // guards keys
	keys map[string]*limited
}

type limited struct {
	*rate.Limiter
	missed int // Takes that found no token since the last that did
}

// Take takes a token of key's, and reports whether there was one. If there was,
// missed is how many Takes of key's have found none since the last that did.
func (r *Rate) Take(key string) (missed int, ok bool) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.of(key, now)
	if !l.AllowN(now, 1) {
		l.missed++
		return 0, false
	}
	missed, l.missed = l.missed, 0
	return missed, true
}

// of returns key's limiter. If there are too many, it drops those that have all their
// tokens again, and if there is none, all.
func (r *Rate) of(key string, now time.Time) *limited {
	if l := r.keys[key]; l != nil {
		return l
	}
	if len(r.keys) >= maxKeys {
		for k, l := range r.keys {
			if l.TokensAt(now) >= float64(r.Burst) {
				delete(r.keys, k)
			}
		}
		if len(r.keys) >= maxKeys {
			clear(r.keys)
		}
	}
	if r.keys == nil {
		r.keys = make(map[string]*limited)
	}
	l := &limited{Limiter: rate.NewLimiter(r.PerSecond, r.Burst)}
	r.keys[key] = l
	return l
}
