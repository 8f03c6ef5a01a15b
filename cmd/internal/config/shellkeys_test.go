package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Keys get a shell that the user has listed, and a file that another may have written, or
// that says more than keys, lists nobody.
func TestShellKeys(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	dir := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "9ci")
	name := filepath.Join(dir, "shell_keys")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if keys, err := ShellKeys(); len(keys) != 0 || err != nil {
		t.Errorf("no file: %v, %v", keys, err)
	}
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ bob\n"
	for _, tt := range []struct {
		text string
		mode os.FileMode
		keys int
		err  string
	}{
		{"# mine\n\n" + key + key, 0o644, 2, ""},
		{key, 0o646, 0, "others can write it"},
		{key + "restrict " + key, 0o600, 0, "shell_keys:2: want a public key and no options"},
		{"cert-authority " + key, 0o600, 0, "no options"},
		{key + "ssh-ed25519 AAAA\n", 0o600, 0, "shell_keys:2"},
		{strings.Repeat("#\n", maxFile), 0o600, 0, "bytes"},
	} {
		os.Remove(name)
		if err := os.WriteFile(name, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		os.Chmod(name, tt.mode)
		keys, err := ShellKeys()
		if len(keys) != tt.keys || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%.60q, mode %o: %d keys, %v; want %d, %q", tt.text, tt.mode, len(keys), err, tt.keys, tt.err)
		}
	}
	other := filepath.Join(dir, "other")
	if err := os.Link(name, other); err != nil {
		t.Fatal(err)
	}
	if _, err := ShellKeys(); err == nil || !strings.Contains(err.Error(), "hard links") {
		t.Errorf("a file of two names: %v", err)
	}
	os.Remove(name)
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ShellKeys(); err == nil || !strings.Contains(err.Error(), "no plain file") {
		t.Errorf("a directory: %v", err)
	}
}
