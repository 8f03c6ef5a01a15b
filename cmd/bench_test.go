package cmd_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"9ci/cmd/internal/sign"
)

// BenchmarkReplay is 9ci run -r -x from its start to its exit: a run of the
// sample's size comes from another executor through an orchestrator, both on
// the loopback, is verified, sealed and printed. The way to the orchestrator has
// the round trip that the name says.
func BenchmarkReplay(b *testing.B) {
	work := b.TempDir()
	repository := filepath.Join(work, "repo")
	env := func(who string) []string {
		return append(noGit(), "HOME="+work, "GIT_CONFIG_GLOBAL="+filepath.Join(work, "gitconfig"),
			"NAMESPACE="+filepath.Join(work, who, "ns"), "XDG_STATE_HOME="+filepath.Join(work, who, "state"),
			"XDG_CONFIG_HOME="+filepath.Join(work, who, "config"))
	}
	run := func(env []string, args ...string) string {
		b.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Env = repository, env
		out, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("%v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	// start starts a server and waits for words on its standard error.
	start := func(env []string, words string, args ...string) string {
		b.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = env
		stderr, err := cmd.StderrPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			cmd.Process.Signal(os.Interrupt)
			cmd.Wait()
		})
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if strings.Contains(lines.Text(), words) {
				go func() {
					for lines.Scan() {
					}
				}()
				return lines.Text()
			}
		}
		b.Fatalf("%v ended before it said %s", args, words)
		return ""
	}

	for _, dir := range []string{"repo", "alice/ns", "bob/ns", "bob/config/9ci", ".ssh"} {
		if err := os.MkdirAll(filepath.Join(work, dir), 0o700); err != nil {
			b.Fatal(err)
		}
	}
	alice, bob := env("alice"), env("bob")
	run(alice, "git", "init", "-q")
	run(alice, "git", "remote", "add", "origin", "https://example.org/alice/hello.git")
	run(alice, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "one")

	keys := map[string]string{}
	for _, who := range []string{"alice", "bob"} {
		s, err := sign.LoadKey(filepath.Join(work, who, "config/9ci/id_ed25519"))
		if err != nil {
			b.Fatal(err)
		}
		keys[who] = string(run(alice, "cat", filepath.Join(work, who, "config/9ci/id_ed25519.pub")))
		if who == "alice" {
			if err := sealRun(b.Context(), filepath.Join(work, "alice/state/9ci/example.org/alice/hello"), repository,
				func(m []byte) ([]byte, error) { return sign.Manifest(s, m) }, made{}); err != nil {
				b.Fatal(err)
			}
		}
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(work, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	write("bob/config/9ci/allowed_signers", "alice "+keys["alice"]+"\n")
	line := start(alice, "addr=", filepath.Join(bin, "orchestrator"), "-a", "tcp!127.0.0.1!0", "-state", filepath.Join(work, "orch"))
	write("orch/authorized_keys", keys["alice"]+"\n"+keys["bob"]+"\n")
	_, addr, _ := strings.Cut(line, "addr=")
	addr, _, _ = strings.Cut(addr, " ")
	know := func(addr string) {
		host, port, _ := strings.Cut(addr, ":")
		write(".ssh/known_hosts", fmt.Sprintf("[%s]:%s %s\n", host, port, run(alice, "cat", filepath.Join(work, "orch/ssh_host_ed25519_key.pub"))))
	}
	know(addr)
	alice, bob = append(alice, "CI_ORCHESTRATOR=ssh://"+addr, "CI_KEEP=9"), append(bob, "CI_ORCHESTRATOR=ssh://"+addr)
	start(alice, "msg=serve", filepath.Join(bin, "9ci"), "serve")
	run(alice, "sh", "-c", "echo repo $PWD | "+filepath.Join(bin, "9ci")+" write -a unix!$NAMESPACE/9ci ctl")
	for deadline := time.Now().Add(time.Minute); ; {
		cmd := exec.Command(filepath.Join(bin, "9ci"), "run", "-r", "-x", "-q")
		cmd.Dir, cmd.Env = repository, bob
		if err := cmd.Run(); err == nil {
			break // alice is at the orchestrator
		} else if time.Now().After(deadline) {
			b.Fatal("alice did not come to the orchestrator")
		}
	}
	for _, rtt := range []time.Duration{0, 50 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond} {
		b.Run(rtt.String(), func(b *testing.B) {
			way := farFrom(b, addr, rtt)
			know(way)
			far := append(bob, "CI_ORCHESTRATOR=ssh://"+way)
			for b.Loop() {
				b.StopTimer()
				if err := os.RemoveAll(filepath.Join(work, "bob/state")); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if out := run(far, filepath.Join(bin, "9ci"), "run", "-r", "-x", "-q"); !strings.HasPrefix(out, "ok 1\n") {
					b.Fatalf("the replay printed %q", out)
				}
			}
		})
	}
}

// farFrom returns an address that leads to addr over a way of that round trip.
func farFrom(b *testing.B, addr string, rtt time.Duration) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", addr)
			if err != nil {
				near.Close()
				continue
			}
			begin := time.Now().Add(rtt) // TCP's own round trip
			go delay(far, near, begin, rtt/2)
			go delay(near, far, begin, rtt/2)
		}
	}()
	return l.Addr().String()
}

// delay copies what arrives at src, each byte as late as the way is long.
func delay(dst, src net.Conn, begin time.Time, way time.Duration) {
	type packet struct {
		b  []byte
		at time.Time
	}
	under := make(chan packet, 1<<16)
	go func() {
		defer close(under)
		for {
			b := make([]byte, 64<<10)
			n, err := src.Read(b)
			if err != nil {
				return
			}
			at := time.Now()
			if at.Before(begin) {
				at = begin
			}
			under <- packet{b[:n], at.Add(way)}
		}
	}()
	for p := range under {
		time.Sleep(time.Until(p.at))
		if _, err := dst.Write(p.b); err != nil {
			break
		}
	}
	dst.Close()
	src.Close()
	for range under { // until the reader has ended
	}
}
