package cmd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"9ci/vm"
)

// This project passes under 9ci, by its own mkfile.
func TestSelf(t *testing.T) {
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	img, err := vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: filepath.Join(cache, "9ci"), Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	asked := []string{"run", "-x", "-v", "HEAD", "test", "TIMEOUT=2h"}
	if fast, why := vm.ProbeKVM(t.Context(), vm.Config{Image: img, Guest: filepath.Join(bin, "guest")}); !fast {
		if os.Getenv("CHECK") == "" {
			t.Skip("takes half an hour without KVM, so that mk check plays it: " + why)
		}
		asked = append(asked, "PKG=./mk ./fs/...") // to build the rest takes hours there
	}
	dir := t.TempDir()
	repository, namespace := filepath.Join(dir, "repo"), filepath.Join(dir, "ns")
	if out, err := exec.Command("git", "clone", "-q", "..", repository).CombinedOutput(); err != nil {
		t.Fatalf("git clone: %v\n%s", err, out)
	}
	if err := os.Mkdir(namespace, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "9ci"), asked...)
	cmd.Dir = repository
	cmd.Env = append(os.Environ(), "HOME="+dir, "NAMESPACE="+namespace, "XDG_CACHE_HOME="+cache,
		"XDG_STATE_HOME="+filepath.Join(dir, "state"), "XDG_CONFIG_HOME="+filepath.Join(dir, "config"),
		"CI_MEMORY=4G", "CI_TIMEOUT=4h")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("9ci: %v\n%s", err, out)
	}
}
