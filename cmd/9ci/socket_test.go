package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"9ci/fs"
	"9ci/proto/ninep"
)

// A listener that accepts no more connections ends what serves, with an error
// that names its address, and the other listeners with it.
func TestListenerLost(t *testing.T) {
	var listeners []net.Listener
	for _, addr := range []string{"unix!" + filepath.Join(t.TempDir(), "9ci"), "tcp!127.0.0.1!0"} {
		l, err := ninep.Listen(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		listeners = append(listeners, l)
	}
	listeners[1].Close()
	code, err := serveUntil(t.Context(), listeners, &ninep.Server{Root: fs.NewDir("/")}, false)
	if code != exitError || err == nil || !strings.HasPrefix(err.Error(), "tcp!127.0.0.1!") {
		t.Errorf("serveUntil = %d, %v, want 125 and the lost address", code, err)
	}
	if c, err := net.Dial("unix", listeners[0].Addr().String()); err == nil {
		c.Close()
		t.Error("the other listener is still there")
	}
}
