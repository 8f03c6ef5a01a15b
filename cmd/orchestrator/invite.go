package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
)

// A newInvite is what the flags of the command invite say.
type newInvite struct {
	account, name string
	expires       time.Time // zero: as account.InviteLife says
}

func (i *newInvite) flags(f *flag.FlagSet) {
	f.StringVar(&i.account, "account", "", "it gives `ACCOUNT` a passkey")
	f.StringVar(&i.name, "name", "", "people know it by `N`")
	f.Func("expires", "it ends after `D`, or then", func(s string) (err error) {
		i.expires, err = expiry(s, time.Now())
		return err
	})
}

// invite makes an invitation and prints its URL.
func invite(o options, args []string, stdout, _ io.Writer) (int, error) {
	base := o.url
	if base == "" {
		var err error
		if base, err = account.URL(o.state); err != nil {
			return 1, o.noState(err)
		}
	}
	if base == "" {
		return 1, errors.New("an invitation is a URL of the page: start the orchestrator with -web and -url once, or give invite the -url")
	}
	u, err := url.Parse(base)
	if err != nil || u.Hostname() == "" {
		return 1, fmt.Errorf("-url %.200q: want https://HOST[:PORT]", base)
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return 1, fmt.Errorf("-url %s: an invitation makes a passkey, and passkeys are bound to a host's name, not to an IP address", base)
	}
	patterns, err := access.ParsePatterns(args)
	if err != nil {
		return 1, err
	}
	if o.invite.expires.IsZero() {
		o.invite.expires = time.Now().Add(account.InviteLife)
	}
	code, err := account.NewInvite(o.state, account.Invite{Name: o.invite.name, Namespaces: patterns, Account: o.invite.account, Expires: o.invite.expires})
	if err != nil {
		return 1, o.noState(err)
	}
	_, err = fmt.Fprintln(stdout, strings.TrimSuffix(base, "/")+"/invite/"+code)
	return 0, err
}
