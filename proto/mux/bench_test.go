package mux

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"9ci/fs"
	"9ci/proto/internal/load"
	"9ci/proto/internal/testtree"
	"9ci/proto/ninep"
)

// TestMain lets this binary be the processes of the benchmark: a server of
// MUX_BENCH_DIR, a relay to MUX_BENCH_RELAY, or a mux whose only backend is
// MUX_BENCH_BACKEND.
func TestMain(m *testing.M) {
	if addr := os.Getenv("MUX_BENCH_SERVER"); addr != "" {
		fmt.Fprintln(os.Stderr, benchServe(addr))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func benchServe(addr string) error {
	ctx := context.Background()
	l, err := ninep.Listen(addr)
	if err != nil {
		return err
	}
	if dir := os.Getenv("MUX_BENCH_DIR"); dir != "" {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return err
		}
		return (&ninep.Server{Root: fs.DiskDir(root, "/")}).ServeListener(ctx, l)
	}
	serve := relay
	if backend := os.Getenv("MUX_BENCH_BACKEND"); backend != "" {
		serve = benchMux(backend).Serve
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go serve(ctx, c)
	}
}

// relay only copies, as a mux would that need not look at anything.
func relay(ctx context.Context, c io.ReadWriteCloser) error {
	to, err := ninep.Dial(ctx, os.Getenv("MUX_BENCH_RELAY"))
	if err != nil {
		return err
	}
	go io.Copy(c, to)
	_, err = io.Copy(to, c)
	return err
}

func benchMux(addr string) *Server {
	backend := NewBackend(func(ctx context.Context, _ ninep.Dialect) (io.ReadWriteCloser, error) {
		return ninep.Dial(ctx, addr)
	}, "")
	local := testtree.NewDir("/", 1)
	local.Add(testtree.NewDir("a", 2))
	return &Server{
		Local: &ninep.Server{Root: local},
		Find: func(path []string) *Backend {
			if len(path) == 1 {
				return backend
			}
			return nil
		},
	}
}

// BenchmarkMux compares a server through the mux with the same one direct, and
// with a relay that only copies: what no process between can do without. The
// mux should keep 0.8 of direct at 32 in flight, 0.6 at one.
func BenchmarkMux(b *testing.B) {
	dir := load.Dir(b)
	start := func(b *testing.B, env string) (sock string, cmd *exec.Cmd) {
		sock = filepath.Join(b.TempDir(), "sock")
		cmd = exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "MUX_BENCH_SERVER="+sock, env)
		return sock, cmd
	}
	b.Run("direct", func(b *testing.B) {
		sock, cmd := start(b, "MUX_BENCH_DIR="+dir)
		load.Server(b, cmd, sock, "")
	})
	backend, server := start(b, "MUX_BENCH_DIR="+dir)
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { server.Process.Kill(); server.Wait() }()
	b.Run("relay", func(b *testing.B) {
		sock, cmd := start(b, "MUX_BENCH_RELAY="+backend)
		load.Server(b, cmd, sock, "")
	})
	b.Run("mux", func(b *testing.B) {
		sock, cmd := start(b, "MUX_BENCH_BACKEND="+backend)
		load.Server(b, cmd, sock, "", "a")
	})
}
