package limit

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// A key has its burst, then its rate, and no other key's.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Rate{Burst: 3, PerSecond: 0.5}
		take := func(key string, n, want int) {
			t.Helper()
			got := 0
			for range n {
				if _, ok := r.Take(key); ok {
					got++
				}
			}
			if got != want {
				t.Errorf("%d of %d Takes of %s found a token, want %d", got, n, key, want)
			}
		}
		take("a", 10, 3)
		take("b", 2, 2)
		time.Sleep(2 * time.Second)
		if missed, ok := r.Take("a"); !ok || missed != 7 {
			t.Errorf("Take = %d, %v, want 7, true", missed, ok)
		}
		if missed, ok := r.Take("b"); !ok || missed != 0 {
			t.Errorf("Take = %d, %v, want 0, true", missed, ok)
		}
		time.Sleep(time.Hour)
		take("a", 10, 3)
	})
}

// Keys beyond the limit push out those that have nothing to remember, and never
// grow what is held.
func TestRateIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Rate{Burst: 1, PerSecond: 1}
		for i := range maxKeys {
			r.Take(strconv.Itoa(i))
		}
		time.Sleep(time.Second)
		r.Take("0")
		r.Take("another")
		if n := len(r.keys); n != 2 {
			t.Errorf("%d keys are remembered, want 2", n)
		}
		if _, ok := r.Take("0"); ok {
			t.Error("a key that had taken its token was forgotten")
		}
		for i := range 2 * maxKeys {
			r.Take(strconv.Itoa(i))
		}
		if n := len(r.keys); n > maxKeys {
			t.Errorf("%d keys are remembered, want %d at most", n, maxKeys)
		}
	})
}
