package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// maxStreams is how many requests of HTTP/2 one connection has under way at most. A client that
// opens and resets streams without end (CVE-2023-44487) is hung up on by package http once
// four times as many wait.
const maxStreams = 100

// endTime is how long requests may go on once Serve is to end.
const endTime = 5 * time.Second

// Serve answers the requests that arrive on l until ctx is done, and lets those go on for
// a moment that are under way. It closes l. With config it speaks TLS. Without, l must be of
// this machine alone: a loopback address or a Unix socket, behind a proxy.
func (p *Page) Serve(ctx context.Context, l net.Listener, config *tls.Config) error {
	defer l.Close()
	if err := p.CheckListener(l, config != nil); err != nil {
		return err
	}
	srv := &http.Server{
		Handler:                      keeping(p),
		ConnContext:                  withConn,
		DisableGeneralOptionsHandler: true,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: 30 * time.Second, WriteByteTimeout: writeTime},
		ReadHeaderTimeout:            10 * time.Second,
		ReadTimeout:                  30 * time.Second,
		WriteTimeout:                 time.Minute,
		IdleTimeout:                  2 * time.Minute,
		MaxHeaderBytes:               16 << 10,
		BaseContext:                  func(net.Listener) context.Context { return context.WithValue(context.Background(), endingKey{}, ctx) },
		ErrorLog:                     slog.NewLogLogger(p.log.Handler(), slog.LevelDebug), // of each scanner's handshake
	}
	defer srv.Close() // last of all: when the listener has failed, connections are still open
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		srv.Shutdown(ctx)
		srv.Close()
	})
	defer func() {
		if !stop() {
			<-ended
		}
	}()
	l = newFairListener(l, p.limits.conns)
	var err error
	if config == nil {
		err = srv.Serve(l)
	} else {
		srv.TLSConfig = config.Clone()
		srv.TLSConfig.MinVersion = tls.VersionTLS12
		err = srv.ServeTLS(l, "", "")
	}
	if errors.Is(err, http.ErrServerClosed) {
		return ctx.Err()
	}
	return err
}

// Certificate returns what a TLS server needs that has the certificate which f returns for
// each connection.
func Certificate(f func() *tls.Certificate) *tls.Config {
	return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f(), nil }}
}

// CheckListener returns an error if Serve would refuse l: others than this machine could
// reach it without TLS, or it has TLS and the URL has not.
func (p *Page) CheckListener(l net.Listener, overTLS bool) error {
	a, ok := l.Addr().(*net.TCPAddr)
	switch {
	case overTLS && !p.secure():
		return fmt.Errorf("the page's URL is %s, and it is served by TLS: want -url https://HOST", p.url)
	case !overTLS && ok && !a.IP.IsLoopback():
		return fmt.Errorf("%s can be reached from other machines, and without TLS anybody on the way could log in as its visitors: put a certificate and its key in the files web.crt and web.key of the state directory, have one from a CA by -acme, or listen on tcp!127.0.0.1!%d behind a proxy that has them", a, a.Port)
	}
	return nil
}
