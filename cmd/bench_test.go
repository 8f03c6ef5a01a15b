package cmd_test

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	mrand "math/rand/v2"
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
	f := newFar(b, made{})
	for _, rtt := range []time.Duration{0, 50 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond} {
		b.Run(rtt.String(), func(b *testing.B) {
			way := farFrom(b, f.addr, rtt, 0)
			bob := append(f.bob, "CI_ORCHESTRATOR=ssh://"+f.know(way))
			for b.Loop() {
				b.StopTimer()
				if err := os.RemoveAll(filepath.Join(f.work, "bob/state")); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if out := f.run(bob, filepath.Join(bin, "9ci"), "run", "-r", "-x", "-q"); !strings.HasPrefix(out, "ok 1\n") {
					b.Fatalf("the replay printed %q", out)
				}
			}
		})
	}
}

// gigabit is 1 Gbit/s in bytes a second.
const gigabit = 1e9 / 8

// BenchmarkCopy is 9ci cp of the artifacts of a run, from its start to its exit,
// beside tar over ssh from a stock sshd on the same way. Its metrics are the times
// and the CPU times of the two programs at this end by each other.
func BenchmarkCopy(b *testing.B) {
	left := b.TempDir()
	text := make([]byte, 2000)
	for i := range 10000 {
		rand.Read(text)
		if err := os.WriteFile(filepath.Join(left, fmt.Sprint(i)), text, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	f := newFar(b, made{artifacts: left})
	sshd := f.sshd()
	for _, way := range []struct {
		rtt  time.Duration
		rate float64
	}{{0, 0}, {50 * time.Millisecond, gigabit}} {
		b.Run(way.rtt.String(), func(b *testing.B) {
			orch, stock := farFrom(b, f.addr, way.rtt, way.rate), farFrom(b, sshd, way.rtt, way.rate)
			f.know(orch)
			var took, cpu [2]time.Duration
			for b.Loop() {
				for i, copy := range []func(to string) *exec.Cmd{
					func(to string) *exec.Cmd { return f.sshTar(stock, left, to) },
					func(to string) *exec.Cmd {
						return exec.Command(filepath.Join(bin, "9ci"), "cp", "ssh://"+orch+"/"+farSpace+"/ci/last/artifacts", to)
					},
				} {
					to := b.TempDir()
					began := time.Now()
					cpu[i] += f.cpu(copy(to))
					took[i] += time.Since(began)
					if list, err := os.ReadDir(filepath.Join(to, []string{"", "artifacts"}[i])); err != nil || len(list) != 10000 {
						b.Fatal(len(list), err)
					}
				}
			}
			b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "time/ssh-tar")
			b.ReportMetric(cpu[1].Seconds()/cpu[0].Seconds(), "cpu/ssh-tar")
		})
	}
}

// BenchmarkCopyLarge is 9ci cp of a run with an artifact of 1 GiB, from its start to
// its exit, on a way of 50 ms and 1 Gbit/s. Its metric is its time by that which the
// bytes take on the line.
func BenchmarkCopyLarge(b *testing.B) {
	left := b.TempDir()
	const size = 1 << 30
	big, err := os.Create(filepath.Join(left, "big"))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyN(big, mrand.NewChaCha8([32]byte{}), size); err != nil {
		b.Fatal(err)
	}
	big.Close()
	f := newFar(b, made{artifacts: left})
	orch := farFrom(b, f.addr, 50*time.Millisecond, gigabit)
	f.know(orch)
	var cpu time.Duration
	for b.Loop() {
		to := b.TempDir()
		cpu += f.cpu(exec.Command(filepath.Join(bin, "9ci"), "cp", "ssh://"+orch+"/"+farSpace+"/ci/last", to))
		if fi, err := os.Stat(filepath.Join(to, "last/artifacts/big")); err != nil || fi.Size() != size {
			b.Fatal(fi, err)
		}
		os.RemoveAll(to)
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/(size/gigabit), "time/line")
	b.ReportMetric(cpu.Seconds()/float64(b.N), "cpu-s/op")
}

// farSpace is the namespace of a far's repository.
const farSpace = "example.org/alice/hello"

// A far is an orchestrator with alice's executor, which has a sealed run, and a client
// with bob's key, which may read it. The client is as far away as the address by which it
// knows the orchestrator.
type far struct {
	b          *testing.B
	work       string
	repository string
	addr       string // of the orchestrator
	alice, bob []string
}

// run runs a program in the repository and returns what it says.
func (f *far) run(env []string, args ...string) string {
	f.b.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = f.repository, env
	out, err := cmd.CombinedOutput()
	if err != nil {
		f.b.Fatalf("%v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// cpu runs a program of bob's and returns what it and its children used.
func (f *far) cpu(cmd *exec.Cmd) time.Duration {
	f.b.Helper()
	cmd.Dir, cmd.Env = f.repository, f.bob
	if out, err := cmd.CombinedOutput(); err != nil {
		f.b.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

func (f *far) write(name, text string) {
	f.b.Helper()
	if err := os.WriteFile(filepath.Join(f.work, name), []byte(text), 0o600); err != nil {
		f.b.Fatal(err)
	}
}

// know makes addr the one at which the orchestrator is known, and returns it.
func (f *far) know(addr string) string {
	host, port, _ := strings.Cut(addr, ":")
	f.write(".ssh/known_hosts", fmt.Sprintf("[%s]:%s %s\n", host, port, f.run(f.alice, "cat", filepath.Join(f.work, "orch/ssh_host_ed25519_key.pub"))))
	return addr
}

// sshd starts a stock sshd that bob's key may enter, and returns its address.
func (f *far) sshd() string {
	program, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		f.b.Fatalf("%v: apt-get install openssh-server", err)
	}
	os.Mkdir("/run/sshd", 0o755) // which sshd wants of root, and Debian's init makes
	addr := freeAddr(f.b)
	host, port, _ := strings.Cut(addr, ":")
	dir := filepath.Join(f.work, "sshd")
	if err := os.Mkdir(dir, 0o700); err != nil {
		f.b.Fatal(err)
	}
	f.run(f.alice, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "host"))
	f.run(f.alice, "cp", filepath.Join(f.work, "bob/config/9ci/id_ed25519.pub"), filepath.Join(dir, "authorized"))
	f.write("sshd/config", fmt.Sprintf("ListenAddress %s:%s\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n", host, port, dir, dir))
	cmd := exec.Command(program, "-D", "-e", "-f", filepath.Join(dir, "config"))
	if err := cmd.Start(); err != nil {
		f.b.Fatal(err)
	}
	f.b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return addr
		}
		if time.Now().After(deadline) {
			f.b.Fatal(err)
		}
	}
}

// sshTar copies the directory from, at the sshd, to the directory to.
func (f *far) sshTar(sshd, from, to string) *exec.Cmd {
	_, port, _ := strings.Cut(sshd, ":")
	return exec.Command("sh", "-c", `ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -p $1 -i $2 127.0.0.1 tar -C $3 -cf - . | tar -C $4 -xpf -`,
		"sh", port, filepath.Join(f.work, "bob/config/9ci/id_ed25519"), from, to)
}

// freeAddr returns an address at which nothing listens.
func freeAddr(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newFar starts an orchestrator and alice's executor there, whose run left what
// left says.
func newFar(b *testing.B, left made) *far {
	work := b.TempDir()
	f := &far{b: b, work: work, repository: filepath.Join(work, "repo")}
	env := func(who string) []string {
		return append(noGit(), "HOME="+work, "GIT_CONFIG_GLOBAL="+filepath.Join(work, "gitconfig"),
			"NAMESPACE="+filepath.Join(work, who, "ns"), "XDG_STATE_HOME="+filepath.Join(work, who, "state"),
			"XDG_CONFIG_HOME="+filepath.Join(work, who, "config"))
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
	f.alice, f.bob = env("alice"), env("bob")
	alice, bob := f.alice, f.bob
	f.run(alice, "git", "init", "-q")
	f.run(alice, "git", "remote", "add", "origin", "https://example.org/alice/hello.git")
	f.run(alice, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "one")

	keys := map[string]string{}
	for _, who := range []string{"alice", "bob"} {
		s, err := sign.LoadKey(filepath.Join(work, who, "config/9ci/id_ed25519"))
		if err != nil {
			b.Fatal(err)
		}
		keys[who] = string(f.run(alice, "cat", filepath.Join(work, who, "config/9ci/id_ed25519.pub")))
		if who == "alice" {
			if err := sealRun(b.Context(), filepath.Join(work, "alice/state/9ci/example.org/alice/hello"), f.repository,
				func(m []byte) ([]byte, error) { return sign.Manifest(s, m) }, left); err != nil {
				b.Fatal(err)
			}
		}
	}
	f.write("bob/config/9ci/allowed_signers", "alice "+keys["alice"]+"\n")
	line := start(alice, "addr=", filepath.Join(bin, "orchestrator"), "-a", "tcp!127.0.0.1!0", "-state", filepath.Join(work, "orch"))
	f.write("orch/authorized_keys", keys["alice"]+"\n"+keys["bob"]+"\n")
	_, addr, _ := strings.Cut(line, "addr=")
	addr, _, _ = strings.Cut(addr, " ")
	f.addr = f.know(addr)
	alice, bob = append(alice, "CI_ORCHESTRATOR=ssh://"+addr, "CI_KEEP=9"), append(bob, "CI_ORCHESTRATOR=ssh://"+addr)
	start(alice, "msg=serve", filepath.Join(bin, "9ci"), "serve")
	f.run(alice, "sh", "-c", "echo repo $PWD | "+filepath.Join(bin, "9ci")+" write -a unix!$NAMESPACE/9ci ctl")
	for deadline := time.Now().Add(time.Minute); ; {
		cmd := exec.Command(filepath.Join(bin, "9ci"), "run", "-r", "-x", "-q")
		cmd.Dir, cmd.Env = f.repository, bob
		if err := cmd.Run(); err == nil {
			break // alice is at the orchestrator
		} else if time.Now().After(deadline) {
			b.Fatal("alice did not come to the orchestrator")
		}
	}
	return f
}

// farFrom returns an address that leads to addr over a way of that round trip, which
// carries so many bytes a second in each direction, or any number if that is 0.
func farFrom(b *testing.B, addr string, rtt time.Duration, rate float64) string {
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
			go delay(far, near, begin, rtt/2, rate)
			go delay(near, far, begin, rtt/2, rate)
		}
	}()
	return l.Addr().String()
}

// delay copies what arrives at src, each byte as late as the way is long, and its
// bytes one after the other.
func delay(dst, src net.Conn, begin time.Time, way time.Duration, rate float64) {
	type packet struct {
		b  []byte
		at time.Time
	}
	under := make(chan packet, 1<<16)
	free := begin // when the line has sent what came before
	go func() {
		defer close(under)
		for {
			b := make([]byte, 64<<10)
			n, err := src.Read(b)
			if err != nil {
				return
			}
			if now := time.Now(); free.Before(now) {
				free = now
			}
			if rate > 0 {
				free = free.Add(time.Duration(float64(n) / rate * float64(time.Second)))
			}
			under <- packet{b[:n], free.Add(way)}
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
