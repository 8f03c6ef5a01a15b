package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access/forge/forgetest"
	"9ci/orchestrator/dial"
	"9ci/proto/ninep"
)

// An executor shows runs that a test gives it.
type executor struct {
	mu     sync.Mutex // guards what follows
	index  string
	keys   map[string]string
	events fs.Feed
}

// show shows a run of a commit that ended now.
func (x *executor) show(id, commit, state string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	status := state + " 1.000 " + ci.FormatTime(time.Now())
	x.index = fmt.Sprintf("%s %s - %s signer %064x\n", id, status, commit, len(x.index)+1) + x.index
	x.keys[id] = "arch=amd64\ncommit=" + commit + "\ntarget=test\n"
	x.events.Write(id + " " + status + "\n")
}

func (x *executor) root() fs.Dir {
	text := func(name string, text func() string) fs.Node {
		return fs.TextFile(name, func(context.Context) ([]byte, error) {
			x.mu.Lock()
			defer x.mu.Unlock()
			return []byte(text()), nil
		})
	}
	dir := func(name string, find func(name string) fs.Node) fs.Dir {
		return fs.SynthDir{
			Describe: func() (fs.Stat, error) { return fs.DirStat(name, fs.RootQid.Child(name), time.Now()), nil },
			List:     func(context.Context) ([]fs.Node, error) { return nil, nil },
			Find: func(_ context.Context, name string) (fs.Node, error) {
				if n := find(name); n != nil {
					return n, nil
				}
				return nil, os.ErrNotExist
			},
		}
	}
	return dir("/", func(name string) fs.Node {
		switch name {
		case "index":
			return text(name, func() string { return x.index })
		case "event":
			return eventNode{&x.events}
		case "ci":
			return dir(name, func(id string) fs.Node {
				return dir(id, func(name string) fs.Node {
					if name != "key" {
						return nil
					}
					return text(name, func() string { return x.keys[id] })
				})
			})
		}
		return nil
	})
}

// An eventNode is an executor's file event.
type eventNode struct{ *fs.Feed }

func (n eventNode) Stat(context.Context) (fs.Stat, error) {
	return fs.FileStat("event", fs.RootQid.Child("event"), 0, time.Now()), nil
}
func (n eventNode) Open(context.Context, fs.OpenMode) (fs.File, error)  { return n, nil }
func (n eventNode) WriteAt(context.Context, []byte, int64) (int, error) { return 0, fs.ErrReadOnly }
func (n eventNode) Close() error                                        { return nil }

// An orchestrator tells a forge how runs ended, once each, also if it is killed before it
// knows that the forge has one.
func TestStatuses(t *testing.T) {
	state, sock := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "web")
	server := httptest.NewUnstartedServer(nil)
	site := forgetest.NewSite("forgejo", "http://"+server.Listener.Addr().String())
	server.Config.Handler = site
	server.Start()
	defer server.Close()
	secret := site.StatusSecret()
	site.AddRepo(forgetest.Repo{ID: 74, Path: "alice/hello", Visibility: "private", Members: map[string]int{"ci-bot": forgetest.Developer}})
	commit := func(i int) string { return strings.Repeat(fmt.Sprintf("%08x", i), 5) } // their runs have ids of their own
	for i := range 4 {
		site.AddCommit(74, commit(i+1))
	}

	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"authorized_keys": string(ssh.MarshalAuthorizedKey(key.PublicKey())),
		"forges":          "kind=forgejo\nhost=forge.example\nurl=" + site.URL + "\nstatuses-secret-file=bot\n",
		"bot":             secret + "\n",
	} {
		if err := os.WriteFile(filepath.Join(state, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	addr := "127.0.0.1:0"
	start := func() *process {
		p := runProcess(t, exec.Command(os.Args[0]), "-state", state, "-a", "tcp!"+strings.Replace(addr, ":", "!", 1), "-web", "unix!"+sock, "-url", "https://ci.example.org")
		addr = p.await(`msg=listen addr=(\S+)`)
		return p
	}
	p := start()
	known := filepath.Join(t.TempDir(), "known_hosts")
	host, err := os.ReadFile(filepath.Join(state, "ssh_host_ed25519_key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey(host)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(known, []byte(knownhosts.Line([]string{addr}, hostKey)), 0o600); err != nil {
		t.Fatal(err)
	}
	conn, err := dial.Open("ssh://"+addr, dial.Options{Signers: []ssh.Signer{key}, KnownHosts: known})
	if err != nil {
		t.Fatal(err)
	}
	x := &executor{keys: map[string]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		conn.Export(ctx, dial.Announce{Name: "box", Namespaces: []string{"forge.example/alice/hello"}}, func(ctx context.Context, rwc io.ReadWriteCloser, _ string, user fs.User) {
			srv := ninep.Server{User: user, Attach: func(context.Context, string, string) (fs.Dir, error) { return x.root(), nil }}
			srv.Serve(ctx, rwc)
		})
	})
	defer func() {
		cancel()
		wg.Wait()
		conn.Close()
	}()
	p.await("msg=join")
	x.show(commit(1)[:12]+".1", commit(1), "passed 0")
	p.await("msg=status .*commit=" + commit(1) + " .*state=passed")
	x.show(commit(2)[:12]+".1", commit(2), "failed 1")
	p.await("msg=status .*commit=" + commit(2) + " .*state=failed")
	if got := site.Statuses(74, commit(1)); len(got) != 1 || got[0].URL != "https://ci.example.org/rev/"+commit(1)+"/forge.example/alice/hello" || got[0].Context != "9ci/amd64" {
		t.Errorf("the forge has %+v", got)
	}

	if text, err := conn.Exec(t.Context(), "told namespace=forge.example/alice/hello "+commit(1)); err != nil ||
		!strings.HasPrefix(text, "page https://ci.example.org/rev/"+commit(1)+"/forge.example/alice/hello\nforge forge.example\nstatus told 9ci/amd64 passed 0 ") {
		t.Errorf("told: %q, %v", text, err)
	} else if by, err := conn.Told(t.Context(), "forge.example/alice/hello", commit(1)); err != nil || by != text {
		t.Errorf("Told = %q, %v, want as the command has it, %q", by, err, text)
	}

	taken := make(chan bool)
	var once atomic.Bool
	site.Say(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || !once.CompareAndSwap(false, true) {
			return false
		}
		site.Answer(httptest.NewRecorder(), r) // it has it, and its answer does not come
		taken <- true
		<-r.Context().Done()
		return true
	})
	x.show(commit(3)[:12]+".1", commit(3), "passed 0")
	<-taken
	p.cmd.Process.Kill()
	p.end()
	p = start()
	p.await("msg=status .*commit=" + commit(3) + " .*state=passed")
	x.show(commit(4)[:12]+".1", commit(4), "passed 0")
	p.await("msg=status .*commit=" + commit(4) + " .*state=passed")
	for i := range 4 {
		if got := site.Statuses(74, commit(i+1)); len(got) != 1 {
			t.Errorf("the forge has %+v", got)
		}
	}
	if out, _, status := do(t, "check", "-state", state); status != 0 || !strings.Contains(out, "and is told how the runs of any repository ended") {
		t.Errorf("check: %d %s", status, out)
	}
	if err := os.Chmod(filepath.Join(state, "bot"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, _, status := do(t, "check", "-state", state); status != 1 || !strings.Contains(out, "chmod 600 "+filepath.Join(state, "bot")) {
		t.Errorf("check of a secret that all may read: %d %s", status, out)
	}
	p.term()
	if err := p.end(); err != nil {
		t.Error(err)
	}
	p = runProcess(t, exec.Command(os.Args[0]), "-state", state, "-a", "tcp!127.0.0.1!0")
	p.await("msg=statuses .*needs -web")
}
