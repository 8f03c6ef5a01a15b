package lend

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/proxy"

	"9ci/vm/network"
)

const (
	lookupTime  = 2 * time.Second  // for a name's addresses; a host behind a proxy may have no names
	connectTime = 30 * time.Second // for a proxy to take a connection
)

// parseProxy reads the URL of a proxy as programs do: HOST:PORT is http.
func parseProxy(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("its value is not the URL of a proxy") // which the error would repeat
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
		return u, nil
	}
	return nil, fmt.Errorf("a %s proxy is none of http, https, socks5 and socks5h", u.Scheme)
}

// hostPort returns where a proxy listens.
func hostPort(u *url.URL) string {
	port := map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
}

// A lentProxy is a proxy of the host's as a machine sees it: one for HTTP without
// a password, which reaches nothing of the host's own. What else the proxy reaches is
// the proxy's own rule.
type lentProxy struct {
	upstream *url.URL
	plain    http.Handler
}

func newProxy(upstream *url.URL) http.Handler {
	t := &http.Transport{Proxy: http.ProxyURL(upstream), IdleConnTimeout: idleTime}
	if strings.HasPrefix(upstream.Scheme, "http") { // a SOCKS proxy speaks no FTP for others
		t.RegisterProtocol("ftp", ftpProxy{upstream, &http.Transport{IdleConnTimeout: idleTime}})
	}
	return &lentProxy{upstream, &httputil.ReverseProxy{
		Transport: t,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.Host = r.In.Host
			r.Out.Header.Del("Proxy-Authorization")
		},
		ErrorHandler:  unreachable("proxy"),
		ErrorLog:      nobody,
		FlushInterval: -1,
	}}
}

// An ftpProxy asks an HTTP proxy for files of FTP servers, for which a http.Transport
// asks none.
type ftpProxy struct {
	upstream *url.URL
	base     http.RoundTripper
}

func (p ftpProxy) RoundTrip(r *http.Request) (*http.Response, error) {
	q := r.Clone(r.Context())
	// The request's target is Opaque, whole, and goes to Host (RFC 9112 §3.2.2).
	q.URL = &url.URL{Scheme: p.upstream.Scheme, Host: p.upstream.Host, Opaque: r.URL.String()}
	if a := basic(p.upstream.User); a != "" {
		q.Header.Set("Proxy-Authorization", a)
	}
	return p.base.RoundTrip(q)
}

// basic returns the credentials of a proxy's user (RFC 7617), or "" for none.
func basic(user *url.Userinfo) string {
	if user == nil {
		return ""
	}
	password, _ := user.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
}

func (p *lentProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	connect := r.Method == http.MethodConnect
	host := r.URL.Hostname()
	if connect {
		host, _, _ = net.SplitHostPort(r.Host)
	}
	if host == "" || !connect && r.URL.Scheme != "http" && r.URL.Scheme != "ftp" {
		http.Error(w, "9ci: this is a proxy: ask for http://HOST/PATH, or CONNECT HOST:PORT", http.StatusBadRequest)
		return
	}
	if err := lends(r.Context(), host); err != nil {
		http.Error(w, "9ci: "+err.Error(), http.StatusForbidden)
		return
	}
	if !connect {
		p.plain.ServeHTTP(w, r)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), connectTime)
	out, err := p.dial(ctx, r.Host)
	cancel()
	if err != nil {
		unreachable("proxy")(w, r, err)
		return
	}
	defer out.Close()
	in, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer in.Close()
	// Not by w, which would promise a body in chunks (RFC 9110 §9.3.6).
	rw.WriteString("HTTP/1.1 200 OK\r\n\r\n")
	rw.Flush()
	// The request's context is done once the machine has said all it has to say.
	network.Splice(&buffered{in, rw}, out)
}

// lends returns an error for a host that no proxy is to be asked for on behalf of a
// machine: one that is this host, by address or by name. A proxy on this host would
// dial it from here. The proxy resolves a name once more, and what it then makes of
// it is its own rule: a name whose answer changes in between is not seen here.
func lends(ctx context.Context, host string) error {
	host = strings.TrimSuffix(host, ".")
	if a, err := netip.ParseAddr(host); err == nil {
		return own(a)
	}
	if looksNumeric(host) {
		return fmt.Errorf("%s is no name", host) // 127.1, 2130706433 and 0x7f000001 are 127.0.0.1 to many a proxy
	}
	if strings.HasSuffix("."+strings.ToLower(host), ".localhost") { // RFC 6761 §6.3, whatever a resolver says
		return fmt.Errorf("%w: %s is this host", network.ErrRefused, host)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil // the proxy knows names that this host does not
	}
	for _, a := range addrs {
		if err := own(a); err != nil {
			return fmt.Errorf("%s: %w", host, err)
		}
	}
	return nil
}

// own returns network.Allowed's error for an address that it refuses, and none for
// one that this host has just no route to.
func own(a netip.Addr) error {
	if err := network.Allowed(a); errors.Is(err, network.ErrRefused) {
		return err
	}
	return nil
}

// looksNumeric reports whether inet_aton(3) may take a name for an address.
func looksNumeric(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	return last != "" && (strings.Trim(last, "0123456789") == "" || strings.HasPrefix(strings.ToLower(last), "0x"))
}

// dial connects to HOST:PORT through the proxy.
func (p *lentProxy) dial(ctx context.Context, to string) (network.Stream, error) {
	u := p.upstream
	if strings.HasPrefix(u.Scheme, "socks5") {
		var k keeper
		d, err := proxy.FromURL(u, &k)
		if err != nil {
			return nil, err
		}
		c, err := d.(proxy.ContextDialer).DialContext(ctx, "tcp", to)
		if err != nil {
			return nil, err
		}
		return &buffered{k.conn, c}, nil
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", hostPort(u))
	if err != nil {
		return nil, err
	}
	if u.Scheme == "https" {
		c = tls.Client(c, &tls.Config{ServerName: u.Hostname()})
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	s, err := askConnect(c, u.User, to)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	return s, err
}

// A keeper dials a connection and keeps it: that of package proxy, which wraps it,
// has no CloseWrite.
type keeper struct {
	net.Dialer
	conn net.Conn
}

func (k *keeper) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var err error
	k.conn, err = k.Dialer.DialContext(ctx, network, address)
	return k.conn, err
}

// askConnect asks the proxy at c for a connection (RFC 9110 §9.3.6).
func askConnect(c net.Conn, user *url.Userinfo, to string) (network.Stream, error) {
	r := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: to}, Host: to, Header: make(http.Header)}
	if a := basic(user); a != "" {
		r.Header.Set("Proxy-Authorization", a)
	}
	if err := r.Write(c); err != nil {
		c.Close()
		return nil, err
	}
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, r)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("it answers %s", resp.Status)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return &buffered{c, br}, nil
}

// A buffered connection is one of which some was read already, or is read through
// another.
type buffered struct {
	net.Conn
	r io.Reader
}

func (c *buffered) Read(p []byte) (int, error) { return c.r.Read(p) }

// CloseWrite ends a direction of a connection, or all of one that has no such end.
func (c *buffered) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Close()
}
