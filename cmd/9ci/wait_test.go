package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"9ci/fs"
	"9ci/proto/ninep"
)

// blocked is a file wait whose reads block until the connection ends.
type blocked struct{ reading chan struct{} }

func (blocked) Stat(context.Context) (fs.Stat, error) {
	return fs.FileStat("wait", fs.RootQid, 0, time.Time{}), nil
}
func (b blocked) Open(context.Context, fs.OpenMode) (fs.File, error) { return b, nil }
func (b blocked) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	close(b.reading)
	<-ctx.Done()
	return 0, context.Cause(ctx)
}
func (blocked) WriteAt(context.Context, []byte, int64) (int, error) { return 0, fs.ErrReadOnly }
func (blocked) Close() error                                        { return nil }

// If the link is lost, or what was read is no end of a run, the status is not the
// run's.
func TestWait(t *testing.T) {
	home := t.TempDir()
	t.Chdir(home)
	t.Setenv("HOME", home)
	t.Setenv("NAMESPACE", filepath.Join(home, "ns"))
	text := func(s string) fs.Node {
		return fs.TextFile("wait", func(context.Context) ([]byte, error) { return []byte(s), nil })
	}
	file := blocked{make(chan struct{})}
	ci := fs.NewDir("ci", fs.NewDir("lost", file), fs.NewDir("empty", text("")), fs.NewDir("going", text("test - 1.000 2026-11-24T21:04:05Z\n")),
		fs.NewDir("failed", text("failed 3 1.000 2026-11-24T21:04:05Z\n")), fs.NewDir("lies", text("failed 256 1.000 2026-11-24T21:04:05Z\n")))
	l, err := ninep.Listen("unix!" + filepath.Join(home, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	served := make(chan error, 1)
	go func() { served <- (&ninep.Server{Root: fs.NewDir("/", ci)}).ServeListener(ctx, l) }()
	wait := func(name string, code int, words string) {
		t.Helper()
		got, err := waitCommand(t.Context(), []string{"-a", "sock", name})
		said := ""
		if err != nil {
			said = err.Error()
		}
		if got != code || words == "" && err != nil || !strings.Contains(said, words) {
			t.Errorf("wait %s = %d, %v, want %d, %q", name, got, err, code, words)
		}
	}
	wait("failed", 3, "")
	wait("lies", 1, "")
	wait("empty", exitError, "how the run ended is not known")
	wait("going", exitError, "how the run ended is not known")
	wait("nosuch", exitError, "no run of nosuch")
	go func() {
		<-file.reading
		stop()
	}()
	wait("lost", exitError, "how the run ended is not known, and 9ci wait lost asks again")
	if err := <-served; err != nil {
		t.Error(err)
	}
	wait("failed", exitError, "nothing is served there")
}
