package orchestrator

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/access"
)

// publicName is the requester of all that the page reads for visitors who have not logged
// in.
const publicName = "public"

// Tree returns the tree of all namespaces as a session of the person with that principal
// would see it, for the page; or, if principal is "", as everybody may. What it reads counts
// as that person's, at the page and by no key. When the person may no longer do what is
// done here, the tree ends, as a connection does. From is the visitor's address, which the
// audit names. The caller calls release when it reads no more.
func (s *Server) Tree(principal string, from netip.Addr) (root fs.Dir, release func(), err error) {
	return s.tree(func(ssh.PublicKey) (*access.Login, error) { return s.visitor(principal) }, from)
}

// tree returns the tree as a session of the login that enter gives sees it, as long as that
// may do what is done here.
func (s *Server) tree(enter func(ssh.PublicKey) (*access.Login, error), from netip.Addr) (root fs.Dir, release func(), err error) {
	login, err := enter(nil)
	if err != nil {
		return nil, nil, err
	}
	r, err := s.enter(login)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := newConn(s, visit{cancel, from}, login, enter, r)
	s.live.enter(c)
	c.recheck() // the files may have changed before live knew of it
	v := newView(ctx, c)
	return v.root(), func() {
		s.live.leave(c)
		cancel()
		v.close()
		c.wg.Wait()
		s.conns.leave(r)
	}, nil
}

// visitor returns the login of a visitor of the page.
func (s *Server) visitor(principal string) (*access.Login, error) {
	if principal == "" {
		return &access.Login{Identity: access.Identity{URI: publicName, Name: publicName}, Grant: s.public.Add(access.Grant{})}, nil
	}
	g, err := s.own.Visitor(principal)
	if err != nil {
		return nil, err
	}
	// The owner is no key, so the visitor owns no executor: the page gives no commands.
	return &access.Login{Identity: access.Identity{URI: "page:" + principal, Name: principal}, Grant: s.public.Add(g)}, nil
}

// A visit is the connection of a tree of the page: it has no channels, and nobody to tell
// anything.
type visit struct {
	end  context.CancelFunc
	from netip.Addr
}

var errVisit = errors.New("the page has no channels")

func (v visit) Close() error          { v.end(); return nil }
func (v visit) Wait() error           { return nil }
func (v visit) User() string          { return "" }
func (v visit) SessionID() []byte     { return nil }
func (v visit) ClientVersion() []byte { return nil }
func (v visit) ServerVersion() []byte { return nil }
func (v visit) RemoteAddr() net.Addr  { return &net.IPAddr{IP: v.from.AsSlice()} }
func (v visit) LocalAddr() net.Addr   { return &net.TCPAddr{IP: net.IPv6loopback} }

func (v visit) SendRequest(string, bool, []byte) (bool, []byte, error) { return false, nil, io.EOF }

func (v visit) OpenChannel(string, []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	return nil, nil, errVisit
}
