package orchestrator

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/dial"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// direct starts an executor with an address of its own, which it returns.
func (m *testMux) direct(k ssh.Signer, name string) string {
	m.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	d, err := dial.NewDirect(k, l.Addr().String())
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Serve(ctx, l) }()
	m.t.Cleanup(func() { cancel(); <-done })
	c, err := dial.Dial(m.t.Context(), "ssh://"+m.addr, dial.Options{Signers: []ssh.Signer{k}, KnownHosts: m.hosts, Direct: d})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	m.export(c, dial.Announce{Name: name, Namespaces: []string{hello}}, tree.root())
	return l.Addr().String()
}

// door opens a door to name in hello until the test ends.
func (m *testMux) door(k ssh.Signer, name string) *dial.Door {
	m.t.Helper()
	d, err := m.dial(k).Door(m.t.Context(), hello, name)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { d.Close() })
	return d
}

// enter imports the tree at the other end of an entry.
func enter(t *testing.T, e *dial.Entry, err error) *ninep.Client {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	rwc, err := e.Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := ninep.Import(t.Context(), rwc, ninep.ImportOptions{Aname: hello})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A client enters an executor's own SSH server at its address, and end to end
// through the mux. As soon as the mux does not hold the door open any more, what
// entered at the address is out.
func TestDoor(t *testing.T) {
	m := startMux(t)
	ke, _ := m.key("", "executor")
	alice, _ := m.key(`namespace="`+hello+`"`, "alice")
	bob, _ := m.key(`namespace="local/x"`, "bob")
	carol, _ := m.key("publish", "carol")
	root := m.tree(m.dial(alice), hello)
	ev := watchEvents(t, root)
	addr := m.direct(ke, "box")
	ev.await("/n/box/ci/3f2a9c1d0b7e.1", "passed")
	if answer, _ := find(t, root, "commit="+testCommit); !strings.HasSuffix(answer, " "+addr+"\n") {
		t.Errorf("find = %q, want the address %s", answer, addr)
	}

	d := m.door(alice, "box")
	e, err := d.Direct(t.Context())
	direct := enter(t, e, err)
	through, err := d.Through(t.Context())
	for _, c := range []*ninep.Client{direct, enter(t, through, err)} {
		if got := read(t, c.Root(), "ci/3f2a9c1d0b7e.1/stdout"); got != "ok 3f2a9c1d0b7e.1\n" {
			t.Errorf("stdout = %q", got)
		}
	}
	d.Close()
	<-direct.Done()

	// A key of another namespace, one that may not read, an executor that is not
	// there, and one without an address.
	for _, tt := range []struct {
		key      ssh.Signer
		ns, name string
	}{{bob, hello, "box"}, {carol, hello, "box"}, {alice, hello, "nobody"}, {alice, "local/x", "box"}, {alice, "", "box"}} {
		if _, err := m.dial(tt.key).Door(t.Context(), tt.ns, tt.name); err == nil || !strings.Contains(err.Error(), "no executor") {
			t.Errorf("Door(%q, %q) = %v, want no executor", tt.ns, tt.name, err)
		}
	}
	plain, _ := m.key("", "plain")
	m.exportTo(plain, "plain", hello)
	if _, err := m.door(alice, "plain").Direct(t.Context()); !errors.Is(err, dial.ErrNoAddress) {
		t.Errorf("Direct = %v, want %v", err, dial.ErrNoAddress)
	}
}

// Nobody enters at an executor's address but the key for which the door is open, as
// the user of the door. While all doors are closed it hangs up at once.
func TestDoorStrangers(t *testing.T) {
	m := startMux(t)
	ke, _ := m.key("", "executor")
	alice, _ := m.key("", "alice")
	addr := m.direct(ke, "box")
	login := func(user string, keys ...ssh.Signer) error {
		c, err := ssh.Dial("tcp", addr, &ssh.ClientConfig{
			User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(keys...)}, HostKeyCallback: ssh.FixedHostKey(ke.PublicKey()),
		})
		if err == nil {
			c.Close()
		}
		return err
	}
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if b, err := io.ReadAll(nc); len(b) != 0 {
		t.Errorf("with no door open it says %q, %v", b, err)
	}

	d := m.door(alice, "box")
	stranger, _ := m.stranger()
	for _, k := range []ssh.Signer{alice, stranger, ke} {
		if err := login("9ci", k); err == nil {
			t.Error("a user whose name was guessed enters")
		}
	}
	user, shut := doorUser(t, m, alice, "box")
	if err := login(user, stranger, ke); err == nil {
		t.Error("another key than that of the door enters")
	}
	if err := login(user, stranger, alice); err != nil {
		t.Errorf("the key of the door does not enter: %v", err)
	}

	// Once the door is shut, those inside are out, and nobody enters as that user,
	// though another door is open.
	c, err := ssh.Dial("tcp", addr, &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(alice)}, HostKeyCallback: ssh.FixedHostKey(ke.PublicKey())})
	if err != nil {
		t.Fatal(err)
	}
	shut()
	c.Wait()
	if err := login(user, alice); err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
		t.Errorf("login after the door was shut: %v", err)
	}
	d.Close()
}

// One requester cannot open all the doors of an executor.
func TestDoorQuota(t *testing.T) {
	m := startMux(t)
	ke, _ := m.key("", "executor")
	alice, _ := m.key("", "alice")
	bob, _ := m.key("", "bob")
	m.direct(ke, "box")
	c := m.dial(alice)
	opened := 0
	for {
		d, err := c.Door(t.Context(), hello, "box")
		if err != nil {
			if !strings.Contains(err.Error(), "opens no more doors") {
				t.Errorf("Door: %v", err)
			}
			break
		}
		defer d.Close()
		opened++
	}
	if opened != 32 {
		t.Errorf("one requester opens %d doors, want 32", opened)
	}
	e, err := m.door(bob, "box").Direct(t.Context())
	enter(t, e, err)
}

// doorUser opens a door with stock SSH until shut is called or the test ends, and
// returns whom to log in as.
func doorUser(t *testing.T, m *testMux, k ssh.Signer, name string) (user string, shut func()) {
	t.Helper()
	c, err := ssh.Dial("tcp", m.addr, &ssh.ClientConfig{Auth: []ssh.AuthMethod{ssh.PublicKeys(k)}, HostKeyCallback: ssh.FixedHostKey(m.s.HostKey())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ch, reqs, err := c.OpenChannel(wire.ChannelDoor, ssh.Marshal(&wire.ReachMsg{Namespace: hello, Name: name}))
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	b, err := io.ReadAll(ch)
	if err != nil {
		t.Fatal(err)
	}
	d, err := wire.ParseDoor(b)
	if err != nil {
		t.Fatal(err)
	}
	return d.User, func() { c.Close() }
}
