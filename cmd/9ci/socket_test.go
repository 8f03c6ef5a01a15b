package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// A process removes the sockets that killed processes have left, and no other file.
func TestPost(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("NAMESPACE", dir)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	stale := func(name string) {
		t.Helper()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	stale("9ci")
	stale(fmt.Sprintf("9ci.%d", dead.Process.Pid))
	stale("9ci.1")     // of a process that lives
	stale("9ci.notes") // of no process
	file := fmt.Sprintf("9ci.0%d", dead.Process.Pid)
	if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds the first
		l, err := post()
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	want := []string{"9ci", "9ci.1", "9ci.notes", file, fmt.Sprintf("9ci.%d", os.Getpid())}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("posted are %q, want %q", names, want)
	}
}
