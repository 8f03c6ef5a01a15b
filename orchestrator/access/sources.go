package access

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Limits on where connections come from, after OpenSSH's PerSourcePenalties.
const (
	sourceBurst   = 200              // connections a netblock may open at once,
	sourceRate    = 20               // and each second after that
	penaltyMin    = 15 * time.Second // a netblock is refused from this on
	penaltyMax    = 10 * time.Minute
	penaltyAuth   = 5 * time.Second  // for a key that is not known
	penaltyNoAuth = 1 * time.Second  // for leaving before authentication: ssh-keyscan does
	penaltyGrace  = 10 * time.Second // for not being done in time
	maxSources    = 65536            // netblocks remembered
)

// Sources are the netblocks that connections came from of late, each with a
// token bucket and a penalty. The zero Sources are ready for use.
type Sources struct {
	mu     sync.Mutex // guards blocks
	blocks map[netip.Prefix]*source
}

type source struct {
	tokens  float64
	filled  time.Time // when tokens was right
	penalty time.Time // until when
}

// Admit reports whether a connection from addr may go on.
func (s *Sources) Admit(addr net.Addr) bool {
	block, ok := netblock(addr)
	if !ok {
		return true
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.get(block, now)
	b.tokens = min(sourceBurst, b.tokens+now.Sub(b.filled).Seconds()*sourceRate)
	b.filled = now
	if b.tokens < 1 || b.penalty.Sub(now) >= penaltyMin {
		return false
	}
	b.tokens--
	return true
}

// Punish adds to the penalty of addr's netblock what a login that ended with err
// costs. A netblock is refused while its penalty is 15 seconds or more.
func (s *Sources) Punish(addr net.Addr, err error) {
	block, ok := netblock(addr)
	if !ok {
		return
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.get(block, now)
	if b.penalty.Before(now) {
		b.penalty = now
	}
	b.penalty = b.penalty.Add(penalty(err))
	if most := now.Add(penaltyMax); b.penalty.After(most) {
		b.penalty = most
	}
}

// penalty returns what a login that ended with err costs.
func penalty(err error) time.Duration {
	var auth *ssh.ServerAuthError
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return penaltyGrace
	case errors.As(err, &auth) && len(auth.Errors) > 1: // the first is the method none
		return penaltyAuth
	}
	return penaltyNoAuth
}

// get returns the entry of a block. If there are too many entries, it drops those
// that hold nothing to remember, and if all do, all: netblocks are no help
// against a flood from everywhere.
func (s *Sources) get(block netip.Prefix, now time.Time) *source {
	if b := s.blocks[block]; b != nil {
		return b
	}
	if len(s.blocks) >= maxSources {
		for k, b := range s.blocks {
			if b.penalty.Before(now) && now.Sub(b.filled) > sourceBurst/sourceRate*time.Second {
				delete(s.blocks, k)
			}
		}
		if len(s.blocks) >= maxSources {
			clear(s.blocks)
		}
	}
	if s.blocks == nil {
		s.blocks = map[netip.Prefix]*source{}
	}
	b := &source{tokens: sourceBurst, filled: now}
	s.blocks[block] = b
	return b
}

// netblock returns the /24 or /64 of an address. A Unix socket has none. Loopback
// counts as none: behind a proxy on this machine all clients would be one.
func netblock(addr net.Addr) (netip.Prefix, bool) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}, false
	}
	ip := tcp.AddrPort().Addr().Unmap()
	if ip.IsLoopback() {
		return netip.Prefix{}, false
	}
	bits := 64
	if ip.Is4() {
		bits = 24
	}
	p, err := ip.WithZone("").Prefix(bits)
	return p, err == nil
}
