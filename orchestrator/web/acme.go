package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// How long an ACME waits before it asks a CA again that has given no first certificate.
// It doubles each time. A CA may count: Let's Encrypt bears five failures of a name an hour.
const (
	firstAgain = 2 * time.Minute
	lastAgain  = time.Hour
)

// An ACME has the page's certificate from a CA (RFC 8555), and renews it in the last third
// of its life, the last 30 days at most. The CA finds that the name is ours by tls-alpn-01
// (RFC 8737): it connects to port 443 of the host.
//
// No visitor makes it ask: what they say in a handshake chooses nothing.
type ACME struct {
	hello   *tls.ClientHelloInfo // of any browser
	log     *slog.Logger
	maker   func() *autocert.Manager
	manager atomic.Pointer[autocert.Manager] // that has a certificate, or asks for the first
	ready   atomic.Bool                      // it has one
	again   time.Duration                    // firstAgain but in tests
}

// ACME returns the ACME of the page's host and of the CA whose directory is at a URL. In
// dir, below a directory for each CA, it keeps the account's key, the certificate and the
// certificate's key. It asks the CA by client, and takes the CA's terms. The caller calls Run.
func (p *Page) ACME(directory, dir string, client *http.Client) (*ACME, error) {
	u, err := url.Parse(directory)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return nil, fmt.Errorf("%.200q: want the URL of a CA's directory, as https://acme-v02.api.letsencrypt.org/directory", directory)
	}
	host := p.url.Hostname()
	if _, err := netip.ParseAddr(host); err == nil || !p.secure() || !strings.Contains(host, ".") || isLoopback(host) {
		return nil, fmt.Errorf("the page's URL is %s: a CA certifies https://HOST, where HOST is a name that the whole world knows", p.url)
	}
	dir = filepath.Join(dir, strings.NewReplacer("%", "%25", "/", "%2F").Replace(u.Host+u.Path))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, "try") // a CA counts what it gives, also what is lost
	if err != nil {
		return nil, err
	}
	f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	told := *client
	told.Transport = &caTransport{next: client.Transport, log: p.log}
	a := &ACME{log: p.log, again: firstAgain, hello: &tls.ClientHelloInfo{
		ServerName: host, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, SupportedCurves: []tls.CurveID{tls.CurveP256},
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	}}
	a.maker = func() *autocert.Manager {
		return &autocert.Manager{
			Prompt: autocert.AcceptTOS, HostPolicy: autocert.HostWhitelist(host), Cache: caCache{autocert.DirCache(dir), host, p.log},
			Client: &acme.Client{DirectoryURL: directory, HTTPClient: &told, UserAgent: "9ci"},
		}
	}
	a.manager.Store(a.maker())
	return a, nil
}

// Run asks the CA for the first certificate, unless there is one, and again as long as there
// is none. It returns when there is one, or ctx is done; the error is ctx's.
func (a *ACME) Run(ctx context.Context) error {
	for wait := a.again; ; wait = min(2*wait, lastAgain) {
		m := a.maker() // one that has failed answers from memory for a while
		a.manager.Store(m)
		got := make(chan error, 1)
		go func() { // it has no context: after five minutes at most it ends by itself
			_, err := m.GetCertificate(a.hello)
			got <- err
		}()
		var err error
		select {
		case err = <-got:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err == nil {
			a.ready.Store(true)
			return nil
		}
		a.log.Error("acme", "host", a.hello.ServerName, "err", clip(err.Error()), "again", wait.String())
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Config returns what a TLS server needs that has the certificate.
func (a *ACME) Config() *tls.Config {
	return &tls.Config{GetCertificate: a.get, NextProtos: []string{"h2", "http/1.1", acme.ALPNProto}}
}

var errNoCertificate = errors.New("the page has no certificate yet")

func (a *ACME) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if slices.Contains(hello.SupportedProtos, acme.ALPNProto) {
		if len(hello.SupportedProtos) == 1 && strings.EqualFold(hello.ServerName, a.hello.ServerName) { // RFC 8737 §3
			return a.manager.Load().GetCertificate(hello)
		}
		return nil, errNoCertificate
	}
	if !a.ready.Load() {
		return nil, errNoCertificate
	}
	return a.manager.Load().GetCertificate(a.hello)
}

// A caCache keeps files of a CA, and tells of certificates. What cannot be kept is used all
// the same, for to ask again would give nothing else.
type caCache struct {
	autocert.DirCache
	host string
	log  *slog.Logger
}

// Put implements autocert.Cache.
func (c caCache) Put(ctx context.Context, name string, data []byte) error {
	if err := c.DirCache.Put(ctx, name, data); err != nil {
		c.log.Error("acme", "host", c.host, "err", fmt.Errorf("keep %s: %w", name, err))
	}
	if name == c.host {
		c.log.Info("acme", "host", c.host, "expires", expires(data))
	}
	return nil
}

// expires returns when the first certificate in PEM ends, in RFC 3339.
func expires(data []byte) string {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if cert, err := x509.ParseCertificate(block.Bytes); block.Type == "CERTIFICATE" && err == nil {
			return cert.NotAfter.UTC().Format(time.RFC3339)
		}
	}
	return "-"
}

// A caTransport tells the log what a CA says against us. Package autocert does not, and of
// a renewal says nothing at all.
type caTransport struct {
	next http.RoundTripper // nil: http.DefaultTransport
	log  *slog.Logger

	mu   sync.Mutex // guards what follows
	last string     // that was told
	when time.Time
}

// maxAnswer is how many bytes of a CA's answer are read: as many as package acme reads.
const maxAnswer = 1 << 20

// RoundTrip implements http.RoundTripper.
func (t *caTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	next := t.next
	if next == nil {
		next = http.DefaultTransport
	}
	a, err := next.RoundTrip(r)
	if err != nil {
		t.tell(r, err.Error())
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer+1))
	a.Body.Close()
	if err != nil {
		t.tell(r, err.Error())
		return nil, err
	}
	a.Body = io.NopCloser(bytes.NewReader(body))
	if said := complaint(a.StatusCode, body); said != "" {
		t.tell(r, said)
	}
	return a, nil
}

// tell writes a line, and no other for what was told within the hour.
func (t *caTransport) tell(r *http.Request, said string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); said != t.last || now.Sub(t.when) > time.Hour {
		t.last, t.when = said, now
		t.log.Warn("acme", "ca", r.URL.Host, "err", clip(said))
	}
}

// A caProblem is what a CA says that is wrong (RFC 8555 §6.7).
type caProblem struct{ Type, Detail string }

func (p caProblem) String() string {
	return strings.TrimPrefix(p.Type, "urn:ietf:params:acme:error:") + ": " + p.Detail
}

// complaint returns what an answer of a CA says against us: a problem, or an authorization
// that has failed. It is "" if it says nothing.
func complaint(status int, body []byte) string {
	var says struct {
		caProblem
		Status     any // of an authorization a string, of a problem a number
		Challenges []struct{ Error *caProblem }
	}
	err := json.Unmarshal(body, &says)
	switch {
	case status >= 400 && err == nil && strings.HasSuffix(says.Type, ":badNonce"): // it is asked again
		return ""
	case status >= 400 && err == nil && says.Type != "":
		return says.caProblem.String()
	case status >= 400:
		return strings.TrimSpace(fmt.Sprintf("status %d %s", status, http.StatusText(status)))
	case err != nil || says.Status != "invalid":
		return ""
	}
	for _, c := range says.Challenges {
		if c.Error != nil {
			return c.Error.String()
		}
	}
	return ""
}
