package executor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// What a killed process left in TMPDIR goes, whatever the characters of its path mean in a
// pattern, and what one that lives has there stays.
func TestScratch(t *testing.T) {
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tmp", "t[x", "t?[a-z]*", `t\`} {
		dir := filepath.Join(t.TempDir(), name)
		left, lives := filepath.Join(dir, fmt.Sprintf("9ci-%d-1", dead.Process.Pid)), filepath.Join(dir, "9ci-1-1")
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(left, 0o700), os.Mkdir(lives, 0o700)); err != nil {
			t.Fatal(err)
		}
		t.Setenv("TMPDIR", dir)
		got, err := scratch()
		if err != nil || filepath.Dir(got) != dir {
			t.Errorf("%s: scratch = %q, %v", name, got, err)
		}
		if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: what was left is there: %v", name, err)
		}
		if _, err := os.Stat(lives); err != nil {
			t.Errorf("%s: what another process has: %v", name, err)
		}
	}
}
