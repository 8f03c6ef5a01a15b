package web

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// What is sealed is opened once, in its time, for its owner and purpose. If more has been
// opened than can be remembered, nothing else is, until some of it has ended.
func TestSealer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSealer()
		seal := func(n int) string {
			t.Helper()
			text, err := s.seal("login", "owner", n)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		open := func(purpose, owner, text string) (n int, err error) {
			err = s.open(purpose, owner, text, &n)
			return n, err
		}
		text := seal(7)
		for _, other := range [][2]string{{"login", "other"}, {"passkey", "owner"}, {"loginx", "owner"}, {"login\x00own", "er"}, {"", ""}} {
			if n, err := open(other[0], other[1], text); !errors.Is(err, errStale) {
				t.Errorf("open(%q) = %d, %v", other, n, err)
			}
		}
		if n, err := open("login", "owner", text); n != 7 || err != nil {
			t.Errorf("open = %d, %v", n, err)
		}
		if n, err := open("login", "owner", text); !errors.Is(err, errStale) {
			t.Errorf("open again = %d, %v", n, err)
		}
		late := seal(8)
		time.Sleep(sealLife)
		if n, err := open("login", "owner", late); !errors.Is(err, errStale) {
			t.Errorf("open after its time = %d, %v", n, err)
		}
		if n, err := newSealer().seal("x", "y", func() {}); err == nil {
			t.Errorf("seal of a func = %q", n)
		}
		for range maxUsed - 1 { // one is remembered, whose time is over
			if _, err := open("login", "owner", seal(0)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := open("login", "owner", seal(0)); err != nil {
			t.Errorf("with one whose time is over: %v", err)
		}
		if _, err := open("login", "owner", seal(0)); !errors.Is(err, errTooMany) {
			t.Errorf("with too many: %v", err)
		}
		time.Sleep(sealLife)
		if _, err := open("login", "owner", seal(0)); err != nil || len(s.used) != 1 {
			t.Errorf("ten minutes later: %v, %d are remembered", err, len(s.used))
		}
	})
}
