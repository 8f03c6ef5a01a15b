package web

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"9ci/orchestrator/access"
)

// writePair writes a certificate of a name, with a serial number, and its key.
func writePair(t *testing.T, dir string, serial int64) (crt, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // browsers know no Ed25519
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{"ci.example.org"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, &x509.Certificate{SerialNumber: big.NewInt(serial)}, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	crt, key = filepath.Join(dir, "web.crt"), filepath.Join(dir, "web.key")
	for path, block := range map[string]*pem.Block{crt: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: b}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return crt, key
}

// The page is served by TLS with the certificate that the files have now, and speaks
// nothing else there.
func TestServeTLS(t *testing.T) {
	s := newSite(t, testURL)
	crt, key := writePair(t, s.dir, 1)
	var log bytes.Buffer
	pair, err := access.Pair(crt, key, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l, Certificate(pair)) }()
	serial := func() string {
		t.Helper()
		client := http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
			},
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // its serial number is looked at
		}}
		defer client.CloseIdleConnections()
		r, err := client.Get(testURL + "/login")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK || r.Header.Get("Strict-Transport-Security") == "" {
			t.Errorf("GET /login = %s", r.Status)
		}
		return r.TLS.PeerCertificates[0].SerialNumber.String()
	}
	if got := serial(); got != "1" {
		t.Errorf("the certificate is %s", got)
	}
	writePair(t, s.dir, 2)
	if got := serial(); got != "2" {
		t.Errorf("the certificate is %s after the files have changed", got)
	}
	if err := os.WriteFile(crt, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != "2" || !strings.Contains(log.String(), "what it said before stands") {
		t.Errorf("the certificate is %s after a slip of the hand; log: %s", got, &log)
	}
	r, err := http.Get("http://" + l.Addr().String() + "/login")
	if err == nil {
		r.Body.Close()
		if r.StatusCode != http.StatusBadRequest || len(r.Cookies()) > 0 {
			t.Errorf("plain HTTP: %s %v", r.Status, r.Header)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v", err)
	}
	if _, err := access.Pair(crt, key, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("Pair of nonsense: no error")
	}
	writePair(t, s.dir, 3)
	for when, words := range map[time.Duration]string{0: "browsers know the page by this certificate as ci.example.org", 2 * time.Hour: "", -2 * time.Hour: ""} {
		all := access.CheckPage(s.dir, time.Now().Add(when))
		if len(all) != 1 || (all[0].Err == nil) != (words != "") || !strings.HasPrefix(all[0].Words, words) {
			t.Errorf("CheckPage %v from now: %+v", when, all)
		}
	}
	if all := access.CheckPage(t.TempDir(), time.Now()); len(all) > 0 {
		t.Errorf("CheckPage without a certificate: %+v", all)
	}
}

// Without TLS the page is served to this machine alone.
func TestServePlain(t *testing.T) {
	s := newSite(t, testURL)
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), l, nil); err == nil || !strings.Contains(err.Error(), "web.crt") {
		t.Errorf("Serve on all addresses: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
	local := newSite(t, "http://localhost:8080")
	if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := local.Serve(t.Context(), l, &tls.Config{}); err == nil || !strings.Contains(err.Error(), "-url https") {
		t.Errorf("Serve by TLS with an http URL: %v", err)
	}
	if l, err = net.Listen("unix", filepath.Join(t.TempDir(), "s")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l, nil) }()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
	}}}
	r, err := client.Get("http://ci.example.org/login")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Errorf("over a Unix socket: %s", r.Status)
	}
	client.CloseIdleConnections()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v", err)
	}
}

// A fakeListener accepts what a test gives it.
type fakeListener struct {
	net.Listener
	next chan net.Conn
}

func (l fakeListener) Accept() (net.Conn, error) {
	if c, ok := <-l.next; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

// A fakeConn is from an address.
type fakeConn struct {
	net.Conn
	from   net.Addr
	closed *bool
}

func (c fakeConn) RemoteAddr() net.Addr { return c.from }
func (c fakeConn) Close() error         { *c.closed = true; return nil }

// One address has some connections, and the next when one of these has gone; others, and a
// proxy on this machine, have theirs.
func TestConnectionsOfAddress(t *testing.T) {
	next := make(chan net.Conn, 2)
	l := newFairListener(fakeListener{next: next}, mostConns)
	open := func(from net.Addr) (c net.Conn, taken bool) {
		t.Helper()
		closed := false
		next <- fakeConn{from: from, closed: &closed}
		next <- fakeConn{from: &net.UnixAddr{}, closed: new(bool)} // which is always taken
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if closed {
			return nil, false
		}
		<-next
		return c, true
	}
	var held []net.Conn
	for i := range maxConnsOf + 1 {
		c, ok := open(tcp("2001:db8::1"))
		if ok != (i < maxConnsOf) {
			t.Fatalf("connection %d is taken: %v", i, ok)
		}
		held = append(held, c)
	}
	if _, ok := open(tcp("2001:db8::2")); ok {
		t.Error("another address of the /64 has one more")
	}
	for range 3 * maxConnsOf {
		if _, ok := open(tcp("127.0.0.1")); !ok {
			t.Fatal("a proxy on this machine has no more")
		}
	}
	if _, ok := open(tcp("192.0.2.1")); !ok {
		t.Error("another address has none")
	}
	held[0].Close()
	held[0].Close()
	if _, ok := open(tcp("2001:db8::1")); !ok {
		t.Error("there is no place after one has gone")
	}
	if _, ok := open(tcp("2001:db8::1")); ok {
		t.Error("a connection that was closed twice made two places")
	}
}

// When there are too many, the connection makes way that has gone longest without a request,
// and none whose request is under way.
func TestConnectionsMakeWay(t *testing.T) {
	next := make(chan net.Conn, 1)
	l := newFairListener(fakeListener{next: next}, 3)
	closed := make(map[net.Conn]*bool)
	open := func(from string) *fairConn {
		t.Helper()
		c := fakeConn{from: tcp(from), closed: new(bool)}
		next <- c
		got, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		closed[got] = c.closed
		return got.(*fairConn)
	}
	a, b, c := open("192.0.2.1"), open("192.0.2.2"), open("192.0.2.3")
	a.begin()
	a.begin()
	a.end() // one of two
	b.begin()
	b.end() // c has gone longer without
	d := open("192.0.2.4")
	for conn, want := range map[*fairConn]bool{a: false, b: false, c: true, d: false} {
		if got := *closed[conn]; got != want {
			t.Errorf("the connection of %v is closed: %v, want %v", conn.RemoteAddr(), got, want)
		}
	}
	b.begin()
	d.begin()
	gone := fakeConn{from: tcp("192.0.2.5"), closed: new(bool)}
	next <- gone
	close(next)
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) || !*gone.closed {
		t.Errorf("with a request on each connection, one more is closed: %v, %v", *gone.closed, err)
	}
	for _, conn := range []*fairConn{a, b, c, d} {
		conn.Close()
	}
	a.end() // after its end
	b.end()
	if l.all != 0 || len(l.of) != 0 || l.idle.Len() != 0 {
		t.Errorf("all have gone, and there are %d connections, %v, %d idle", l.all, l.of, l.idle.Len())
	}
}
