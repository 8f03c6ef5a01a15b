package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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
	code, err := serveUntil(t.Context(), listeners, &ninep.Server{Root: fs.NewDir("/")}, false, nil)
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
	dir := filepath.Join(t.TempDir(), "n[s") // no pattern
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
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
		l, err := post(nil)
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

// A server that is stopped keeps its socket, and the kernel accepts for it: it is waited for
// no longer than answerTime, and the sockets after it answer.
func TestSilent(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("NAMESPACE", dir)
	t.Chdir(t.TempDir())
	defer func(d time.Duration) { answerTime = d }(answerTime)
	answerTime = 100 * time.Millisecond
	silent, err := net.Listen("unix", filepath.Join(dir, "9ci"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if d, err := findDaemon(t.Context()); d != nil || err != nil {
		t.Errorf("findDaemon = %v, %v, want none", d, err)
	}
	if _, err := (search{roots: true}).places(t.Context()); !errors.Is(err, errSilent) || !strings.Contains(err.Error(), "ss -xlp src "+filepath.Join(dir, "9ci")) {
		t.Errorf("places: %v, want the silent one's name", err)
	}

	// One answers the attach and nothing after it, as a tree whose files block.
	half, err := ninep.Listen("unix!" + filepath.Join(dir, "9ci.1"))
	if err != nil {
		t.Fatal(err)
	}
	defer serveTree(t.Context(), []net.Listener{half}, &ninep.Server{Root: fs.SynthDir{
		Describe: func() (fs.Stat, error) { return fs.DirStat("/", fs.RootQid, time.Now()), nil },
		List:     func(context.Context) ([]fs.Node, error) { return nil, nil },
		Find:     func(ctx context.Context, _ string) (fs.Node, error) { <-ctx.Done(); return nil, ctx.Err() },
	}}, false, func(error) {})()
	if d, err := findDaemon(t.Context()); d != nil || err != nil {
		t.Errorf("findDaemon = %v, %v, want none", d, err)
	}

	answerTime = time.Minute
	silent.Close()
	l, err := post(nil)
	if err != nil {
		t.Fatal(err)
	}
	root := fs.NewDir("/", fs.TextFile("status", func(context.Context) ([]byte, error) { return []byte("mode=daemon\n"), nil }))
	defer serveTree(t.Context(), []net.Listener{l}, &ninep.Server{Root: root}, false, func(error) {})()
	places, err := search{roots: true}.places(t.Context())
	if err != nil || len(places) != 2 {
		t.Errorf("places = %v, %v, want two", places, err)
	}
	for _, p := range places {
		p.close()
	}
}

// Of daemons that are started together one serves.
func TestListenTogether(t *testing.T) {
	for range 10 {
		dir := t.TempDir()
		t.Setenv("NAMESPACE", dir)
		root := fs.NewDir("/", fs.TextFile("status", func(context.Context) ([]byte, error) { return []byte("mode=daemon\n"), nil }),
			fs.CtlFile("ctl", "", func(context.Context, string) (string, error) { return "", nil }))
		ctx, cancel := context.WithCancel(t.Context())
		var serving, starting sync.WaitGroup
		errs := make(chan error, 2)
		for range cap(errs) {
			starting.Go(func() {
				listeners, err := listen(ctx, nil)
				if err == nil {
					serving.Go(func() { serveUntil(ctx, listeners, &ninep.Server{Root: root}, false, nil) })
				}
				errs <- err
			})
		}
		starting.Wait()
		cancel()
		serving.Wait()
		close(errs)
		refused := 0
		for err := range errs {
			if err != nil && strings.HasPrefix(err.Error(), "a daemon answers at unix!"+dir+"/9ci") {
				refused++
			} else if err != nil {
				t.Error(err)
			}
		}
		if refused != 1 {
			t.Errorf("%d of two were refused, want one", refused)
		}
	}
}
