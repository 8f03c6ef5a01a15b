package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"9ci/fs"
	"9ci/orchestrator/internal/client"
	"9ci/orchestrator/internal/tlsmux"
	"9ci/orchestrator/internal/wire"
)

// TLSFiles are the files, in PEM, by which connections to tls:// are made. They are
// read for each connection, because certificates are renewed.
type TLSFiles struct {
	Cert string // the client's certificate, with intermediate ones
	Key  string // its private key; "": in Cert
	CA   string // the CAs of the orchestrator's certificate; "": the system's
}

// ErrCertificate is the error of a login with a TLS certificate that may not enter.
var ErrCertificate = errors.New("this certificate may not enter")

var errHungUpTLS = errors.New("it hung up: it has no TLS, or too many connections already")

// tlsTrips is how many round trips it takes until the server's greeting has come: two,
// as the greeting follows the client's Finished (RFC 8446 §2).
const tlsTrips = 2

// config returns the client's side of a handshake with a server of that name, and the
// client's identity.
func (f TLSFiles) config(server string) (*tls.Config, string, error) {
	if f.Cert == "" {
		return nil, "", errors.New("a certificate logs in at tls://, and none was given: CI_TLS_CERT and CI_TLS_KEY name its files")
	}
	key := f.Key
	if key == "" {
		key = f.Cert
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, key)
	if err != nil {
		return nil, "", fmt.Errorf("certificate %s, key %s: %w", f.Cert, key, err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, "", fmt.Errorf("certificate %s: %w", f.Cert, err)
	}
	identity, err := wire.Identity(leaf)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", f.Cert, err)
	}
	if end := leaf.NotAfter; time.Now().After(end) {
		return nil, "", fmt.Errorf("%w: %s, of %s, ended at %s: have it renewed", ErrCertificate, f.Cert, identity, end.UTC().Format(time.RFC3339))
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: server,
		NextProtos: []string{tlsmux.Proto},
		// The server's list of CAs is for those that have several certificates.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
	}
	if f.CA == "" {
		return c, identity, nil
	}
	text, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, "", fmt.Errorf("CAs of the orchestrator: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(text) {
		return nil, "", fmt.Errorf("CAs of the orchestrator: %s has no certificate in PEM", f.CA)
	}
	return c, identity, nil
}

// handshakeTLS is handshake over TLS.
func (c *Conn) handshakeTLS(ctx context.Context) (*client.Link, error) {
	host, _, err := net.SplitHostPort(c.addr)
	if err != nil {
		return nil, err
	}
	config, identity, err := c.opts.TLS.config(host)
	if err != nil {
		return nil, err
	}
	nc, err := c.transport(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	tc := tls.Client(nc, config)
	err = tc.HandshakeContext(ctx)
	var refusal string
	if err == nil {
		refusal, err = tlsmux.Greeted(tc) // or the server's alert
	}
	rtt := time.Since(began) / tlsTrips
	why, busy := strings.CutSuffix(refusal, ": "+fs.ErrBusy.Error())
	switch {
	case err != nil && ctx.Err() != nil:
		err = fmt.Errorf("the handshake took too long: %w", ctx.Err())
	case err != nil:
		err = c.tlsError(err, identity)
		if p, ok := nc.(*proxied); ok && errors.Is(err, errHungUpTLS) {
			err = p.failed(err)
		}
	case busy:
		err = fmt.Errorf("refused: %.200s: %w", why, fs.ErrBusy)
	case refusal != "":
		err = fmt.Errorf("refused: %.200q", refusal)
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	var link atomic.Pointer[client.Link]
	sc, chans, err := tlsmux.New(tc, false, func(name string, payload []byte) (bool, []byte) {
		if l := link.Load(); l != nil { // until then nothing is exported
			l.Request(name, payload)
		}
		return false, nil
	})
	if err != nil {
		nc.Close()
		return nil, err
	}
	if !stop() {
		sc.Close()
		for range chans {
		}
		return nil, ctx.Err()
	}
	signers, _ := c.signers()
	l := client.New(sc, nil, c.key(signers))
	l.Identity = identity
	l.Direct = c.opts.Direct
	l.RTT = rtt
	link.Store(l)
	c.wg.Go(func() { l.Serve(chans, nil) })
	return l, nil
}

// tlsError says of an error of a handshake what can be done.
func (c *Conn) tlsError(err error, identity string) error {
	var invalid *tls.CertificateVerificationError
	var alert *net.OpError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &invalid):
		return fmt.Errorf("the orchestrator's certificate: %w; CI_TLS_CA names the file of its CA", invalid.Err)
	case errors.As(err, &record):
		return fmt.Errorf("it speaks no TLS: %w", err)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%w: %w", errHungUpTLS, err)
	case !errors.As(err, &alert) || alert.Op != "remote error":
		return err
	}
	switch alert.Err.Error() { // the package does not export its alerts
	case "tls: bad certificate":
		return fmt.Errorf("%w: %s, of %s, is revoked, or no line of authorized_tls in the orchestrator's state directory is for it: its operator knows", ErrCertificate, c.opts.TLS.Cert, identity)
	case "tls: expired certificate":
		return fmt.Errorf("%w: %s, of %s, has expired, or is not valid yet: have it renewed", ErrCertificate, c.opts.TLS.Cert, identity)
	case "tls: unknown certificate authority":
		return fmt.Errorf("%w: %s is of a CA that is not in tls-ca.pem in the orchestrator's state directory", ErrCertificate, c.opts.TLS.Cert)
	case "tls: no application protocol":
		return fmt.Errorf("it is a TLS server, but no orchestrator: %w", err)
	}
	return err
}
