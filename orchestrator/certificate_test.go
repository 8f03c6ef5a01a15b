package orchestrator

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"9ci/fs"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/internal/client"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// An announcement that another executor has made, or that the executor has made
// elsewhere, is refused: it proves a key for one connection, name and namespaces.
func TestCopiedAnnouncement(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		mallory, _ := m.key("", "mallory")
		a, _ := m.login(k)
		what := wire.Announce{Name: "box", Namespaces: []string{hello}}
		if err := what.Prove(k, a.ssh.SessionID(), m.s.HostKey()); err != nil {
			t.Fatal(err)
		}
		announce := func(l testLink, a wire.Announce) error {
			t.Helper()
			ok, reason, err := l.Ask(t.Context(), wire.RequestAnnounce, a.Text())
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				return &client.RefusedError{Reason: string(reason)}
			}
			return nil
		}
		refused := func(name string, err error) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), "the proof of the signing key is not for this connection, name and namespaces") {
				t.Errorf("%s: %v, want a refusal", name, err)
			}
		}
		again, _ := m.login(k)
		other, _ := m.login(mallory)
		refused("on another connection of the same key", announce(again, what))
		refused("on another's connection", announce(other, what))
		renamed, moved, elsewhere := what, what, what
		renamed.Name = "box2"
		refused("under another name", announce(a, renamed))
		moved.Namespaces = []string{"github.com/alice/other"}
		refused("in another namespace", announce(a, moved))
		elsewhere.Prove(k, a.ssh.SessionID(), newSigner(t).PublicKey())
		refused("for another orchestrator", announce(a, elsewhere))
		if err := announce(a, what); err != nil {
			t.Errorf("the announcement itself: %v", err)
		}
	})
}

// An executor that has not proved its signing key is shown and read, and nobody
// waits for it.
func TestNoProof(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		l, _ := m.loginAs(k, nil) // as executors did before there was a proof
		tree := newTestTree()
		tree.add(askedRun, testCommit, "test")
		if err := m.exportOn(l, wire.Announce{Name: "old", Namespaces: []string{hello}}, tree.root()); err != nil {
			t.Fatal(err)
		}
		root := m.treeOn(l, hello)
		synctest.Wait()
		if answer, _ := find(t, root, "commit="+testCommit+" intent="+askedRun); !strings.HasPrefix(answer, "find: an intent comes from an executor whose announcement proves") {
			t.Errorf("find with an intent = %q", answer)
		}
		if answer, _ := find(t, root, "commit="+testCommit); !strings.HasSuffix(answer, " test 41.250 - - -\n") {
			t.Errorf("find = %q, want no signer", answer)
		}
	})
}

// An authority is a CA of ssh-keygen's.
type authority struct {
	t   *testing.T
	dir string
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.keygen("-t", "ed25519", "-N", "", "-f", "ca")
	return a
}

func (a *authority) keygen(args ...string) {
	a.t.Helper()
	cmd := exec.CommandContext(a.t.Context(), "ssh-keygen", append([]string{"-q"}, args...)...)
	cmd.Dir = a.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		a.t.Fatalf("ssh-keygen %q: %v: %s", args, err, out)
	}
}

// line returns the authority's line of authorized_keys.
func (a *authority) line(options string) string {
	a.t.Helper()
	key, err := os.ReadFile(filepath.Join(a.dir, "ca.pub"))
	if err != nil {
		a.t.Fatal(err)
	}
	return "cert-authority" + options + " " + string(key)
}

// certify makes a certificate of the public key beside file.
func (a *authority) certify(file, principal string) {
	a.t.Helper()
	a.keygen("-s", "ca", "-I", principal, "-n", principal, "-V", "-1m:+1h", file+".pub")
}

// certified returns the signer of the key of file and its certificate.
func certified(t *testing.T, key ssh.Signer, file string) ssh.Signer {
	t.Helper()
	b, err := os.ReadFile(file + "-cert.pub")
	if err != nil {
		t.Fatal(err)
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewCertSigner(pub.(*ssh.Certificate), key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// dialWith connects with a certificate, as an executor whose key signs.
func (m *testMux) dialWith(cert, key ssh.Signer) *dial.Conn {
	m.t.Helper()
	c, err := dial.Dial(m.t.Context(), "ssh://"+m.addr, dial.Options{Signers: []ssh.Signer{cert}, Key: key, KnownHosts: m.hosts})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}

// An executor that logs in with a certificate takes full part: the key that signs
// is the one that find shows, intents count, the holder of the key has the ctl, with
// any certificate of it and without one, and another key has none, though it has a
// certificate of the same principal.
func TestCertificateLogin(t *testing.T) {
	m := startMux(t)
	ca := newAuthority(t)
	key, file := m.stranger()
	other, otherFile := m.stranger()
	os.WriteFile(filepath.Join(m.dir, "authorized_keys"), []byte(ca.line(`,namespace="`+hello+`"`)), 0o600)
	ca.certify(file, "github:1")
	ca.certify(otherFile, "github:1")
	tree := newTestTree()
	tree.add(askedRun, testCommit, "test")
	conn := m.dialWith(certified(t, key, file), key)
	root := m.tree(conn, hello)
	ev := watchEvents(t, root)
	m.export(conn, dial.Announce{Name: "box.1", Namespaces: []string{hello}}, ctlTree(tree.root()))
	ev.await("/n/box.1/ci/"+askedRun, "test")

	want := "/n/box.1/ci/" + askedRun + " test 41.250 - " + ssh.FingerprintSHA256(key.PublicKey()) + " -\n"
	if answer, _ := find(t, root, string(testKey(testCommit).Text())+"intent="+askedRun+"\n"); answer != want {
		t.Errorf("find = %q, want %q", answer, want)
	}
	// The executor's owner with another certificate of the same key.
	ca.certify(file, "github:2")
	owner := m.tree(m.dialWith(certified(t, key, file), key), hello)
	stranger := m.tree(m.dialWith(certified(t, other, otherFile), other), hello)
	same := m.tree(conn, hello)
	for name, root := range map[string]fs.Dir{"the same login": same, "another certificate": owner} {
		n, err := fs.Walk(t.Context(), root, "n/box.1/ctl")
		if err != nil {
			t.Errorf("%s: ctl: %v", name, err)
			continue
		}
		f, err := n.Open(t.Context(), fs.OpenRead|fs.OpenWrite)
		if err != nil {
			t.Errorf("%s: open ctl: %v", name, err)
			continue
		}
		f.Close()
	}
	if n, err := fs.Walk(t.Context(), stranger, "n/box.1/ctl"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("another key with a certificate of the same principal: ctl is %v, %v, want not found", n, err)
	}

	// End to end: the host key is the signing key's, whoever may read enters, and
	// the owner has the ctl.
	config := m.sshConfig(file, file, map[string]ssh.PublicKey{"box.1": key.PublicKey()})
	run := func(config string, args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), "ssh", append([]string{"-F", config, "-J", "mux", "box.1"}, args...)...).CombinedOutput()
		return string(out), err
	}
	if out, err := run(config, "cat ctl"); err != nil || out != "the manual\n" {
		t.Errorf("ssh -J: cat ctl: %q, %v", out, err)
	}
	config = m.sshConfig(otherFile, otherFile, map[string]ssh.PublicKey{"box.1": key.PublicKey()})
	if out, err := run(config, "cat ci/"+askedRun+"/stdout"); err != nil || out != "ok "+askedRun+"\n" {
		t.Errorf("ssh -J as another: %q, %v", out, err)
	}
	if out, err := run(config, "cat ctl"); err == nil {
		t.Errorf("ssh -J as another: cat ctl: %q, want not found", out)
	}
	// Another key than the one that logged in at the orchestrator.
	if out, err := run(m.sshConfig(otherFile, file, map[string]ssh.PublicKey{"box.1": key.PublicKey()}), "whoami"); err == nil || !strings.Contains(out, "Permission denied") {
		t.Errorf("another key than at the orchestrator: %q, %v", out, err)
	}
}

// ctlTree shows the ctl of a tree to users that are not anonymous, as ci(4) does.
func ctlTree(root fs.Dir) fs.Dir { return hideCtl{root} }

type hideCtl struct{ fs.Dir }

func (h hideCtl) Walk(ctx context.Context, name string) (fs.Node, error) {
	if name == "ctl" && fs.UserOf(ctx).Anonymous {
		return nil, iofs.ErrNotExist
	}
	return h.Dir.Walk(ctx, name)
}

// What logs in is asked for at each connection: a certificate may have been renewed,
// or have ended, which is told of.
func TestCertificateRenewed(t *testing.T) {
	m := startMux(t)
	ca := newAuthority(t)
	key, file := m.stranger()
	os.WriteFile(filepath.Join(m.dir, "authorized_keys"), []byte(ca.line("")), 0o600)
	ca.certify(file, "one")
	p := newProxy(t, m.addr)
	os.WriteFile(m.hosts, []byte(knownhosts.Line([]string{p.addr, m.addr}, m.s.HostKey())+"\n"), 0o600)
	ended := errors.New("id-cert.pub: it ended at noon")
	gone := make(chan struct{})
	lost := make(chan error, 100)
	c, err := dial.Open("ssh://"+p.addr, dial.Options{Key: key, KnownHosts: m.hosts, Login: func() ([]ssh.Signer, error) {
		select {
		case <-gone:
			return []ssh.Signer{key}, ended
		default:
			return []ssh.Signer{certified(t, key, file)}, nil
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	status := func() string {
		nc, err := net.Dial("tcp", m.addr)
		if err != nil {
			t.Fatal(err)
		}
		sc, chans, reqs, err := ssh.NewClientConn(nc, m.addr, &ssh.ClientConfig{Auth: []ssh.AuthMethod{ssh.PublicKeys(certified(t, key, file))}, HostKeyCallback: ssh.FixedHostKey(m.s.HostKey())})
		if err != nil {
			t.Fatal(err)
		}
		cl := ssh.NewClient(sc, chans, reqs)
		defer cl.Close()
		s, err := cl.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.Output("cat " + hello + "/status")
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	rwc, err := m.dialWith(certified(t, key, file), key).Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cl, err := ninep.Import(t.Context(), rwc, ninep.ImportOptions{Aname: hello})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ev := watchEvents(t, cl.Root())
	m.export(c, dial.Announce{Name: "a", Namespaces: []string{hello}, Lost: func(err error) { lost <- err }}, newTestTree().root())
	ev.await("/n/a join")
	if s := status(); !strings.Contains(s, "one@SHA256:") {
		t.Errorf("status = %q, want the principal one", s)
	}
	ca.certify(file, "two")
	ev.text = ""
	p.cut()
	<-lost
	ev.await("/n/a leave")
	// The name is the first principal's for a while.
	if err := <-lost; !strings.Contains(err.Error(), "belongs to another key") {
		t.Errorf("Lost: %v", err)
	}
	close(gone)
	p.cut()
	for err := range lost {
		if errors.Is(err, dial.ErrKey) {
			if want := fmt.Sprintf("; %v", ended); !strings.HasSuffix(err.Error(), want) {
				t.Errorf("Lost: %v, want %q", err, want)
			}
			break
		}
	}
}

// An executor that ssh -R shows announces no intent: it has proved no key.
func TestOpenSSHExportIntent(t *testing.T) {
	m := startMux(t)
	_, file := m.key(`namespace="`+hello+`"`, "alice@laptop")
	sock := filepath.Join(t.TempDir(), "9p")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	tree := newTestTree()
	tree.add(askedRun, testCommit, "test")
	srv := &ninep.Server{User: fs.User{Name: "local", UID: -1}, Attach: func(context.Context, string, string) (fs.Dir, error) { return tree.root(), nil }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.ServeListener(ctx, l)
	}()
	t.Cleanup(func() { cancel(); <-done })
	cmd := m.openssh(ctx, file, "-o", "ExitOnForwardFailure=yes", "-R", "/9p:"+sock, "-s", "127.0.0.1", "9p")
	cl, err := ninep.Import(t.Context(), startPipe(t, cmd), ninep.ImportOptions{Aname: hello})
	if err != nil {
		t.Fatal(err)
	}
	ev := watchEvents(t, cl.Root())
	ev.await("/n/laptop/ci/"+askedRun, "test")
	if answer, _ := find(t, cl.Root(), "commit="+testCommit); !strings.HasPrefix(answer, "/n/laptop/ci/"+askedRun+" test ") || !strings.HasSuffix(answer, " - - -\n") {
		t.Errorf("find = %q, want the run without a signer", answer)
	}
	if answer, _ := find(t, cl.Root(), "commit="+testCommit+" intent="+askedRun); !strings.HasPrefix(answer, "find: an intent comes from an executor whose announcement proves") {
		t.Errorf("find with an intent = %q", answer)
	}
	cl.Close()
	cancel() // the forwarding keeps ssh where it is
	cmd.Wait()
}
