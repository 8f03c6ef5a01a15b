package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	iofs "io/fs"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
	"golang.org/x/crypto/acme/autocert"

	"9ci/orchestrator/access"
)

// A testCA is Let's Encrypt's CA for tests, Pebble, which checks names as a real one does: it
// looks up ci.example.org with a server of its own, and connects to the page.
type testCA struct {
	*httptest.Server
	roots   *x509.CertPool
	nowhere atomic.Bool  // the name leads nowhere
	down    atomic.Int32 // 0, or the status of all answers
	asked   atomic.Int32
}

// newTestCA starts a CA whose certificates live so many seconds, and which finds the page at a
// port.
func newTestCA(t *testing.T, port int, life uint64) *testCA {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_AUTHZREUSE", "0")
	c := &testCA{roots: x509.NewCertPool()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	names := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA && q.Question[0].Name == "ci.example.org." && !c.nowhere.Load() {
			a.Answer = append(a.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)})
		}
		w.WriteMsg(a)
	})}
	go names.ActivateAndServe()
	t.Cleanup(func() { names.Shutdown() })
	log, store := stdlog.New(io.Discard, "", 0), db.NewMemoryStore()
	issuer := ca.New(log, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: life}})
	front := wfe.New(log, store, va.New(log, 0, port, true, l.Addr().String(), store), issuer, nil, true, false, 1, 1)
	handler := front.Handler()
	c.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.asked.Add(1)
		if status := c.down.Load(); status != 0 {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(int(status))
			io.WriteString(w, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many <certificates>"}`)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(c.Close)
	root := issuer.GetRootCert(0)
	c.roots.AddCert(root.Cert)
	return c
}

// An acmeSite is a site that is served with a CA's certificate.
type acmeSite struct {
	*site
	addr string
	ca   *testCA

	keeps sync.Mutex // guards what follows, and is held while something is kept
	over  bool
}

// A siteCache keeps nothing once the test is over. Package autocert renews until the process
// ends, and would write into a directory that is being removed.
type siteCache struct {
	autocert.Cache
	x *acmeSite
}

func (c siteCache) Put(ctx context.Context, name string, data []byte) error {
	c.x.keeps.Lock()
	defer c.x.keeps.Unlock()
	if c.x.over {
		return errors.New("the test is over")
	}
	return c.Cache.Put(ctx, name, data)
}

// end has nothing more kept.
func (x *acmeSite) end() {
	x.keeps.Lock()
	defer x.keeps.Unlock()
	x.over = true
}

// start serves the site until stop is called, and asks for a certificate.
func (x *acmeSite) start(l net.Listener, dir string) (a *ACME, stop func()) {
	x.t.Helper()
	a, err := x.ACME(x.ca.URL+"/dir", dir, x.ca.Client())
	if err != nil {
		x.t.Fatal(err)
	}
	a.again = time.Millisecond
	maker := a.maker
	a.maker = func() *autocert.Manager {
		m := maker()
		m.Cache = siteCache{m.Cache, x}
		return m
	}
	ctx, cancel := context.WithCancel(x.t.Context())
	ended := make(chan struct{}, 2)
	go func() { x.Serve(ctx, l, a.Config()); ended <- struct{}{} }()
	go func() { a.Run(ctx); ended <- struct{}{} }()
	return a, func() { cancel(); <-ended; <-ended }
}

// certificate returns the certificate that a browser gets, nil if it gets none.
func (x *acmeSite) certificate(protos ...string) *x509.Certificate {
	c, err := tls.Dial("tcp", x.addr, &tls.Config{RootCAs: x.ca.roots, ServerName: "ci.example.org", NextProtos: protos})
	if err != nil {
		return nil
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

// await waits until done.
func (x *acmeSite) await(what string, done func() bool) {
	x.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-time.After(time.Until(x.deadline())):
			x.t.Fatalf("%s: not in time; log: %s", what, x.log)
		}
	}
}

func (x *acmeSite) deadline() time.Time {
	if t, ok := x.t.(*testing.T); ok {
		if d, ok := t.Deadline(); ok {
			return d.Add(-time.Second)
		}
	}
	return time.Now().Add(time.Hour)
}

// A page gets a certificate once its name leads to it, renews it before it ends, and has it
// after a restart though the CA is down. What the CA says against it is in the log.
func TestACME(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &acmeSite{site: newSite(t, testURL), addr: l.Addr().String()}
	t.Cleanup(x.end)
	x.ca = newTestCA(t, l.Addr().(*net.TCPAddr).Port, 6)
	x.ca.nowhere.Store(true)
	dir := filepath.Join(x.dir, access.PageACMEDir)
	_, stop := x.start(l, dir)
	x.await("the CA finds no page", func() bool {
		return strings.Contains(x.log.String(), "malformed: Could not resolve URL") && strings.Count(x.log.String(), "again=") > 1
	})
	if c := x.certificate("h2"); c != nil {
		t.Errorf("a certificate of %v without a CA", c.Issuer)
	}
	x.ca.nowhere.Store(false)
	var first *x509.Certificate
	x.await("a certificate", func() bool { first = x.certificate("h2", "http/1.1"); return first != nil })
	if !slices.Equal(first.DNSNames, []string{"ci.example.org"}) {
		t.Errorf("the certificate is of %v", first.DNSNames)
	}
	client := http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: x.ca.roots}, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", x.addr)
	}}}
	a, err := client.Get(testURL + "/login")
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
	client.CloseIdleConnections()
	if a.StatusCode != http.StatusOK || a.ProtoMajor != 2 {
		t.Errorf("GET /login = %s by %s", a.Status, a.Proto)
	}
	asked := x.ca.asked.Load()
	for _, config := range []*tls.Config{
		{ServerName: "evil.example.org"}, {ServerName: "CI.example.org"}, {}, {ServerName: "ci.example.org", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}},
		{ServerName: "evil.example.org", NextProtos: []string{"acme-tls/1"}}, {ServerName: "ci.example.org", NextProtos: []string{"acme-tls/1"}}, {ServerName: "ci.example.org", NextProtos: []string{"acme-tls/1", "h2"}},
		{ServerName: "../../../seal.key", NextProtos: []string{"acme-tls/1"}},
	} {
		config.InsecureSkipVerify = true
		c, err := tls.Dial("tcp", x.addr, config)
		if err == nil {
			c.Close()
		}
		if challenge := len(config.NextProtos) > 0; challenge && err == nil {
			t.Errorf("a handshake of %s %v has a certificate, and nobody has asked for one", config.ServerName, config.NextProtos)
		}
	}
	if n := x.ca.asked.Load(); n != asked && x.certificate().Equal(first) { // else it was the renewal
		t.Errorf("visitors made the page ask its CA %d times", n-asked)
	}

	x.await("a renewal", func() bool { c := x.certificate(); return c != nil && !c.Equal(first) })
	if _, err := os.Stat(filepath.Join(dir, strings.TrimPrefix(x.ca.URL, "https://")+"%2Fdir", "ci.example.org")); err != nil {
		t.Error(err)
	}
	err = filepath.WalkDir(dir, func(path string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("others may read %s: %v", path, fi.Mode())
		}
		return err
	})
	if err != nil && !errors.Is(err, iofs.ErrNotExist) { // a challenge comes and goes
		t.Error(err)
	}

	found := access.CheckPage(x.dir, time.Now())
	if len(found) != 1 || found[0].Err != nil && !strings.Contains(found[0].Err.Error(), "expired") || found[0].Err == nil && !strings.HasPrefix(found[0].Words, "browsers know the page by this certificate as ci.example.org") {
		t.Errorf("CheckPage: %+v", found)
	}

	// Again, with a CA that refuses.
	stop()
	x.ca.down.Store(http.StatusTooManyRequests)
	if l, err = net.Listen("tcp", x.addr); err != nil {
		t.Fatal(err)
	}
	kept := x.file(dir)
	if kept == nil {
		t.Fatal("no certificate is kept")
	}
	_, stop = x.start(l, dir)
	defer stop()
	x.await("the certificate that was kept", func() bool { c := x.certificate(); return c != nil && c.Equal(kept) || time.Now().After(kept.NotAfter) })
	x.await("a CA that refuses", func() bool { return strings.Contains(x.log.String(), `err="rateLimited: too many <certificates>"`) })
}

// A CA that does not answer keeps nobody from ending the page.
func TestACMEHangs(t *testing.T) {
	s := newSite(t, testURL)
	asked, leave := make(chan struct{}), make(chan struct{})
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked <- struct{}{}; <-leave }))
	defer srv.Close()
	defer close(leave)
	a, err := s.ACME(srv.URL, t.TempDir(), srv.Client())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	<-asked
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if c, err := a.get(&tls.ClientHelloInfo{ServerName: "ci.example.org"}); err != errNoCertificate {
		t.Errorf("a certificate %v, %v", c, err)
	}
}

// file returns the certificate that is kept.
func (x *acmeSite) file(dir string) *x509.Certificate {
	x.t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*", "ci.example.org"))
	if err != nil || len(paths) != 1 {
		x.t.Fatalf("certificates in %s: %v, %v", dir, paths, err)
	}
	b, err := os.ReadFile(paths[0])
	if err != nil {
		x.t.Fatal(err)
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				x.t.Fatal(err)
			}
			return c
		}
	}
	return nil
}

// What no CA can certify is told at the start.
func TestACMEMisused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ url, ca, dir, want string }{
		{testURL, "http://ca.example.org/dir", t.TempDir(), "want the URL of a CA's directory"},
		{testURL, "ca.example.org", t.TempDir(), "want the URL of a CA's directory"},
		{testURL, "https://ca.example.org/dir", file, "not a directory"},
		{"http://localhost:8080", "https://ca.example.org/dir", t.TempDir(), "a CA certifies https://HOST"},
		{"https://localhost", "https://ca.example.org/dir", t.TempDir(), "a CA certifies https://HOST"},
		{"https://203.0.113.1", "https://ca.example.org/dir", t.TempDir(), "a CA certifies https://HOST"},
		{"https://[2001:db8::1]:8443", "https://ca.example.org/dir", t.TempDir(), "a CA certifies https://HOST"},
	} {
		if _, err := newSite(t, tt.url).ACME(tt.ca, tt.dir, http.DefaultClient); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ACME of %s by %s in %s: %v, want %q", tt.url, tt.ca, tt.dir, err, tt.want)
		}
	}
}

// What a CA says is told, and what it does not say is not.
func TestComplaint(t *testing.T) {
	for _, tt := range []struct {
		status     int
		body, want string
	}{
		{200, `{"status":"valid"}`, ""},
		{200, `{"status":"invalid","challenges":[{"status":"pending"},{"error":{"type":"urn:ietf:params:acme:error:connection","detail":"refused"}}]}`, "connection: refused"},
		{200, `{"status":"invalid"}`, ""},
		{200, "-----BEGIN CERTIFICATE-----", ""},
		{400, `{"type":"urn:ietf:params:acme:error:badNonce","detail":"x"}`, ""},
		{403, `{"type":"urn:ietf:params:acme:error:unauthorized","detail":"x","status":403}`, "unauthorized: x"},
		{502, "<html>", "status 502 Bad Gateway"},
		{500, `[]`, "status 500 Internal Server Error"},
		{530, "", "status 530"}, // of some CDNs
	} {
		if got := complaint(tt.status, []byte(tt.body)); got != tt.want {
			t.Errorf("complaint(%d, %s) = %q, want %q", tt.status, tt.body, got, tt.want)
		}
	}
}
