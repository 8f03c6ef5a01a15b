package access

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limits on where connections come from. The penalties are those of OpenSSH's
// PerSourcePenalties.
const (
	sourceBurst = 200 // connections a source may open at once,
	sourceRate  = 20  // and each second after that

	goodShare = 10             // a source that has logged in may open as many times more
	goodFor   = 24 * time.Hour // after its last login, or that login's end

	penaltyMin = 15 * time.Second // from this on a source is refused until its penalty is over
	penaltyMax = 10 * time.Minute

	openBegin  = 64  // half-open connections from which on some are dropped at random,
	openFull   = 512 // and from which on all are, as of sshd's MaxStartups
	openSource = 32  // those of one source,
	openWide   = 128 // and of one /24 or /48
	openGood   = 256 // those of one that has logged in: the oldest makes way for the next

	maxSources = 65536 // sources remembered
	tellEvery  = time.Minute

	linesBurst = 1000 // lines of the log about all of them at once,
	linesRate  = 10   // and each second after that
)

// A Failure says how a connection ended that did not log in.
type Failure int

const (
	Left     Failure = iota // the client left, as ssh-keyscan does, or had to
	NoSpeech                // it did not speak the protocol
	NoAuth                  // it tried to log in, and may not
	TooSlow                 // it was not done in time
)

// penalties are what a Failure costs. OpenSSH lets a client that just leaves pay a
// second. Here it costs nothing: ssh-keyscan leaves so four times in a row, and
// sourceRate bounds those that come too often.
var penalties = [...]time.Duration{Left: 0, NoSpeech: time.Second, NoAuth: 5 * time.Second, TooSlow: 10 * time.Second}

// Sources say which new connections may go on, by where they come from. A source is
// an address, or a larger block of them if the file says so.
//
//   - A source that opens too many connections, or fails too often, is refused for
//     a while.
//   - Connections that have not logged in yet are half-open. They are bounded for
//     each source and for all, and dropped at random before that.
//   - An address from which a key has logged in is good for a day: no penalty of
//     others behind it, and no half-open connections of other addresses, keep it
//     out.
//   - Loopback and Unix sockets are no source: behind a proxy on this machine all
//     clients would be one. Only half-open connections are bounded there.
type Sources struct {
	file   *watched[sourceRules]
	log    *slog.Logger
	lines  *rate.Limiter // of the log: strangers may have addresses without end
	missed atomic.Int64  // lines that were left out

	mu      sync.Mutex // guards what follows
	blocks  map[netip.Prefix]*source
	wide    map[netip.Prefix]int       // half-open connections of each
	good    map[netip.Prefix]time.Time // until when
	open    int                        // half-open connections of those that are not good
	local   int                        // and those of no source
	all     int                        // and all of them
	headers int                        // connections of balancers that owe a header
	dropped tale                       // connections that random drop refused
}

// A source is what is remembered of one.
type source struct {
	opens   *rate.Limiter // of connections: one costs goodShare tokens, that of a good source 1
	penalty time.Time     // until when
	refused bool          // until then
	open    []*Conn       // half-open, the oldest first
	told    tale          // connections that were refused
}

// A tale counts what the log is told of once in a while only: strangers decide how
// often it happens.
type tale struct {
	n  int
	at time.Time
}

// tell counts one more. If it is time to tell of them, it returns how many there
// were.
func (t *tale) tell(now time.Time) int {
	t.n++
	if now.Sub(t.at) < tellEvery {
		return 0
	}
	n := t.n
	*t = tale{at: now}
	return n
}

// NewSources returns the Sources of a file of rules, "" for none. It reports an error
// if the file is there and cannot be read.
func NewSources(file string, log *slog.Logger) (*Sources, error) {
	s := &Sources{log: log, lines: rate.NewLimiter(linesRate, linesBurst), blocks: map[netip.Prefix]*source{}, wide: map[netip.Prefix]int{}, good: map[netip.Prefix]time.Time{}}
	if file == "" {
		return s, nil
	}
	var err error
	s.file, err = watchFile(file, func(text []byte) (sourceRules, error) { return parseRules(file, text, log), nil }, nil, log)
	return s, err
}

func (s *Sources) rules() sourceRules {
	if s.file == nil {
		return sourceRules{}
	}
	return s.file.get()
}

// errRefused is the error of Admit for a connection whose refusal the log need not
// be told of: it knows already that there are some.
var errRefused = errors.New("refused")

// Admit lets a new connection go on, or closes it and returns why. If it comes from
// a balancer, Admit waits for the PROXY header, 5 seconds at most, and it counts as
// one of the address in there.
//
// The Conn is half-open until LoggedIn or Failed is called: to close it is not
// enough.
func (s *Sources) Admit(nc net.Conn) (*Conn, error) {
	rules := s.rules()
	c := &Conn{Conn: nc, s: s, remote: nc.RemoteAddr()}
	if err := s.proxied(rules, c); err != nil {
		nc.Close()
		return nil, err
	}
	if err := s.admit(rules, c); err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

func (s *Sources) admit(rules sourceRules, c *Conn) error {
	oldest, n, err := s.decide(rules, c)
	if oldest != nil {
		oldest.Conn.Close()
	}
	if err != nil {
		return s.refused(c, n, err)
	}
	return nil
}

// refused has the log tell of n connections that were refused, of which c is the last,
// and returns errRefused.
func (s *Sources) refused(c *Conn, n int, err error) error {
	if n > 0 {
		s.warn("refused", c, "connections", n, "err", err)
	}
	return errRefused
}

// warn writes a line about c, unless there are too many. The next one says how many
// were left out.
func (s *Sources) warn(msg string, c *Conn, args ...any) {
	if !s.lines.Allow() {
		s.missed.Add(1)
		return
	}
	args = append([]any{"addr", c.remote.String()}, args...)
	if n := s.missed.Swap(0); n > 0 {
		args = append(args, "missed", n)
	}
	s.log.Warn(msg, args...)
}

// decide returns why c may not go on, and how many such connections the log is to be
// told of; or the connection, if any, that makes way for c and is to be closed.
func (s *Sources) decide(rules sourceRules, c *Conn) (oldest *Conn, n int, err error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	ip, ok := ipOf(c.remote)
	if ok && (c.healthy || rules.exempt.contains(ip)) {
		s.begin(c)
		return nil, 0, nil
	}
	if !ok || ip.IsLoopback() {
		if drop(s.local) {
			return nil, s.dropped.tell(now), fmt.Errorf("%d connections are half-open", s.local)
		}
		c.local = true
		s.begin(c)
		return nil, 0, nil
	}
	c.host, c.wide = block(ip, 32, 64), block(ip, 24, 48)
	c.good = now.Before(s.good[c.host])
	of := c.host // others of its block do not count against an address that is good
	if !c.good {
		of = block(ip, rules.bits4(), rules.bits6())
	}
	b := s.get(of, now)
	c.source = b

	cost := goodShare
	if c.good {
		cost = 1
	}
	switch {
	case b.opens.TokensAt(now) < float64(cost):
		return nil, b.told.tell(now), fmt.Errorf("more than %d connections at once, and %d each second after that", sourceBurst, sourceRate)
	case !c.good && b.refused && now.Before(b.penalty):
		return nil, b.told.tell(now), fmt.Errorf("it has failed to log in too often: %v are left of its penalty", b.penalty.Sub(now).Round(time.Second))
	case !c.good && (len(b.open) >= openSource || s.wide[c.wide] >= openWide):
		return nil, b.told.tell(now), fmt.Errorf("more than %d half-open connections, or %d of %v", openSource, openWide, c.wide)
	case !c.good && drop(s.open):
		return nil, s.dropped.tell(now), fmt.Errorf("%d connections are half-open", s.open)
	case c.good && len(b.open) >= openGood:
		oldest = b.open[0]
		s.end(oldest)
	}
	b.opens.AllowN(now, cost)
	s.begin(c)
	return oldest, 0, nil
}

// drop reports whether a connection is to be dropped while n are half-open: none
// up to openBegin, all from openFull on, and at random between.
func drop(n int) bool {
	return n >= openFull || n >= openBegin && rand.IntN(openFull-openBegin) < n-openBegin
}

// begin counts c as half-open.
func (s *Sources) begin(c *Conn) {
	c.halfOpen = true
	s.all++
	switch {
	case c.local:
		s.local++
	case c.source != nil:
		c.source.open = append(c.source.open, c)
		if !c.good {
			s.open++
			s.wide[c.wide]++
		}
	}
}

// end undoes begin, and reports whether c was half-open.
func (s *Sources) end(c *Conn) bool {
	if !c.halfOpen {
		return false
	}
	c.halfOpen = false
	s.all--
	switch {
	case c.local:
		s.local--
	case c.source != nil:
		c.source.open = slices.DeleteFunc(c.source.open, func(o *Conn) bool { return o == c })
		if !c.good {
			s.open--
			if s.wide[c.wide]--; s.wide[c.wide] == 0 {
				delete(s.wide, c.wide)
			}
		}
	}
	return true
}

// HalfOpen returns how many connections are half-open.
func (s *Sources) HalfOpen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}

// LoggedIn says that a key has logged in on c: its address is good from now on until
// a day after. It is called once more when that login ends.
func (c *Conn) LoggedIn() {
	s, now := c.s, time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(c)
	c.waits = false
	if c.source == nil {
		return
	}
	if _, ok := s.good[c.host]; !ok && len(s.good) >= maxSources {
		for h, until := range s.good { // any of those that are over, or else any
			delete(s.good, h)
			if now.Before(until) {
				break
			}
		}
	}
	s.good[c.host] = now.Add(goodFor)
}

// Waits says that c waits for a person, so that it is half-open no more. How many there
// are the caller bounds, and calls LoggedIn or Failed after it.
func (c *Conn) Waits() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.waits = c.s.end(c)
}

// Failed says that c ends and nobody has logged in. What it costs counts for c's
// source, unless that is good. A source is refused from a penalty of 15 seconds on,
// until that is over.
func (c *Conn) Failed(f Failure) {
	if left := c.penalize(f); left > 0 {
		c.s.warn("penalty", c, "for", left.Round(time.Second))
	}
}

// penalize does what Failed says. If the source is refused from now on, it returns for
// how long.
func (c *Conn) penalize(f Failure) time.Duration {
	s, now := c.s, time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	b, open := c.source, s.end(c) || c.waits
	c.waits = false
	if !open || b == nil || penalties[f] == 0 || now.Before(s.good[c.host]) {
		return 0
	}
	if b.penalty.Before(now) {
		b.penalty, b.refused = now, false
	}
	b.penalty = b.penalty.Add(penalties[f])
	if most := now.Add(penaltyMax); b.penalty.After(most) {
		b.penalty = most
	}
	left := b.penalty.Sub(now)
	if left < penaltyMin || b.refused {
		return 0
	}
	b.refused = true
	return left
}

// get returns the entry of a block. If there are too many, it drops those that hold
// nothing to remember, and then any that have no half-open connection.
func (s *Sources) get(block netip.Prefix, now time.Time) *source {
	if b := s.blocks[block]; b != nil {
		return b
	}
	if len(s.blocks) >= maxSources {
		for k, b := range s.blocks {
			if len(b.open) == 0 && b.penalty.Before(now) && b.opens.TokensAt(now) >= sourceBurst*goodShare {
				delete(s.blocks, k)
			}
		}
		for k, b := range s.blocks { // a quarter is free after this, so the next ones need no search
			if len(s.blocks) < maxSources*3/4 {
				break
			}
			if len(b.open) == 0 {
				delete(s.blocks, k)
			}
		}
	}
	b := &source{opens: rate.NewLimiter(sourceRate*goodShare, sourceBurst*goodShare)}
	s.blocks[block] = b
	return b
}

// block returns the block of an address, of bits4 or bits6 bits.
func block(ip netip.Addr, bits4, bits6 int) netip.Prefix {
	bits := bits6
	if ip.Is4() {
		bits = bits4
	}
	return netip.PrefixFrom(ip, bits).Masked()
}
