package web

import (
	"net/netip"

	"9ci/orchestrator/internal/limit"
)

// limits are what one address, of IPv6 one /64, may do.
type limits struct {
	logins limit.Rate // logins that are begun or finished, wrong and right ones
	codes  limit.Rate // codes of keys that are tried; of an account too
}

func newLimits() *limits {
	return &limits{
		logins: limit.Rate{Burst: 60, PerSecond: 1},
		// Ten, and two more each minute: in ten minutes, which a code lives, thirty of
		// codeLetters^codeSize.
		codes: limit.Rate{Burst: 10, PerSecond: 1.0 / 30},
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
