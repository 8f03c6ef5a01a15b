// Package lend is what a host lends its machines of its own ways to the outside:
// Debian's archive, proxies, registries of container images and the certificates of
// CAs.
//
// A machine gets files and variables that name ports of guest.Gateway, and the host
// answers there (network.Config.Forwards). Addresses, passwords and tokens stay at
// the host's end, where they are added to what a machine asks. What can be asked
// is as little as serves: packages of the host's sources, images to pull, and by a
// proxy nothing that is this host's own.
package lend

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http/httpproxy"

	"9ci/vm/guest"
)

// Ports of guest.Gateway. A proxy or a registry has the next port that is free.
const (
	proxyPort    = 3128
	archivePort  = 3142
	registryPort = 5000
)

// Options say what to lend besides what is found on the host.
type Options struct {
	Registries []Registry
	AuthFile   string // containers-auth.json(5), or empty
}

// A Loan is what a host lends one machine.
type Loan struct {
	Files    []guest.File // to be written when the machine starts
	Env      []string     // NAME=VALUE for commands in the machine that may use the network
	Forwards map[uint16]http.Handler

	// Warnings say what of the host's could not be lent, and why. No
	// password is in them.
	Warnings []string

	proxies map[string]string // URLs in the machine by those here
}

// Host returns what this host lends: of its environment, of /etc/apt, of its CA
// certificates and of o. Errors are those of o.
func Host(ctx context.Context, o Options) (*Loan, error) {
	l := &Loan{Forwards: make(map[uint16]http.Handler), proxies: make(map[string]string)}
	if err := l.registries(o); err != nil {
		return nil, err
	}
	l.environment(os.Getenv)
	if a, err := HostAPT(ctx); err == nil { // a host without apt has none to lend
		l.archive(a)
	}
	l.authorities()
	return l, nil
}

func (l *Loan) warn(format string, args ...any) {
	l.Warnings = append(l.Warnings, fmt.Sprintf(format, args...))
}

func (l *Loan) file(name, text string) {
	l.Files = append(l.Files, guest.File{Name: name, Data: []byte(text)})
}

// forward serves h at the first port that is free from port on, and returns
// HOST:PORT.
func (l *Loan) forward(port uint16, h http.Handler) string {
	for l.Forwards[port] != nil {
		port++
	}
	l.Forwards[port] = h
	return net.JoinHostPort(guest.Gateway.String(), strconv.Itoa(int(port)))
}

// environment lends the proxies of the environment, as programs find them there.
func (l *Loan) environment(getenv func(string) string) {
	for _, name := range []string{"http_proxy", "https_proxy", "ftp_proxy", "all_proxy"} {
		upper := strings.ToUpper(name)
		text := getenv(name)
		if text == "" {
			text = getenv(upper)
		}
		if text == "" {
			continue
		}
		u, err := l.proxy(text)
		if err != nil {
			l.warn("%s is not lent: %v", name, err)
			continue
		}
		l.Env = append(l.Env, name+"="+u, upper+"="+u)
	}
	if len(l.Env) == 0 {
		return
	}
	none := []string{"localhost", "127.0.0.1", "::1", guest.Gateway.String()}
	for _, name := range []string{"no_proxy", "NO_PROXY"} {
		if v := getenv(name); v != "" {
			none = append(none, v)
			break
		}
	}
	v := strings.Join(none, ",")
	l.Env = append(l.Env, "no_proxy="+v, "NO_PROXY="+v)
}

// proxy lends a proxy of this host, and returns its URL in the machine.
func (l *Loan) proxy(text string) (string, error) {
	u, err := parseProxy(text)
	if err != nil {
		return "", err
	}
	key := u.String()
	if l.proxies[key] == "" {
		l.proxies[key] = "http://" + l.forward(proxyPort, newProxy(u))
	}
	return l.proxies[key], nil
}

// archive lends Debian's archive as this host reaches it: a source is a directory
// below one port.
func (l *Loan) archive(a APT) {
	var sources []http.Handler
	at := make(map[string]string) // by the source's own URI
	base := ""
	list := a.list(func(uri string) string {
		if _, ok := at[uri]; !ok {
			at[uri] = ""
			h, err := a.source(uri)
			if err != nil {
				l.warn("a source of Debian's packages is not lent: %v", err)
				return ""
			}
			if base == "" {
				base = "http://" + l.forward(archivePort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					serveSource(sources, w, r)
				}))
			}
			at[uri] = fmt.Sprintf("%s/%d", base, len(sources))
			sources = append(sources, h)
		}
		return at[uri]
	})
	l.file("/etc/apt/sources.list", list)
	l.file("/etc/apt/apt.conf.d/99host", l.conf(a))
}

// conf is the host's options of apt with the proxies as the machine has them.
func (l *Loan) conf(a APT) string {
	var b strings.Builder
	for _, o := range a.options {
		name, _, _ := strings.Cut(o, " ")
		if v := a.option(name); strings.Contains(name, "::Proxy") && v != "DIRECT" {
			u, err := l.proxy(v)
			if err != nil {
				l.warn("%s of apt.conf is not lent: %v", name, err)
				continue
			}
			o = fmt.Sprintf("%s %q;", name, u)
		}
		b.WriteString(o + "\n")
	}
	fmt.Fprintf(&b, "Acquire::http::Proxy::%v \"DIRECT\";\n", guest.Gateway)
	return b.String()
}

// hostProxy is what programs of this host ask the environment for.
var hostProxy = sync.OnceValue(func() func(*url.URL) (*url.URL, error) {
	return httpproxy.FromEnvironment().ProxyFunc()
})

// cleanPath reports whether a path of a request stays below where it is asked for,
// however a server reads it.
func cleanPath(u *url.URL) bool {
	return !slices.ContainsFunc(strings.FieldsFunc(u.Path, func(c rune) bool { return c == '/' || c == '\\' }), func(s string) bool {
		return s == ".." || s == "." || strings.Contains(strings.ToLower(s), "%2e")
	})
}
