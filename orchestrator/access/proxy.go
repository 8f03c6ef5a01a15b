package access

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"
)

const (
	headerTime = 5 * time.Second // a balancer sends it with the first bytes
	maxHeaders = 1024            // connections of balancers that owe one
)

// A Conn is a connection that Sources have admitted. Its RemoteAddr is the client's,
// though a balancer may stand between.
type Conn struct {
	net.Conn
	s      *Sources
	remote net.Addr
	rest   *bufio.Reader // what came behind a PROXY header; nil if there is nothing

	// What follows is guarded by s.mu.
	source     *source // nil: none
	host, wide netip.Prefix
	good       bool // at the start
	local      bool // it counts as one of no source
	healthy    bool // a balancer's own, which asks whether we live
	halfOpen   bool
	waits      bool // for a person
}

func (c *Conn) RemoteAddr() net.Addr { return c.remote }

func (c *Conn) Read(p []byte) (int, error) {
	if c.rest == nil {
		return c.Conn.Read(p)
	}
	n, err := c.rest.Read(p[:min(len(p), c.rest.Buffered())])
	if c.rest.Buffered() == 0 {
		c.rest = nil
	}
	return n, err
}

// Rest returns what Read reads from. Once all that came behind a PROXY header has been
// read, that is the connection itself.
func (c *Conn) Rest() io.Reader {
	if c.rest == nil {
		return c.Conn
	}
	return c
}

// proxied reads the PROXY header that a balancer sends, versions 1 and 2 of HAProxy's
// proxy-protocol.txt, and gives c the client's address. A connection that a balancer
// makes for itself, to ask whether the server lives (LOCAL, UNKNOWN), stays its own.
// From any other address such a header is no more than bytes of the client's.
func (s *Sources) proxied(rules sourceRules, c *Conn) error {
	ip, ok := ipOf(c.remote)
	if !ok || !rules.balancers.contains(ip) {
		return nil
	}
	s.mu.Lock()
	if s.headers >= maxHeaders {
		s.mu.Unlock()
		return s.badHeader(c, fmt.Errorf("%d connections of balancers owe a PROXY header", maxHeaders))
	}
	s.headers++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.headers--
	}()
	c.Conn.SetReadDeadline(time.Now().Add(headerTime))
	defer c.Conn.SetReadDeadline(time.Time{})
	r := bufio.NewReaderSize(c.Conn, 4096)
	h, err := proxyproto.Read(r)
	if err != nil {
		return s.badHeader(c, fmt.Errorf("a balancer sends no PROXY header: %w", err))
	}
	if r.Buffered() > 0 {
		c.rest = r
	}
	if h.Command.IsLocal() {
		c.healthy = true
		return nil
	}
	tcp, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok || tcp.IP.IsUnspecified() || tcp.IP.IsMulticast() {
		return s.badHeader(c, errors.New("the PROXY header of a balancer has no address of a TCP client"))
	}
	c.remote = tcp
	return nil
}

func (s *Sources) badHeader(c *Conn, err error) error {
	ip, _ := ipOf(c.remote)
	now := time.Now()
	s.mu.Lock()
	n := s.get(block(ip, 32, 128), now).told.tell(now)
	s.mu.Unlock()
	return s.refused(c, n, err)
}

// sourceRules are what the file of Sources says.
type sourceRules struct {
	balancers, exempt blocks
	four, six         int // bits of a source; 0: 32 and 64
}

func (r sourceRules) bits4() int {
	if r.four == 0 {
		return 32
	}
	return r.four
}

func (r sourceRules) bits6() int {
	if r.six == 0 {
		return 64
	}
	return r.six
}

type blocks []netip.Prefix

func (b blocks) contains(ip netip.Addr) bool {
	return slices.ContainsFunc(b, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// parseRules reads a file of lines
//
//	balancer ADDRESS[/BITS]...
//	exempt ADDRESS[/BITS]...
//	source BITS4 BITS6
//
// A line that it cannot read is logged and changes nothing.
func parseRules(path string, text []byte, log *slog.Logger) sourceRules {
	var r sourceRules
	eachLine(path, text, log, r.line)
	return r
}

// line adds what a line says.
func (r *sourceRules) line(line []byte) error {
	words := strings.Fields(string(line))
	var into *blocks
	switch words[0] {
	case "balancer":
		into = &r.balancers
	case "exempt":
		into = &r.exempt
	case "source":
		return r.size(words[1:])
	default:
		return fmt.Errorf("%q: want balancer, exempt or source", words[0])
	}
	if len(words) == 1 {
		return fmt.Errorf("want %s ADDRESS[/BITS]", words[0])
	}
	var all blocks
	for _, w := range words[1:] {
		p, err := parseBlock(w)
		if err != nil {
			return fmt.Errorf("%s %q: %w", words[0], w, err)
		}
		all = append(all, p)
	}
	*into = append(*into, all...)
	return nil
}

func (r *sourceRules) size(words []string) error {
	bad := errors.New("want source BITS4 BITS6, of 8 to 32 and of 16 to 64, as in source 24 56")
	if len(words) != 2 || r.four != 0 {
		return bad
	}
	four, err := strconv.Atoi(words[0])
	six, err2 := strconv.Atoi(words[1])
	if err != nil || err2 != nil || four < 8 || four > 32 || six < 16 || six > 64 {
		return bad
	}
	r.four, r.six = four, six
	return nil
}
