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

// BenchmarkMux compares a server through the mux with the same one through a relay
// that only copies: what no process between can do without. The mux should keep
// 0.95 of its speed.
func BenchmarkMux(b *testing.B) {
	dir := load.Dir(b)
	start := func(name, env string, base ...string) load.Peer {
		p := load.Peer{Name: name, Sock: filepath.Join(b.TempDir(), "sock"), Base: base}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "MUX_BENCH_SERVER="+p.Sock, env)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		p.Process = cmd.Process.Pid
		return p
	}
	server := start("server", "MUX_BENCH_DIR="+dir)
	load.Compare(b, start("mux", "MUX_BENCH_BACKEND="+server.Sock, "a"), start("relay", "MUX_BENCH_RELAY="+server.Sock))
}
