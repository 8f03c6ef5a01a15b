package config

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const aToken = "9ci_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"

// A token comes from the environment or ~/.config/9ci/env, never from a .env, and has
// a form only where it is used.
func TestToken(t *testing.T) {
	d := newDesk(t)
	url := "ssh://ci.example.org"
	t.Setenv("CI_ORCHESTRATOR", url)
	own := filepath.Join(d.home, ".config/9ci/env")
	d.own("CI_TOKEN=" + aToken + "\n")
	if c := d.load(1, own+" has a token, and others can read it: chmod 600 "+own); c.Token != aToken {
		t.Errorf("of ~/.config/9ci/env: %q", c.Token)
	}
	if err := os.Chmod(own, 0o600); err != nil {
		t.Fatal(err)
	}
	if c := d.load(0); c.Token != aToken {
		t.Errorf("of ~/.config/9ci/env: %q", c.Token)
	}
	other := strings.ToUpper(aToken[:4]) + aToken[4:]
	d.env("CI_TOKEN=" + other + "\n")
	if c := d.load(1, ".env: ignored CI_TOKEN: only the environment and ~/.config/9ci/env set that"); c.Token != aToken {
		t.Errorf("with a .env: %q", c.Token)
	}
	d.git("add", ".env")
	c := d.load(2, ".env:1: git tracks CI_TOKEN, so all that have the repository have it: have it revoked", ".env: ignored CI_TOKEN: a .env that git tracks sets")
	if c.Token != aToken || strings.Contains(strings.Join(c.Warnings, ""), other[4:]) {
		t.Errorf("with a tracked .env: %q, %q", c.Token, c.Warnings)
	}
	d.git("rm", "-q", "-f", ".env")
	if err := os.Remove(own); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"hunter2hunter2", aToken + "x", other} {
		t.Setenv("CI_TOKEN", bad)
		if _, err := Load(t.Context(), d.rp, nil); err == nil || !strings.HasPrefix(err.Error(), "CI_TOKEN: it is no token of a repository, ") || strings.Contains(err.Error(), bad[4:]) {
			t.Errorf("CI_TOKEN=%s: %v", bad, err)
		}
	}
	// That of another program is none of ours.
	os.Unsetenv("CI_ORCHESTRATOR")
	if c := d.load(0); c.Token != "" {
		t.Errorf("without an orchestrator: %q", c.Token)
	}
	t.Setenv("CI_ORCHESTRATOR", "tls://ci.example.org:1")
	if c := d.load(1, "CI_TOKEN is not used: at tls:// a certificate logs in, of CI_TLS_CERT"); c.Token != "" {
		t.Errorf("at tls://: %q", c.Token)
	}
	t.Setenv("CI_TOKEN", aToken)
	t.Setenv("CI_ORCHESTRATOR", url)
	for _, a := range d.load(0).Attrs() {
		if strings.Contains(a.Value, aToken) {
			t.Errorf("a daemon is told %s=%s", a.Name, a.Value)
		}
	}
}

// No token gets into a key, nor CI_TOKEN into a machine. A job's own may be a secret
// of its runs.
func TestLoginsKeptOut(t *testing.T) {
	d := newDesk(t)
	t.Setenv("CI_ORCHESTRATOR", "ssh://ci.example.org")
	t.Setenv("CI_TOKEN", aToken)
	t.Setenv("CI_JOB_TOKEN", "glcbt-hunter2")
	t.Setenv("GITHUB_TOKEN", "ghp_hunter3")
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "hunter2hunter2")
	t.Setenv("URL", "https://bob:glcbt-hunter2@example.org")
	t.Setenv("AUTH", "bearer "+aToken)
	for _, tt := range []struct{ env, secrets, err string }{
		{"CI_TOKEN", "", "CI_ENV names CI_TOKEN, which logs in at the orchestrator: no machine gets it"},
		{"", "CI_TOKEN", "CI_SECRETS names CI_TOKEN, which logs in at the orchestrator: no machine gets it"},
		{"CI_JOB_TOKEN", "", "CI_ENV names CI_JOB_TOKEN, a token, and would put it into the key: CI_SECRETS may name it"},
		{"GITHUB_TOKEN", "", "CI_ENV names GITHUB_TOKEN, a token"},
		{"ACTIONS_ID_TOKEN_REQUEST_TOKEN", "", "CI_ENV names ACTIONS_ID_TOKEN_REQUEST_TOKEN, a token"},
		{"URL", "", "CI_ENV names URL, whose value holds that of CI_JOB_TOKEN, and would put it into the key"},
		{"AUTH", "", "CI_ENV names AUTH, whose value holds that of CI_TOKEN, and would put it into the key"},
		{"", "CI_JOB_TOKEN URL", ""},
	} {
		t.Setenv("CI_ENV", tt.env)
		t.Setenv("CI_SECRETS", tt.secrets)
		c, err := Load(t.Context(), d.rp, nil)
		switch {
		case tt.err == "" && (err != nil || len(c.Secrets) != 2):
			t.Errorf("CI_ENV=%q CI_SECRETS=%q: %v", tt.env, tt.secrets, err)
		case tt.err != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.err) || strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), aToken)):
			t.Errorf("CI_ENV=%q CI_SECRETS=%q: %v, want %q", tt.env, tt.secrets, err, tt.err)
		}
	}
}

// What is withheld is not in the environment of programs, and is there for Load.
func TestWithhold(t *testing.T) {
	d := newDesk(t)
	t.Cleanup(func() { withheld.Clear() })
	t.Setenv("CI_ORCHESTRATOR", "ssh://ci.example.org")
	t.Setenv("CI_SECRETS", "CI_JOB_TOKEN")
	for _, name := range logins {
		t.Setenv(name, "hunter2hunter2")
	}
	t.Setenv("CI_TOKEN", aToken)
	Withhold()
	out, err := exec.CommandContext(t.Context(), "env").Output()
	if err != nil || strings.Contains(string(out), "hunter2") || strings.Contains(string(out), aToken) {
		t.Errorf("env: %v, %s", err, out)
	}
	if c := d.load(0); c.Token != aToken || len(c.Secrets) != 1 || c.Secrets[0] != "CI_JOB_TOKEN=hunter2hunter2" {
		t.Errorf("Load: %q, %q", c.Token, c.Secrets)
	}
	if got := Getenv("CI_ID_TOKEN"); got != "hunter2hunter2" {
		t.Errorf("Getenv(CI_ID_TOKEN) = %q", got)
	}
}
