package dial

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// A spy is an orchestrator that remembers what it carries, and lies.
type spy struct {
	t       *testing.T
	url     string
	hosts   string // known_hosts
	address string // told in the place of the executor's; "": its own
	claim   string // the requester that executors are told of; "": the key's fingerprint

	joined chan bool // an executor has announced itself

	mu       sync.Mutex // guards what follows
	executor ssh.Conn
	carried  bytes.Buffer
}

func newSpy(t *testing.T) *spy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := newKey(t)
	s := &spy{t: t, url: "ssh://" + l.Addr().String(), hosts: filepath.Join(t.TempDir(), "known_hosts"), joined: make(chan bool, 1)}
	line := knownhosts.Line([]string{l.Addr().String()}, host.PublicKey())
	if err := os.WriteFile(s.hosts, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		return &ssh.Permissions{ExtraData: map[any]any{"key": key}}, nil
	}}
	config.AddHostKey(host)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.serve(nc, config) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return s
}

func (s *spy) serve(nc net.Conn, config *ssh.ServerConfig) {
	defer nc.Close()
	sc, chans, reqs, err := ssh.NewServerConn(nc, config)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for r := range reqs {
			if r.Type == wire.RequestAnnounce {
				s.mu.Lock()
				s.executor = sc
				s.mu.Unlock()
				s.joined <- true
			}
			r.Reply(true, wire.Joined{Generation: 1, Shown: "box"}.Text())
		}
	})
	key := sc.Permissions.ExtraData["key"].(ssh.PublicKey)
	for ch := range chans {
		wg.Go(func() { s.carry(ch, key) })
	}
}

// carry splices a channel of a client to the executor.
func (s *spy) carry(nc ssh.NewChannel, key ssh.PublicKey) {
	var to wire.ReachMsg
	if err := ssh.Unmarshal(nc.ExtraData(), &to); err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	msg := wire.ExportMsg{Name: to.Name, Aname: to.Namespace, Requester: ssh.FingerprintSHA256(key), Key: string(key.Marshal())}
	s.mu.Lock()
	executor := s.executor
	if s.claim != "" {
		msg.Requester = s.claim
	}
	s.mu.Unlock()
	out, reqs, err := executor.OpenChannel(nc.ChannelType(), ssh.Marshal(&msg))
	if err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	go ssh.DiscardRequests(reqs)
	in, reqs, err := nc.Accept()
	if err != nil {
		out.Close()
		return
	}
	go ssh.DiscardRequests(reqs)
	if nc.ChannelType() == wire.ChannelDoor && s.address != "" {
		b, _ := io.ReadAll(out)
		d, _ := wire.ParseDoor(b)
		d.Address = s.address
		in.Write(d.Text())
		in.CloseWrite()
		io.Copy(out, in)
		out.Close()
		return
	}
	var wg sync.WaitGroup
	one := func(dst, src ssh.Channel) {
		io.Copy(io.MultiWriter(dst, s), src)
		dst.CloseWrite()
	}
	wg.Go(func() { one(out, in) })
	wg.Go(func() { one(in, out) })
	wg.Wait()
	out.Close()
	in.Close()
}

// Write remembers what is carried.
func (s *spy) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.carried.Write(p)
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromSigner(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *spy) dial(k ssh.Signer, d *Direct) *Conn {
	s.t.Helper()
	c, err := Dial(s.t.Context(), s.url, Options{Signers: []ssh.Signer{k}, KnownHosts: s.hosts, Direct: d})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

const (
	testSpace = "example.org/alice/hello"
	secret    = "what the orchestrator must not read"
)

// export serves one file, whose text is a secret, or for its owner "owner". It
// returns where it is reached directly.
func (s *spy) export(k ssh.Signer) string {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	d, err := NewDirect(k, l.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { d.Serve(ctx, l) })
	c := s.dial(k, d)
	wg.Go(func() {
		c.Export(ctx, Announce{Name: "box", Namespaces: []string{testSpace}}, func(ctx context.Context, rwc io.ReadWriteCloser, _ string, user fs.User) {
			text := secret
			if !user.Anonymous {
				text = "owner"
			}
			srv := ninep.Server{User: user, Root: fs.NewDir("/", fs.TextFile("file", func(context.Context) ([]byte, error) { return []byte(text), nil }))}
			srv.Serve(ctx, rwc)
		})
	})
	s.t.Cleanup(func() { cancel(); wg.Wait() })
	<-s.joined
	return l.Addr().String()
}

// file reads the file at the other end of an entry.
func file(t *testing.T, e *Entry, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	rwc, err := e.Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := ninep.Import(t.Context(), rwc, ninep.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n, err := c.Root().Walk(t.Context(), "file")
	if err != nil {
		t.Fatal(err)
	}
	b, err := fs.ReadAll(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (s *spy) door(k ssh.Signer) *Door {
	s.t.Helper()
	d, err := s.dial(k, nil).Door(s.t.Context(), testSpace, "box")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { d.Close() })
	return d
}

// An orchestrator carries only ciphertext end to end, and nothing at all of what is
// read at the executor's address.
func TestCarriesCiphertext(t *testing.T) {
	s := newSpy(t)
	s.export(newKey(t))
	d := s.door(newKey(t))
	for name, way := range map[string]func(context.Context) (*Entry, error){"direct": d.Direct, "end to end": d.Through} {
		e, err := way(t.Context())
		if got := file(t, e, err); got != secret {
			t.Errorf("%s: %q, want %q", name, got, secret)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bytes.Contains(s.carried.Bytes(), []byte(wire.Version)) { // in clear, at the begin of a connection
		t.Errorf("the orchestrator has carried no SSH: %d bytes", s.carried.Len())
	}
	if bytes.Contains(s.carried.Bytes(), []byte(secret)) {
		t.Error("the orchestrator has carried what it can read")
	}
}

// An orchestrator that lies cannot make anybody the executor's owner: that is by
// the key that a client has proven.
func TestClaimedOwner(t *testing.T) {
	s := newSpy(t)
	owner := newKey(t)
	s.export(owner)
	s.claim = ssh.FingerprintSHA256(owner.PublicKey())
	mallory := s.door(newKey(t))
	for name, way := range map[string]func(context.Context) (*Entry, error){"direct": mallory.Direct, "end to end": mallory.Through} {
		e, err := way(t.Context())
		if got := file(t, e, err); got != secret {
			t.Errorf("%s: %q: a key that the orchestrator calls the owner's is taken for it", name, got)
		}
	}
	s.claim = ""
	e, err := s.door(owner).Direct(t.Context())
	if got := file(t, e, err); got != "owner" {
		t.Errorf("the owner reads %q", got)
	}
}

// The server at the address has to have the executor's host key: a client does not
// log in at one that has another, and one that is silent does not hold it.
func TestAnotherServer(t *testing.T) {
	s := newSpy(t)
	s.export(newKey(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
		t.Error("the client tries to log in at another server")
		return nil, errors.New("no")
	}}
	config.AddHostKey(newKey(t))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	wg.Go(func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		ssh.NewServerConn(nc, config)
	})
	s.address = l.Addr().String()
	if _, err := s.door(newKey(t)).Direct(t.Context()); !errors.Is(err, ErrHostKeyChanged) {
		t.Errorf("Direct = %v, want %v", err, ErrHostKeyChanged)
	}

	// One that is silent is left when the caller's patience ends.
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		nc.Read(make([]byte, 1))
		cancel()
		io.Copy(io.Discard, nc)
	})
	if _, err := s.door(newKey(t)).Direct(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Direct = %v, want %v", err, context.Canceled)
	}
}
