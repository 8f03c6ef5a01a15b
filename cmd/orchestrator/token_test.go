package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"9ci/orchestrator/access"
)

// do runs a command of the orchestrator's as a process of its own.
func do(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ORCHESTRATOR_TEST_ARGS="+strings.Join(args, " "))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// A token that is made beside an orchestrator lets a key in with stock ssh at once, is
// listed with its use, and once it is revoked, ends what the key has open.
func TestTokens(t *testing.T) {
	dir := t.TempDir()
	state, key := filepath.Join(dir, "state"), filepath.Join(dir, "key")
	_, addr := start(t, "-state", state, "-a", "tcp!127.0.0.1!0")
	_, port, _ := strings.Cut(addr, ":")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	host, err := os.ReadFile(filepath.Join(state, "ssh_host_ed25519_key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, append([]byte("[127.0.0.1]:"+port+" "), host...), 0o600); err != nil {
		t.Fatal(err)
	}
	ssh := func(args ...string) *exec.Cmd {
		return exec.Command("ssh", append([]string{"-F", "none", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=" + known, "-p", port}, args...)...)
	}

	out, errs, status := do(t, "token", "-state", state, "-read", "-expires", "90d", "-name", "cache", "github.com/alice/...")
	if status != 0 || errs != "" || !regexp.MustCompile(`^9ci_[A-Za-z0-9_-]{43}\n$`).MatchString(out) {
		t.Fatalf("token: %d %q %q", status, out, errs)
	}
	login := ssh("join@127.0.0.1", "login")
	login.Stdin = strings.NewReader(out)
	cert, err := login.Output()
	if err != nil {
		t.Fatalf("login: %v", err)
	}
	if err := os.WriteFile(key+"-cert.pub", cert, 0o600); err != nil {
		t.Fatal(err)
	}
	who, err := ssh("127.0.0.1", "whoami").Output()
	if err != nil || !strings.Contains(string(who), "rights=read\nnamespaces=github.com/alice/...\n") {
		t.Fatalf("whoami: %q, %v", who, err)
	}

	until := time.Now().Add(90 * 24 * time.Hour).UTC().Format(time.DateOnly)
	list, errs, status := do(t, "tokens", "-state", state)
	m := regexp.MustCompile(`^([0-9a-f]{12}) cache github.com/alice/... read 20\S+Z ` + until + `T\S+Z 20\S+Z\n$`).FindStringSubmatch(list)
	if status != 0 || errs != "" || m == nil {
		t.Fatalf("tokens: %d %q %q", status, list, errs)
	}
	words, _, status := do(t, "check", "-state", state)
	if want := "tokens:4: token " + m[1] + " cache: may read in github.com/alice/... until " + until; status != 0 || !strings.Contains(words, want) || !strings.Contains(words, ", last used at ") {
		t.Errorf("check: %d, no %q in %s", status, want, words)
	}

	open := ssh("-s", "127.0.0.1", "9p")
	in, _ := open.StdinPipe()
	defer in.Close()
	var why bytes.Buffer
	open.Stderr = &why
	if err := open.Start(); err != nil {
		t.Fatal(err)
	}
	done, errs, status := do(t, "revoke", "-state", state, "cache")
	if status != 0 || errs != "" || !regexp.MustCompile(`^token `+m[1]+` cache\ncertificate \d+ token:`+m[1]+` SHA256:\S+\n$`).MatchString(done) {
		t.Errorf("revoke: %d %q %q", status, done, errs)
	}
	if err := open.Wait(); err == nil {
		t.Error("what a revoked token has open ends well")
	}
	if out, _ := exec.Command("ssh-keygen", "-Q", "-f", filepath.Join(state, "revoked.krl"), key+"-cert.pub").CombinedOutput(); !strings.Contains(string(out), "REVOKED") {
		t.Errorf("ssh-keygen -Q: %s", out)
	}
	if list, _, _ := do(t, "tokens", "-state", state); list != "" {
		t.Errorf("tokens: %q", list)
	}
	if done, errs, status := do(t, "revoke", "-state", state, "cache"); status != 1 || done != "" || !strings.Contains(errs, `"cache" is no token's id or name`) || !strings.Contains(errs, "orchestrator tokens lists") {
		t.Errorf("revoke again: %d %q %q", status, done, errs)
	}
}

// Misuse of the commands for tokens is told, and makes nothing.
func TestTokenMisused(t *testing.T) {
	dir := t.TempDir()
	gone := filepath.Join(dir, "gone")
	for _, test := range []struct {
		args   string
		status int
		stderr string
	}{
		{"token -state " + dir, 2, "usage: orchestrator"},
		{"token -state " + dir + " github.com/a/b github.com/a/c", 2, "usage: orchestrator"},
		{"token -state " + dir + " -expires soon github.com/a/b", 2, "want a duration such as 12h or 90d, or a date"},
		{"token -state " + dir + " -expires 0 github.com/a/b", 2, "want a duration"},
		{"token -state " + dir + " -expires 2020-01-31 github.com/a/b", 1, "2020-01-31T00:00:00Z has passed"},
		{"token -state " + dir + " github.com/a", 1, "there can be no such namespace"},
		{"tokens -state " + dir + " x", 2, "usage: orchestrator"},
		{"tokens -state " + gone, 1, "there is no state in " + gone + ": say -state DIR"},
		{"revoke -state " + dir, 2, "revoke [-state DIR]"},
		{"revoke -state " + gone + " x", 1, "there is no state in " + gone},
		{"revoke -state " + dir + " x", 1, "nothing was revoked"},
	} {
		var out, errs bytes.Buffer
		status := run(t.Context(), t.Context(), strings.Fields(test.args), &out, &errs)
		if status != test.status || out.Len() > 0 || !strings.Contains(errs.String(), test.stderr) {
			t.Errorf("orchestrator %s: status %d, %q, %q; want %d, %q", test.args, status, &out, &errs, test.status, test.stderr)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "tokens")); err == nil {
		t.Error("a token was made")
	}
	// The directory need not be there: the orchestrator may be started later.
	var errs bytes.Buffer
	if status := run(t.Context(), t.Context(), []string{"token", "-state", gone, "github.com/a/b"}, io.Discard, &errs); status != 0 || !strings.Contains(errs.String(), "is started with -state "+gone) {
		t.Errorf("token without state: %d %s", status, &errs)
	}
}

// Many processes that make and revoke tokens at once, some of which are killed, leave
// each token that was printed in the file once, and no half of one.
func TestTokensAtOnce(t *testing.T) {
	state := t.TempDir()
	if _, err := access.NewToken(state, "github.com/a/first", "", false, time.Time{}); err != nil {
		t.Fatal(err)
	}
	const n = 24
	var wg sync.WaitGroup
	var mu sync.Mutex
	printed := map[string]bool{}
	for i := range n {
		wg.Go(func() {
			name := fmt.Sprintf("n%d", i)
			args := "token -state " + state + " -name " + name + " github.com/a/b"
			if i%8 == 7 {
				args = "revoke -state " + state + " github.com/a/first account:" + name
			}
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "ORCHESTRATOR_TEST_ARGS="+args)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Error(err)
				return
			}
			if err := cmd.Start(); err != nil {
				t.Error(err)
				return
			}
			ended := make(chan struct{})
			if i%4 == 1 {
				wg.Go(func() { // it is killed while some process writes the file
					for file := filepath.Join(state, ".tokens.new"); ; {
						select {
						case <-ended:
							return
						default:
						}
						if _, err := os.Stat(file); err == nil {
							cmd.Process.Kill()
							return
						}
					}
				})
			}
			b, _ := io.ReadAll(out)
			cmd.Wait()
			close(ended)
			if strings.HasPrefix(string(b), "9ci_") && strings.HasSuffix(string(b), "\n") {
				mu.Lock()
				printed[name] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	all, err := access.Tokens(state)
	if err != nil {
		t.Fatalf("tokens: %v", err)
	}
	have := map[string]int{}
	for _, tok := range all {
		have[tok.Name]++
	}
	for name := range printed {
		if have[name] != 1 {
			t.Errorf("%s was printed, and is in the file %d times", name, have[name])
		}
	}
	if len(printed) < n/2 {
		t.Errorf("only %d of the processes have printed a token", len(printed))
	}
}
