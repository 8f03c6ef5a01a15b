package ninep

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"9ci/fs"
	"9ci/proto/internal/load"
)

// TestMain lets this binary be a server of the benchmarks, so that it is a
// process of its own as diod is.
func TestMain(m *testing.M) {
	if addr := os.Getenv("NINEP_BENCH_SERVER"); addr != "" {
		l, err := Listen(addr)
		if err == nil {
			var root *os.Root
			if root, err = os.OpenRoot(os.Getenv("NINEP_BENCH_DIR")); err == nil {
				err = (&Server{Root: fs.DiskDir(root, "/")}).ServeListener(context.Background(), l)
			}
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// BenchmarkServers compares the core with diod over a Unix socket, with one
// load generator, in one run: go test -bench Servers.
func BenchmarkServers(b *testing.B) {
	dir := load.Dir(b)
	for _, server := range []struct {
		name  string
		cmd   func(sock string) *exec.Cmd
		aname string
	}{
		{"ninep", func(sock string) *exec.Cmd {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "NINEP_BENCH_SERVER="+sock, "NINEP_BENCH_DIR="+dir)
			return cmd
		}, ""},
		{"diod", func(sock string) *exec.Cmd {
			return exec.Command("diod", "-f", "-n", "-N", "-L", "stderr", "-c", "/dev/null", "-e", dir, "-l", sock)
		}, dir},
	} {
		b.Run(server.name, func(b *testing.B) {
			sock := filepath.Join(b.TempDir(), "sock")
			load.Server(b, server.cmd(sock), sock, server.aname)
		})
	}
}
