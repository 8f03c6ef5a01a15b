package web

import (
	"context"
	"log/slog"
	"net/netip"

	"golang.org/x/time/rate"

	"9ci/orchestrator/internal/limit"
)

// How much there is at once. What is of one account, is of one address, of IPv6 one /64, for
// visitors who have not logged in.
const (
	requestsOf  = 512                  // answers of any kind for one address
	requestsAll = mostConns + mostRest // in all
	mostRest    = 4096                 // of these besides live ones
	liveOfOne   = 256                  // live answers for one account
	liveShare   = 4                    // all but one in so many connections may have one
	rawOfOne    = 32                   // artifacts that one account fetches
	rawAll      = 1024                 // in all
	compareOf   = 2                    // comparisons of one account
	compareAll  = 4                    // in all: each may take 100 MB, for what two executors serve
	notesOf     = 20                   // lines of the log at once for one address
)

// limits are what one address, of IPv6 one /64, may do, and what the page has in all.
type limits struct {
	logins limit.Rate // logins that are begun or finished, wrong and right ones
	codes  limit.Rate // codes of keys that are tried; of an account too

	notes    limit.Rate    // lines of the log of what an address asked for and did not get
	allNotes *rate.Limiter // the same of all addresses

	conns    int // of each listener
	requests limit.Count
	live     limit.Count
	raw      limit.Count
	compare  limit.Count
}

func newLimits() *limits {
	conns := maxConns()
	return &limits{
		conns:    conns,
		requests: limit.Count{Each: requestsOf, All: requestsAll},
		live:     limit.Count{Each: liveOfOne, All: conns - conns/liveShare},
		raw:      limit.Count{Each: rawOfOne, All: rawAll},
		compare:  limit.Count{Each: compareOf, All: compareAll},
		logins:   limit.Rate{Burst: 60, PerSecond: 1},
		// Ten, and two more each minute: in ten minutes, which a code lives, thirty of
		// codeLetters^codeSize.
		codes: limit.Rate{Burst: 10, PerSecond: 1.0 / 30},
		// As the audit has of strangers.
		notes:    limit.Rate{Burst: notesOf, PerSecond: 0.1},
		allNotes: rate.NewLimiter(10, 1000),
	}
}

// source returns the key of an address's limits.
func source(ip netip.Addr) string {
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	block, err := ip.Prefix(bits)
	if err != nil {
		return "?"
	}
	return block.String()
}

// who returns the key of what is counted of an account.
func (v *visit) who() string {
	if v.account != nil {
		return v.account.Principal
	}
	return source(v.from)
}

// take counts something that the visit does, as take does.
func (v *visit) take(c *limit.Count) (give func(), err error) { return take(c, v.who()) }

// take counts something of a key, until the caller calls give. The error is one that a
// person sees.
func take(c *limit.Count, who string) (give func(), err error) {
	switch c.Take(who) {
	case limit.KeyFull:
		return nil, errMany
	case limit.AllFull:
		return nil, errTooMany
	}
	return func() { c.Give(who) }, nil
}

// note writes a line of the log of what a visitor asked for and did not get, which the
// visitor can have happen as often as it likes.
func (p *Page) note(from netip.Addr, level slog.Level, attrs ...any) {
	missed, ok := p.limits.notes.Take(source(from))
	if !ok || !p.limits.allNotes.Allow() {
		return
	}
	if missed > 0 {
		attrs = append(attrs, "missed", missed)
	}
	p.log.Log(context.Background(), level, "page", append(attrs, "addr", from.String())...)
}

// mayLogIn returns errOften if the address has tried to log in too often.
func (v *visit) mayLogIn() error {
	if _, ok := v.page.limits.logins.Take(source(v.from)); !ok {
		return errOften
	}
	return nil
}

// mayTry returns errOften if the address, or the account, has tried too many codes.
func (v *visit) mayTry() error {
	_, ok := v.page.limits.codes.Take(source(v.from))
	if ok && v.account != nil {
		_, ok = v.page.limits.codes.Take(v.account.Principal)
	}
	if !ok {
		return errOften
	}
	return nil
}
