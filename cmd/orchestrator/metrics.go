package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"9ci/proto/ninep"
)

// listenLocal listens on an address of this machine alone: what is served there
// asks nobody for a key.
func listenLocal(addr string) (net.Listener, error) {
	l, err := ninep.Listen(addr)
	if err != nil {
		return nil, fmt.Errorf("-metrics: %w", err)
	}
	if err := checkLocal(l); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// checkLocal returns an error unless l is a Unix socket or listens on loopback.
func checkLocal(l net.Listener) error {
	if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
		return fmt.Errorf("metrics: %s is not an address of this machine alone, and anybody could read them there: listen on tcp!127.0.0.1!%d, or a Unix socket, and let a proxy that asks for a password pass them on", a, a.Port)
	}
	return nil
}

// serveHTTP serves h on l until ctx is done.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return ctx.Err()
}
