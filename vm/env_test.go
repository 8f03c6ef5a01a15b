package vm_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The guest program hands a container variables that podman does not know of.
func TestGuestEnv(t *testing.T) {
	for _, tt := range []struct {
		vars string
		want string // of the program; else its error
		err  string
	}{
		{"A=two\nlines\x00B=\x00OLD=new\x00", "two\nlines||new|", ""},
		{"A='it''s'", "'it''s'|unset|old|", ""},
		{"no variable\x00", "", "want NAME=VALUE"},
		{"", "", "want NAME=VALUE"},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.WriteString(tt.vars)
		w.Close()
		cmd := exec.Command(programs.guest, "env", "sh", "-c", `printf '%s|' "$A" "${B-unset}" "$OLD"; test ! -e /proc/self/fd/3`)
		cmd.Env = append(os.Environ(), "OLD=old")
		cmd.ExtraFiles = []*os.File{r}
		out, err := cmd.Output()
		r.Close()
		var exit *exec.ExitError
		if tt.err != "" && errors.As(err, &exit) && strings.Contains(string(exit.Stderr), tt.err) {
			continue
		}
		if tt.err != "" || err != nil || string(out) != tt.want {
			t.Errorf("guest env with %q = %q, %v, want %q%s", tt.vars, out, err, tt.want, tt.err)
		}
	}
	if out, err := exec.Command(programs.guest, "env").CombinedOutput(); err == nil || !strings.Contains(string(out), "no program") {
		t.Errorf("guest env = %q, %v", out, err)
	}
}
