package network

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

const (
	dnsPort    = 53
	dnsNext    = time.Second      // of a resolver's silence until the next one is asked too
	dnsTime    = 9 * time.Second  // for an answer; a guest gives up after 10 (resolv.conf(5))
	dnsIdle    = 30 * time.Second // between questions on a connection
	dnsMost    = 256              // questions at once; one more is not answered
	maxMessage = 1<<16 - 1        // RFC 1035 §4.2.2
)

// A resolver asks the resolvers of this host. These are sockets of this host as
// likely as not, so what reaches them is a message that was made here and has no
// more of the guest's than a question.
type resolver struct {
	conf   string
	places chan struct{}

	mu   sync.Mutex     // guards what follows
	last netip.AddrPort // the one that answered last: it is asked first
}

func newResolver(conf string) *resolver {
	if conf == "" {
		conf = "/etc/resolv.conf"
	}
	return &resolver{conf: conf, places: make(chan struct{}, dnsMost)}
}

// servers returns the resolvers in the order in which they are to be asked.
func (r *resolver) servers() []netip.AddrPort {
	b, err := os.ReadFile(r.conf)
	var all []netip.AddrPort
	if err == nil {
		all = parseResolv(string(b))
	}
	if len(all) == 0 { // as resolv.conf(5) has it
		all = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(all, r.last); i > 0 {
		all = slices.Insert(slices.Delete(all, i, i+1), 0, r.last)
	}
	return all
}

// parseResolv returns the name servers of a resolv.conf(5).
func parseResolv(text string) []netip.AddrPort {
	var all []netip.AddrPort
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			all = append(all, netip.AddrPortFrom(a, dnsPort))
		}
	}
	return all
}

// A question is what a guest asks, and the message in which it is passed on.
type question struct {
	id   uint16 // the guest's
	sent uint16 // ours, which the guest cannot know
	q    dnsmessage.Question
	text []byte
}

var errQuestion = errors.New("not one question of DNS")

// parseQuestion makes a guest's message one of ours: its one question, its flags
// AD and CD, and what EDNS says of sizes and of DNSSEC.
func parseQuestion(msg []byte) (question, error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil {
		return question{}, err
	}
	all, err := p.AllQuestions()
	if err != nil {
		return question{}, err
	}
	if h.Response || h.OpCode != 0 || len(all) != 1 {
		return question{}, errQuestion
	}
	q := question{id: h.ID, q: all[0]}
	var id [2]byte
	rand.Read(id[:])
	q.sent = binary.BigEndian.Uint16(id[:])
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: q.sent, RecursionDesired: true, AuthenticData: h.AuthenticData, CheckingDisabled: h.CheckingDisabled,
	})
	if err := errors.Join(b.StartQuestions(), b.Question(q.q), b.StartAdditionals()); err != nil {
		return question{}, err
	}
	if p.SkipAllAnswers() == nil && p.SkipAllAuthorities() == nil {
		for {
			rh, err := p.AdditionalHeader()
			if err != nil {
				break
			}
			if rh.Type == dnsmessage.TypeOPT {
				var own dnsmessage.ResourceHeader
				err := own.SetEDNS0(int(rh.Class), dnsmessage.RCodeSuccess, rh.DNSSECAllowed())
				if err := errors.Join(err, b.OPTResource(own, dnsmessage.OPTResource{})); err != nil {
					return question{}, err
				}
				break
			}
			if p.SkipAdditional() != nil {
				break
			}
		}
	}
	q.text, err = b.Finish()
	return q, err
}

// answers reports whether a message answers q, and how.
func (q question) answers(msg []byte) (dnsmessage.RCode, bool) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != q.sent {
		return 0, false
	}
	is, err := p.Question()
	same := err == nil && is.Type == q.q.Type && is.Class == q.q.Class && strings.EqualFold(is.Name.String(), q.q.Name.String())
	return h.RCode, same
}

// failed is the answer to q where no resolver gives one.
func (q question) failed() []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: q.sent, Response: true, RecursionDesired: true, RecursionAvailable: true, RCode: dnsmessage.RCodeServerFailure,
	})
	b.StartQuestions()
	b.Question(q.q)
	msg, err := b.Finish()
	if err != nil {
		panic(err) // the question was packed before
	}
	return msg
}

// answer returns the answer to a guest's message, or nil if there is none to give.
func (r *resolver) answer(ctx context.Context, network string, msg []byte) []byte {
	q, err := parseQuestion(msg)
	if err != nil || !enter(r.places) {
		return nil
	}
	defer leave(r.places)
	ctx, cancel := context.WithTimeout(ctx, dnsTime)
	defer cancel()
	a, err := r.ask(ctx, network, q)
	if err != nil {
		a = q.failed()
	}
	binary.BigEndian.PutUint16(a, q.id)
	return a
}

// ask returns the first good answer of the resolvers. One that is silent does not
// hold up the next, and one that fails passes the question on.
func (r *resolver) ask(ctx context.Context, network string, q question) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // before Wait
	type reply struct {
		from netip.AddrPort
		msg  []byte
		code dnsmessage.RCode
		err  error
	}
	servers := r.servers()
	replies := make(chan reply)
	next := time.NewTimer(0)
	defer next.Stop()
	var second reply // what there is if none is good
	second.err = errors.New("no resolver answers")
	for asked, open := 0, 0; asked < len(servers) || open > 0; {
		select {
		case <-next.C:
			if asked == len(servers) {
				if second.err == nil {
					return second.msg, nil // the others had their time
				}
				continue
			}
			s := servers[asked]
			asked, open = asked+1, open+1
			next.Reset(dnsNext)
			wg.Go(func() {
				msg, code, err := exchange(ctx, network, s, q)
				select {
				case replies <- reply{s, msg, code, err}:
				case <-ctx.Done():
				}
			})
		case a := <-replies:
			open--
			if a.err == nil && (a.code == dnsmessage.RCodeSuccess || a.code == dnsmessage.RCodeNameError) {
				r.mu.Lock()
				r.last = a.from
				r.mu.Unlock()
				return a.msg, nil
			}
			if a.err == nil {
				second = a
			}
			if asked < len(servers) {
				next.Reset(0)
			} else {
				next.Reset(dnsNext)
			}
		case <-ctx.Done():
			return second.msg, second.err
		}
	}
	return second.msg, second.err
}

// exchange asks one resolver.
func exchange(ctx context.Context, network string, server netip.AddrPort, q question) ([]byte, dnsmessage.RCode, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, 0, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if network == "tcp" {
		if err := writeMessage(c, q.text); err != nil {
			return nil, 0, err
		}
		msg, err := readMessage(c)
		if err != nil {
			return nil, 0, err
		}
		code, ok := q.answers(msg)
		if !ok {
			return nil, 0, fmt.Errorf("%v answers another question", server)
		}
		return msg, code, nil
	}
	if _, err := c.Write(q.text); err != nil {
		return nil, 0, err
	}
	buf := make([]byte, maxMessage)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, 0, err
		}
		if code, ok := q.answers(buf[:n]); ok { // else it is somebody else's
			return bytes.Clone(buf[:n]), code, nil
		}
	}
}

// readMessage and writeMessage carry messages on a connection (RFC 1035 §4.2.2).
func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

func writeMessage(w io.Writer, msg []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
	return err
}

// answerDNS answers questions in datagrams until the router is closed.
func (r *router) answerDNS(u *gonet.UDPConn, res *resolver) {
	buf := make([]byte, maxMessage)
	for {
		n, from, err := u.ReadFrom(buf)
		if err != nil {
			return
		}
		msg := bytes.Clone(buf[:n])
		r.wg.Go(func() {
			if a := res.answer(r.ctx, "udp", msg); a != nil {
				u.WriteTo(a, from)
			}
		})
	}
}

// serveDNS answers questions on connections until the router is closed.
func (r *router) serveDNS(l net.Listener, res *resolver) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() {
			defer c.Close()
			stop := context.AfterFunc(r.ctx, func() { c.Close() })
			defer stop()
			for {
				c.SetDeadline(time.Now().Add(dnsIdle))
				msg, err := readMessage(c)
				if err != nil {
					return
				}
				a := res.answer(r.ctx, "tcp", msg)
				if a == nil || writeMessage(c, a) != nil {
					return
				}
			}
		})
	}
}
