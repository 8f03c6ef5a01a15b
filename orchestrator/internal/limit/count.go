package limit

import "sync"

// A Count bounds how much there is at once: Each of one key, and All together.
type Count struct {
	Each, All int // set before the Count is used

	mu  sync.Mutex // guards what follows
	of  map[string]int
	all int
}

// A Full is what Take has no room for.
type Full int

// What is full.
const (
	Free    Full = iota // nothing
	KeyFull             // the key has Each
	AllFull             // all together have All
)

// Take counts one more of key's, unless there is no room for it.
func (c *Count) Take(key string) Full {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.of[key] >= c.Each:
		return KeyFull
	case c.all >= c.All:
		return AllFull
	}
	if c.of == nil {
		c.of = make(map[string]int)
	}
	c.of[key]++
	c.all++
	return Free
}

// Give counts one less of key's.
func (c *Count) Give(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.of[key]--; c.of[key] == 0 {
		delete(c.of, key)
	}
}
