package main

import (
	"bufio"
	"context"

	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A process is an orchestrator of its own, whose log a test reads.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string // of its standard error; closed at its end
}

// runProcess starts cmd, which is or becomes an orchestrator with the args.
func runProcess(t *testing.T, cmd *exec.Cmd, args ...string) *process {
	t.Helper()
	cmd.Env = append(cmd.Environ(), "ORCHESTRATOR_TEST_ARGS="+strings.Join(args, " "))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p := &process{t: t, cmd: cmd, lines: make(chan string, 1<<16)}
	go func() {
		defer close(p.lines)
		defer r.Close()
		for s := bufio.NewScanner(r); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return p
}

// await returns what the group of a pattern matches in the next line of the log
// that has it.
func (p *process) await(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var seen []string
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	for {
		select {
		case line, ok := <-p.lines:
			if m := re.FindStringSubmatch(line); m != nil {
				return m[len(m)-1]
			}
			if !ok {
				p.t.Fatalf("the orchestrator ended; no %s in %q", pattern, seen)
			}
			seen = append(seen, line)
		case <-ctx.Done():
			p.t.Fatalf("no %s in %q", pattern, seen)
		}
	}
}

// end waits for the process, and returns its error.
func (p *process) end() error {
	for range p.lines {
	}
	return p.cmd.Wait()
}

func curl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("curl", append([]string{"-sS", "-w", "\n%{http_code}"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("curl %q: %v: %s", args, err, out)
	}
	return string(out)
}

// An operator's curl reads /metrics and /healthz, over TCP and over a Unix socket.
func TestMetricsByCurl(t *testing.T) {
	dir := t.TempDir()
	p := runProcess(t, exec.Command(os.Args[0]), "-state", dir, "-a", "tcp!127.0.0.1!0", "-metrics", "tcp!127.0.0.1!0")
	addr := p.await(`msg=metrics addr=(\S+)`)
	if out := curl(t, "http://"+addr+"/metrics"); !strings.Contains(out, "\norchestrator_connections 0\n") || !strings.HasSuffix(out, "\n200") {
		t.Errorf("/metrics: %s", out)
	}
	if out := curl(t, "http://"+addr+"/healthz"); out != "ok\n\n200" {
		t.Errorf("/healthz: %q", out)
	}
	if err := os.Remove(filepath.Join(dir, "authorized_keys")); err != nil {
		t.Fatal(err)
	}
	if out := curl(t, "http://"+addr+"/healthz"); !strings.Contains(out, "authorized_keys") || !strings.HasSuffix(out, "\n503") {
		t.Errorf("/healthz without authorized_keys: %q", out)
	}
	if out := curl(t, "http://"+addr+"/debug/pprof/"); !strings.HasSuffix(out, "\n404") {
		t.Errorf("another path: %q", out)
	}

	sock := filepath.Join(t.TempDir(), "metrics")
	p = runProcess(t, exec.Command(os.Args[0]), "-state", dir, "-a", "tcp!127.0.0.1!0", "-metrics", "unix!"+sock)
	p.await("msg=metrics")
	if out := curl(t, "--unix-socket", sock, "http://localhost/metrics"); !strings.HasSuffix(out, "\n200") {
		t.Errorf("/metrics on a socket: %s", out)
	}
}
