package access

import (
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func addr(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 40000} }

// One netblock has its bucket, and others have theirs.
func TestBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Sources
		n := 0
		for range 3 * sourceBurst {
			if s.Admit(addr("203.0.113.5")) {
				n++
			}
		}
		if n != sourceBurst {
			t.Errorf("%d connections of one netblock at once, want %d", n, sourceBurst)
		}
		if !s.Admit(addr("203.0.114.5")) || !s.Admit(addr("2001:db8::1")) || !s.Admit(addr("127.0.0.1")) {
			t.Error("other netblocks are not heard")
		}
		time.Sleep(time.Second)
		for n = 0; s.Admit(addr("203.0.113.77")); n++ {
		}
		if n != sourceRate {
			t.Errorf("%d connections after a second, want %d", n, sourceRate)
		}
	})
}

// Penalties gather, up to a limit, and pass.
func TestPenalties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Sources
		late := os.ErrDeadlineExceeded
		s.Punish(addr("203.0.113.5"), late)
		if !s.Admit(addr("203.0.113.5")) {
			t.Errorf("a netblock is refused after one penalty of %v", penaltyGrace)
		}
		s.Punish(addr("203.0.113.6"), late)
		if s.Admit(addr("203.0.113.7")) {
			t.Errorf("a netblock is heard after two penalties of %v", penaltyGrace)
		}
		for range 1000 {
			s.Punish(addr("203.0.113.6"), late)
			s.Punish(addr("::1"), late)
		}
		time.Sleep(penaltyMax - penaltyMin + 1)
		if !s.Admit(addr("203.0.113.7")) || !s.Admit(addr("::1")) {
			t.Errorf("a netblock is refused beyond %v, or loopback at all", penaltyMax)
		}
	})
}
