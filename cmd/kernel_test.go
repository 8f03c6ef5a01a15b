package cmd_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"9ci/cmd/internal/home"
	"9ci/vm"
)

// TestKernelClient runs TestLinux of proto/ninep in a machine, where the 9P client
// of the Linux kernel mounts what the test serves.
func TestKernelClient(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine")
	}
	dir := t.TempDir()
	build := exec.Command("go", "test", "-c", "-o", filepath.Join(dir, "ninep.test"), "9ci/proto/ninep")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	cache, err := home.Cache()
	if err != nil {
		t.Fatal(err)
	}
	image, err := vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: cache, Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	m, err := vm.Start(t.Context(), vm.Config{
		Image:  image,
		Guest:  filepath.Join(bin, "guest"),
		Mk:     filepath.Join(bin, "mk"),
		Memory: 1 << 30,
		CPUs:   1,
		Cache:  cache,
		Shares: []vm.Share{{Tag: "test", Dir: dir, Target: "/n/test"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	var out bytes.Buffer
	exit, err := m.Run(t.Context(), vm.Cmd{
		Args:   []string{"/n/test/ninep.test", "-test.run=^TestLinux$", "-test.v"},
		Env:    []string{"NINEP_LINUX=1"},
		Stdout: &out,
		Stderr: &out,
	})
	if err != nil || exit.Code != 0 || !bytes.Contains(out.Bytes(), []byte("--- PASS: TestLinux ")) {
		t.Errorf("TestLinux in the machine: %+v, %v\n%s", exit, err, &out)
	}
}
