package orchestrator

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	iofs "io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/door"
	"9ci/proto/ninep"
)

// A testCA signs certificates.
type testCA struct {
	t    testing.TB
	cert *x509.Certificate
	key  ed25519.PrivateKey
	n    int64
}

func newTestCA(t testing.TB, name string) *testCA {
	t.Helper()
	ca := &testCA{t: t, key: newKey(t)}
	ca.cert = ca.sign(nil, ca.key.Public(), &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	})
	return ca
}

// sign signs a certificate of an hour, unless it says another time. A nil parent is
// the certificate itself.
func (ca *testCA) sign(parent *x509.Certificate, key crypto.PublicKey, c *x509.Certificate) *x509.Certificate {
	ca.t.Helper()
	ca.n++
	c.SerialNumber = big.NewInt(ca.n)
	if c.NotBefore.IsZero() {
		c.NotBefore = time.Now().Add(-time.Minute)
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		ca.t.Fatal(err)
	}
	return cert
}

// issue returns a client's certificate with those URIs, changed by change.
func (ca *testCA) issue(change func(*x509.Certificate), uris ...string) tls.Certificate {
	ca.t.Helper()
	c := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			ca.t.Fatal(err)
		}
		c.URIs = append(c.URIs, u)
	}
	if change != nil {
		change(c)
	}
	key := newKey(ca.t)
	cert := ca.sign(ca.cert, key.Public(), c)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func (ca *testCA) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// A testTLS is a testMux that listens for TLS too.
type testTLS struct {
	*testMux
	ca   *testCA
	tls  string // its address
	root *x509.CertPool
}

func pemOf(kind string, ders ...[]byte) []byte {
	var b []byte
	for _, der := range ders {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	return b
}

// writePair writes a certificate and its key to DIR/NAME.crt and .key.
func writePair(t testing.TB, dir, name string, c tls.Certificate) (cert, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	if err := errors.Join(os.WriteFile(cert, pemOf("CERTIFICATE", c.Certificate...), 0o600), os.WriteFile(key, pemOf("PRIVATE KEY", der), 0o600)); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// makeTLS makes the files of TLS in a state directory.
func makeTLS(t testing.TB, dir, lines string) *testCA {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ca := newTestCA(t, "ci")
	writePair(t, dir, "tls", ca.issue(func(c *x509.Certificate) {
		c.ExtKeyUsage = nil
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}))
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "tls-ca.pem"), pemOf("CERTIFICATE", ca.cert.Raw), 0o600),
		os.WriteFile(filepath.Join(dir, "authorized_tls"), []byte(lines), 0o600)); err != nil {
		t.Fatal(err)
	}
	return ca
}

func startTLS(t testing.TB, lines string) *testTLS {
	t.Helper()
	return startTLSOf(t, lines, Options{})
}

func startTLSOf(t testing.TB, lines string, o Options) *testTLS {
	t.Helper()
	o.TLS = true
	m := &testMux{t: t, dir: filepath.Join(t.TempDir(), "state"), home: t.TempDir()}
	ca := makeTLS(t, m.dir, lines)
	var ls [2]net.Listener
	for i := range ls {
		var err error
		if ls[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	m.start(ls[0], o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.s.ServeTLS(ctx, ls[1])
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return &testTLS{m, ca, ls[1].Addr().String(), ca.pool()}
}

// connect connects with a certificate and a protocol.
func (m *testTLS) connect(cert tls.Certificate, change func(*tls.Config), protos ...string) (*tls.Conn, error) {
	m.t.Helper()
	c := &tls.Config{RootCAs: m.root, NextProtos: protos, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }}
	if change != nil {
		change(c)
	}
	tc, err := tls.Dial("tcp", m.tls, c)
	if err == nil {
		m.t.Cleanup(func() { tc.Close() })
	}
	return tc, err
}

// attach attaches aname as a stock 9P client would.
func (m *testTLS) attach(cert tls.Certificate, aname string) (fs.Dir, error) {
	m.t.Helper()
	tc, err := m.connect(cert, nil, "9p")
	if err != nil {
		return nil, err
	}
	c, err := ninep.Import(m.t.Context(), tc, ninep.ImportOptions{Aname: aname})
	if err != nil {
		return nil, err
	}
	m.t.Cleanup(func() { c.Close() })
	return c.Root(), nil
}

// open opens a connection of ours with a certificate; key signs.
func (m *testTLS) open(cert tls.Certificate, key ssh.Signer) *dial.Conn {
	m.t.Helper()
	dir := m.t.TempDir()
	files := dial.TLSFiles{CA: filepath.Join(m.dir, "tls-ca.pem")}
	files.Cert, files.Key = writePair(m.t, dir, "client", cert)
	c, err := dial.Open("tls://"+m.tls, dial.Options{Key: key, TLS: files})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}

// Only a certificate of a trusted CA, of this time, for a client, with one identity
// that has a line, enters; and by TLS 1.3 and a protocol that is known alone.
func TestTLSLogin(t *testing.T) {
	m := startTLS(t, `
namespace="github.com/alice/*" ci:box
read ci:reader-*
namespace="github.com/alice/*" spiffe://example.org/ci/...
expiry-time="20200101Z" ci:old
raed ci:slip
ci:slip
cert-authority ci:ca
`)
	other := newTestCA(t, "ci")
	leaf := func(uris ...string) tls.Certificate { return m.ca.issue(nil, uris...) }
	changed := func(f func(*x509.Certificate)) tls.Certificate { return m.ca.issue(f, "ci:box") }
	between := newTestCA(t, "between")
	between.cert = m.ca.sign(m.ca.cert, between.key.Public(), &x509.Certificate{Subject: pkix.Name{CommonName: "between"}, IsCA: true, BasicConstraintsValid: true})
	chained := between.issue(nil, "ci:box")
	whole := chained
	whole.Certificate = append(slices.Clone(whole.Certificate), between.cert.Raw)
	for _, test := range []struct {
		name   string
		cert   tls.Certificate
		change func(*tls.Config)
		protos []string
		err    string // of the client's side; "": it enters
	}{
		{"a name", leaf("ci:box"), nil, []string{"9p"}, ""},
		{"no protocol", leaf("ci:box"), nil, nil, ""},
		{"one protocol of two", leaf("ci:box"), nil, []string{"h2", "9p"}, ""},
		{"a name by a pattern", leaf("ci:reader-7"), nil, []string{"9p"}, ""},
		{"SPIFFE", leaf("spiffe://example.org/ci/build/7"), nil, []string{"9p"}, ""},
		{"an intermediate CA", whole, nil, []string{"9p"}, ""},
		{"its certificate is left out", chained, nil, []string{"9p"}, "unknown certificate authority"},
		{"another CA of the same name", other.issue(nil, "ci:box"), nil, []string{"9p"}, "unknown certificate authority"},
		{"expired", changed(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), nil, []string{"9p"}, "expired certificate"},
		{"not yet valid", changed(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), nil, []string{"9p"}, "expired certificate"},
		{"for servers", changed(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), nil, []string{"9p"}, "bad certificate"},
		{"a CA's", changed(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), nil, []string{"9p"}, "bad certificate"},
		{"no URI", m.ca.issue(func(c *x509.Certificate) { c.Subject.CommonName = "ci:box"; c.DNSNames = []string{"box"} }), nil, []string{"9p"}, "bad certificate"},
		{"two URIs", leaf("ci:box", "ci:reader-1"), nil, []string{"9p"}, "bad certificate"},
		{"one URI twice", leaf("ci:box", "ci:box"), nil, []string{"9p"}, "bad certificate"},
		{"another URI beside it", leaf("https://example.org/", "ci:box"), nil, []string{"9p"}, "bad certificate"},
		{"a wildcard", leaf("ci:*"), nil, []string{"9p"}, "bad certificate"},
		{"a wildcard of a path", leaf("spiffe://example.org/ci/..."), nil, []string{"9p"}, "bad certificate"},
		{"a way up", leaf("spiffe://example.org/ci/x/../../y"), nil, []string{"9p"}, "bad certificate"},
		{"an escape", leaf("ci:b%6fx"), nil, []string{"9p"}, "bad certificate"},
		{"another scheme", leaf("https://example.org/ci/x"), nil, []string{"9p"}, "bad certificate"},
		{"another trust domain", leaf("spiffe://example.com/ci/x"), nil, []string{"9p"}, "bad certificate"},
		{"a user in it", leaf("spiffe://ci@example.org/ci/x"), nil, []string{"9p"}, "bad certificate"},
		{"no line", leaf("ci:boxes"), nil, []string{"9p"}, "bad certificate"},
		{"letters of another case", leaf("ci:BOX"), nil, []string{"9p"}, "bad certificate"},
		{"a line that has expired", leaf("ci:old"), nil, []string{"9p"}, "bad certificate"},
		{"a line that cannot be read, before one that can", leaf("ci:slip"), nil, []string{"9p"}, "bad certificate"},
		{"a line of keys", leaf("ci:ca"), nil, []string{"9p"}, "bad certificate"},
		{"no certificate", tls.Certificate{}, nil, []string{"9p"}, "certificate required"},
		{"TLS 1.2", leaf("ci:box"), func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, []string{"9p"}, "protocol version not supported"},
		{"another protocol", leaf("ci:box"), nil, []string{"h2"}, "no application protocol"},
		{"a protocol that only begins so", leaf("ci:box"), nil, []string{"9p-exporter"}, "no application protocol"},
	} {
		tc, err := m.connect(test.cert, test.change, test.protos...)
		if err == nil {
			_, err = ninep.Import(t.Context(), tc, ninep.ImportOptions{})
		}
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %v, want %q", test.name, err, test.err)
		}
	}
}

// What a line grants holds as a key's: foreign namespaces are not found, whether they
// are there or not, and a reader exports nothing.
func TestTLSRights(t *testing.T) {
	m := startTLS(t, "namespace=\"github.com/alice/*\",read ci:reader\nnamespace=\""+hello+"\" ci:box\n")
	k, _ := m.key("", "bob@box")
	m.exportTo(k, "b", "github.com/bob/secret")
	m.exportTo(k, "a", hello)
	reader := m.ca.issue(nil, "ci:reader")
	for _, ns := range []string{"github.com/bob/secret", "github.com/bob/none"} {
		if _, err := m.attach(reader, ns); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("attach to %s: %v, want not found", ns, err)
		}
	}
	root, err := m.attach(reader, hello)
	if err != nil {
		t.Fatal(err)
	}
	read(t, root, "n/a/index")
	if got, err := m.attach(reader, ""); err != nil || strings.Contains(read(t, got, "status"), "bob") {
		t.Errorf("the root's status tells of a foreign namespace: %v", err)
	}
	conn := m.open(reader, newSigner(t))
	var refused *dial.RefusedError
	if err := conn.Export(t.Context(), dial.Announce{Name: "x", Namespaces: []string{hello}}, nil); !errors.As(err, &refused) || !refused.Forbidden() {
		t.Errorf("a reader exports: %v", err)
	}
	if _, _, err := conn.Find(t.Context(), "github.com/bob/secret", []byte("commit="+testCommit), 0); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("find in a foreign namespace: %v, want not found", err)
	}
	if _, err := conn.Door(t.Context(), hello, "a"); err == nil || !strings.Contains(err.Error(), "relays") {
		t.Errorf("Door: %v, want that there is none", err)
	}
}

// An executor with a certificate announces, proves its key, has intents, and takes
// commands from its own identity and from the holder of its key, and from no other.
func TestTLSExecutor(t *testing.T) {
	m := startTLS(t, "namespace=\""+hello+"\" ci:box\nnamespace=\""+hello+"\" ci:box2\n")
	key, _ := m.key(`namespace="`+hello+`"`, "alice@laptop")
	stranger, _ := m.key(`namespace="`+hello+`"`, "bob@laptop")
	cert := m.ca.issue(nil, "ci:box")
	conn := m.open(cert, key)
	rwc, err := conn.Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cl, err := ninep.Import(t.Context(), rwc, ninep.ImportOptions{Aname: hello})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	tree := newTestTree()
	tree.add(askedRun, testCommit, "test")
	ev := watchEvents(t, cl.Root())
	m.export(conn, dial.Announce{Name: "box.1", Namespaces: []string{hello}}, ctlTree(tree.root()))
	ev.await("/n/box.1/ci/"+askedRun, "test")

	answer, release, err := conn.Find(t.Context(), hello, []byte(string(testKey(testCommit).Text())+"intent="+askedRun+"\n"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if want := "/n/box.1/ci/" + askedRun + " test 41.250 - " + ssh.FingerprintSHA256(key.PublicKey()) + " -\n"; string(answer) != want {
		t.Errorf("find = %q, want %q", answer, want)
	}
	attached := func(cert tls.Certificate) fs.Dir {
		root, err := m.attach(cert, hello)
		if err != nil {
			t.Fatal(err)
		}
		return root
	}
	for _, test := range []struct {
		name string
		root fs.Dir
		ctl  bool
	}{
		{"the same connection", cl.Root(), true},
		{"another certificate of the identity", attached(m.ca.issue(nil, "ci:box")), true},
		{"the holder of the key, by SSH", m.tree(m.dial(key), hello), true},
		{"another identity", attached(m.ca.issue(nil, "ci:box2")), false},
		{"another key", m.tree(m.dial(stranger), hello), false},
	} {
		if got := read(t, test.root, "n/box.1/ci/"+askedRun+"/stdout"); got != "ok "+askedRun+"\n" {
			t.Errorf("%s: stdout %q", test.name, got)
		}
		n, err := fs.Walk(t.Context(), test.root, "n/box.1/ctl")
		if test.ctl {
			var f fs.File
			if err == nil {
				f, err = n.Open(t.Context(), fs.OpenRead|fs.OpenWrite)
			}
			if err != nil {
				t.Errorf("%s: ctl: %v", test.name, err)
				continue
			}
			f.Close()
		} else if !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("%s: ctl is %v, %v, want not found", test.name, n, err)
		}
	}
	// The name is the identity's: another one does not get it.
	var refused *dial.RefusedError
	thief := m.open(m.ca.issue(nil, "ci:box2"), stranger)
	if err := thief.Export(t.Context(), dial.Announce{Name: "box.1", Namespaces: []string{hello}}, nil); !errors.As(err, &refused) {
		t.Errorf("another identity exports under the name: %v", err)
	}
	w := watchEvents(t, attached(cert))
	w.await("/n/box.1/ci/"+askedRun, "test")
	conn.Close()
	w.await("/n/box.1", "leave")
}

// A second executor of a name and an identity gets a number over TLS too, and the first
// is told. The second comes by a proxy command, whose failure is told.
func TestTLSSecond(t *testing.T) {
	t.Setenv("SHELL", "/bin/sh")
	m := startTLS(t, "namespace=\""+hello+"\" ci:box\n")
	key, _ := m.key("", "")
	cert := m.ca.issue(nil, "ci:box")
	files := dial.TLSFiles{CA: filepath.Join(m.dir, "tls-ca.pem")}
	files.Cert, files.Key = writePair(t, t.TempDir(), "client", cert)
	proxied := func(proxy string) *dial.Conn {
		t.Helper()
		c, err := dial.Open("tls://"+m.tls, dial.Options{Key: key, TLS: files, Proxy: proxy})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	told := make(chan string, 1)
	first, second := newTestTree(), newTestTree()
	m.export(m.open(cert, key), dial.Announce{Name: "box", Namespaces: []string{hello}, Second: func(shown string) { told <- shown }}, first.root())
	named := make(chan string, 1)
	m.export(proxied("socat - TCP:%h:%p"), dial.Announce{Name: "box", Namespaces: []string{hello}, Named: func(shown string) { named <- shown }}, second.root())
	if got := <-named; got != "box+2" {
		t.Errorf("the second is %s, want box+2", got)
	}
	if got := <-told; got != "box+2" {
		t.Errorf("the first is told of %s, want box+2", got)
	}
	if err := proxied("false").Connect(t.Context()); err == nil || !strings.Contains(err.Error(), "the proxy command failed: exit status 1") {
		t.Errorf("a proxy that fails: %v", err)
	}
}

// A stock 9P server exports itself by the protocol 9p-export, under the last element
// of its identity or the name that the protocol has, and is gone with its connection.
func TestTLSStockExport(t *testing.T) {
	m := startTLS(t, "namespace=\""+hello+"\" ci:pool/box\nspiffe://example.org/wide\n")
	k, _ := m.key(`namespace="`+hello+`"`, "alice@laptop")
	root := m.tree(m.dial(k), hello)
	ev := watchEvents(t, root)
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	for _, test := range []struct{ uri, proto, name string }{
		{"ci:pool/box", "9p-export", "box"},
		{"spiffe://example.org/wide", "9p-export/" + hello, "wide"},
		{"spiffe://example.org/wide", "9p-export/" + hello + "/n/other", "other"},
	} {
		tc, err := m.connect(m.ca.issue(nil, test.uri), nil, test.proto)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			srv := ninep.Server{Attach: func(context.Context, string, string) (fs.Dir, error) { return tree.root(), nil }}
			srv.Serve(t.Context(), tc)
		}()
		ev.await("/n/" + test.name + "/ci/3f2a9c1d0b7e.1 ")
		if got := read(t, root, "n/"+test.name+"/ci/3f2a9c1d0b7e.1/stdout"); got != "ok 3f2a9c1d0b7e.1\n" {
			t.Errorf("%s: stdout %q", test.proto, got)
		}
		tc.Close()
		<-done
		ev.await("/n/"+test.name+" ", "leave")
	}
	// Without a namespace, or in one of others, the server is hung up on.
	for uri, proto := range map[string]string{"spiffe://example.org/wide": "9p-export", "ci:pool/box": "9p-export/github.com/bob/x"} {
		tc, err := m.connect(m.ca.issue(nil, uri), nil, proto)
		if err != nil {
			t.Fatal(err)
		}
		srv := ninep.Server{Attach: func(context.Context, string, string) (fs.Dir, error) { return tree.root(), nil }}
		srv.Serve(t.Context(), tc) // until the orchestrator hangs up
	}
}

// A certificate that is revoked does not enter, and ends the connection that it made
// at its next channel; a list that cannot be read changes nothing.
func TestTLSRevoked(t *testing.T) {
	m := startTLS(t, "ci:box\n")
	list := filepath.Join(m.dir, "tls-crl.pem")
	revoke := func(by *testCA, of ...tls.Certificate) {
		r := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Second)}
		for _, c := range of {
			r.RevokedCertificateEntries = append(r.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.Leaf.SerialNumber, RevocationTime: time.Now()})
		}
		der, err := x509.CreateRevocationList(rand.Reader, r, by.cert, by.key)
		if err != nil {
			t.Fatal(err)
		}
		os.WriteFile(list, pemOf("X509 CRL", der), 0o600)
	}
	bad, good := m.ca.issue(nil, "ci:box"), m.ca.issue(nil, "ci:box")
	conn := m.open(bad, nil)
	if _, err := conn.Import(t.Context()); err != nil {
		t.Fatal(err)
	}
	revoke(newTestCA(t, "ci"), good) // another CA of the same name: it is not that one's
	if _, err := m.attach(good, ""); err != nil {
		t.Errorf("a list of another key: %v", err)
	}
	revoke(m.ca, bad)
	if _, err := m.attach(bad, ""); err == nil {
		t.Error("a certificate that is revoked enters")
	}
	if _, err := m.attach(good, ""); err != nil {
		t.Errorf("a certificate that is not revoked: %v", err)
	}
	if _, err := conn.Import(t.Context()); err == nil {
		t.Error("the connection of a revoked certificate opens a channel")
	}
	if _, err := m.open(bad, nil).Import(t.Context()); !errors.Is(err, dial.ErrCertificate) || !strings.Contains(err.Error(), "ci:box, is revoked") {
		t.Errorf("Import = %v, want ErrCertificate", err)
	}
	for _, text := range []string{"-----BEGIN X509 CRL-----\nAA\n", ""} {
		os.WriteFile(list, []byte(text), 0o600)
		_, err := m.attach(bad, "")
		if text != "" && err == nil {
			t.Error("a list that cannot be read lets in what is revoked")
		} else if text == "" && err != nil {
			t.Errorf("an empty list: %v", err)
		}
	}
	// The CAs and lines are read again too, and what was last good stands.
	os.WriteFile(filepath.Join(m.dir, "tls-ca.pem"), []byte("nonsense"), 0o600)
	if _, err := m.attach(good, ""); err != nil {
		t.Errorf("CAs that cannot be read: %v", err)
	}
	other := newTestCA(t, "other")
	os.WriteFile(filepath.Join(m.dir, "tls-ca.pem"), pemOf("CERTIFICATE", other.cert.Raw), 0o600)
	if _, err := m.attach(good, ""); err == nil {
		t.Error("a CA that is gone lets in")
	}
	if _, err := m.attach(other.issue(nil, "ci:box"), ""); err != nil {
		t.Errorf("a new CA: %v", err)
	}
	os.Remove(filepath.Join(m.dir, "authorized_tls"))
	if _, err := m.attach(other.issue(nil, "ci:box"), ""); err != nil {
		t.Errorf("lines that are gone: %v", err)
	}
	os.WriteFile(filepath.Join(m.dir, "authorized_tls"), nil, 0o600)
	if _, err := m.attach(other.issue(nil, "ci:box"), ""); err == nil {
		t.Error("a CA without a line lets in")
	}
}

// The audit has the logins by TLS and those that are refused, a line's addresses count,
// and a connection ends soon after an edit though its client does nothing. An
// orchestrator that is stopping opens no channel.
func TestTLSAsKeys(t *testing.T) {
	book := newLogbook(t)
	m := startTLSOf(t, "from=\"127.0.0.0/8\" ci:box\nfrom=\"203.0.113.1\" ci:far\nci:own\n", Options{Log: book.logger()})
	box, own := m.ca.issue(nil, "ci:box"), m.ca.issue(nil, "ci:own")
	enter := func(cert tls.Certificate) (*ninep.Client, error) {
		tc, err := m.connect(cert, nil, "9p")
		if err != nil {
			return nil, err
		}
		return ninep.Import(t.Context(), tc, ninep.ImportOptions{})
	}
	c, err := enter(box)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	book.await("msg=login", "key=ci:box", "alpn=9p", "addr=127.0.0.1:")
	for uri, why := range map[string]string{"ci:far": "does not let it in from 127.0.0.1", "ci:nobody": "no line of authorized_tls"} {
		if _, err := enter(m.ca.issue(nil, uri)); err == nil {
			t.Errorf("%s enters", uri)
		}
		book.await("msg=refuse", "key="+uri, "what=login", why)
	}
	ours := m.open(own, newSigner(t))
	if _, err := ours.Import(t.Context()); err != nil {
		t.Fatal(err)
	}
	book.await("msg=login", "key=ci:own", "alpn=9ci")

	os.WriteFile(filepath.Join(m.dir, "authorized_tls"), []byte("ci:own\n"), 0o600)
	<-c.Done()
	book.await("msg=refuse", "key=ci:box", "what=login", "no line of authorized_tls")

	if left := m.s.Drain(t.Context()); left != 0 {
		t.Errorf("%d transfers are left", left)
	}
	if _, err := ours.Import(t.Context()); !errors.Is(err, fs.ErrBusy) {
		t.Errorf("Import = %v, want busy", err)
	}
	if found, _ := book.lines("msg=refuse", "key=ci:own", "what=login"); len(found) > 0 {
		t.Errorf("the other connection is ended too: %s", found)
	}
}

// A connection ends when its certificate does, and a client that stalls in the
// handshake is put out.
func TestTLSEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "state")
		ca := makeTLS(t, dir, "ci:box\n")
		s, err := New(dir, Options{TLS: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		l := newMemListener()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.ServeTLS(ctx, l)
		}()
		began := time.Now()
		silent := l.dialFrom("198.51.100.1")
		io.ReadAll(silent)
		if d := time.Since(began); d != door.LoginGrace {
			t.Errorf("a silent client is put out after %v, want %v", d, door.LoginGrace)
		}
		synctest.Wait()
		if n := s.sources.HalfOpen(); n != 0 {
			t.Errorf("%d half-open connections are left", n)
		}
		end := time.Now().Add(30 * time.Second).Truncate(time.Second)
		cert := ca.issue(func(c *x509.Certificate) { c.NotAfter = end }, "ci:box")
		tc := tls.Client(l.dialFrom("198.51.100.2"), &tls.Config{RootCAs: ca.pool(), ServerName: "127.0.0.1", NextProtos: []string{"9p"}, Certificates: []tls.Certificate{cert}})
		c, err := ninep.Import(t.Context(), tc, ninep.ImportOptions{})
		if err != nil {
			t.Fatal(err)
		}
		read(t, c.Root(), "status")
		<-c.Done()
		if now := time.Now(); !now.Equal(end) {
			t.Errorf("the connection ends at %v, its certificate at %v", now, end)
		}
		c.Close()
		cancel()
		<-done
	})
}

// A connection that is 9P over TLS is a transfer while bytes pass on it, or wait for its
// client, and they are counted.
func TestTLSDrain(t *testing.T) {
	for _, stalls := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			ca := makeTLS(t, dir, "ci:box\n")
			s, err := New(dir, Options{TLS: true})
			if err != nil {
				t.Fatal(err)
			}
			near, far := net.Pipe() // whose writes wait for reads
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan struct{})
			go func() {
				defer close(served)
				s.ServeTLS(ctx, &oneListener{conn: far, closed: make(chan struct{})})
			}()
			tc := tls.Client(near, &tls.Config{RootCAs: ca.pool(), ServerName: "127.0.0.1", NextProtos: []string{"9p"}, Certificates: []tls.Certificate{ca.issue(nil, "ci:box")}})
			if err := tc.Handshake(); err != nil {
				t.Fatal(err)
			}
			if stalls {
				tc.Write([]byte("\x13\x00\x00\x00\x64\xff\xff\x00\x20\x00\x00\x06\x009P2000")) // a Tversion
			} else {
				c, err := ninep.Import(t.Context(), tc, ninep.ImportOptions{})
				if err != nil {
					t.Fatal(err)
				}
				read(t, c.Root(), "status")
				defer c.Close()
			}
			synctest.Wait()
			began := time.Now()
			drain, stop := context.WithTimeout(t.Context(), drainFor)
			defer stop()
			left, took := s.Drain(drain), time.Since(began)
			if stalls && (left != 1 || took != drainFor) || !stalls && (left != 0 || took < quiet || took > quiet+2*drainTick) {
				t.Errorf("stalls %t: Drain left %d transfers after %v", stalls, left, took)
			}
			if _, text := get(t, s.Handler(), "/metrics"); strings.Contains(text, `{direction="in",peer="client"} 0`) {
				t.Error("no bytes are counted")
			}
			near.Close()
			cancel()
			<-served
			if n := len(s.live.transfers()); n != 0 {
				t.Errorf("%d transfers are left at the end", n)
			}
		})
	}
}

// A oneListener has one connection.
type oneListener struct {
	conn        net.Conn
	closed      chan struct{}
	once, close sync.Once
}

func (l *oneListener) Accept() (c net.Conn, err error) {
	l.once.Do(func() { c = l.conn })
	if c == nil {
		<-l.closed
		err = net.ErrClosed
	}
	return c, err
}

func (l *oneListener) Addr() net.Addr { return l.conn.LocalAddr() }

func (l *oneListener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

// Stock openssl speaks 9P over TLS: the answer to a Tversion is an Rversion.
func TestTLSOpenssl(t *testing.T) {
	m := startTLS(t, "ci:box\n")
	cert, key := writePair(t, t.TempDir(), "client", m.ca.issue(nil, "ci:box"))
	cmd := exec.CommandContext(t.Context(), "openssl", "s_client", "-quiet", "-verify_return_error", "-connect", m.tls, "-alpn", "9p",
		"-CAfile", filepath.Join(m.dir, "tls-ca.pem"), "-cert", cert, "-key", key)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	const version = "\x13\x00\x00\x00\x64\xff\xff\x00\x20\x00\x00\x06\x009P2000"
	io.WriteString(in, version)
	got := make([]byte, len(version))
	if _, err := io.ReadFull(out, got); err != nil || string(got) != strings.Replace(version, "\x64", "\x65", 1) {
		t.Errorf("Rversion = %q, %v; %s", got, err, stderr.String())
	}
	in.Close()
	cmd.Process.Kill()
	cmd.Wait()
}

// What New says about files that are not there makes them, as it stands.
func TestTLSFirstStart(t *testing.T) {
	dir := t.TempDir()
	work := t.TempDir()
	for range 2 { // the CA, then the server's certificate and key
		_, err := New(dir, Options{TLS: true})
		if err == nil {
			t.Fatal("New without the files reports no error")
		}
		_, command, ok := strings.Cut(err.Error(), "or make one: ")
		if !ok {
			t.Fatalf("New = %v, want a command", err)
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Dir = work
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	if _, err := New(dir, Options{TLS: true}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"tls.crt": "", "tls.key": "", "tls-ca.pem": "", "tls-crl.pem": "x-----BEGIN"} {
		path := filepath.Join(dir, name)
		good, _ := os.ReadFile(path)
		os.WriteFile(path, []byte(text), 0o600)
		if _, err := New(dir, Options{TLS: true}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("New with a bad %s: %v", name, err)
		}
		if os.WriteFile(path, good, 0o600); good == nil {
			os.Remove(path)
		}
	}
}
