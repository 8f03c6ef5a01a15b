package web

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
)

// Limits on requests of keys.
const (
	approvalLife    = wire.ApproveTime
	maxApprovals    = 1024 // that are open
	maxApprovalsOf  = 8    // of one address, of IPv6 one /64
	maxLoopbackWord = 128  // bytes of the state of a client that listens on loopback
)

// Approvals are the requests of SSH keys that wait until a person says on the page whose
// they are. There are two kinds. With New the client shows a code, which a person types on
// the page, in any browser: the device flow of RFC 8628. With NewHere the client has opened
// a browser on its own machine, and gets a code back from there: it shows that the person
// who has approved sits where the client runs.
type Approvals struct {
	url string

	mu   sync.Mutex          // guards what follows, and Requests
	open map[string]*Request // by code, or id
	of   map[string]int      // how many, by source
}

// NewApprovals returns the approvals of the page of a URL.
func NewApprovals(url string) (*Approvals, error) {
	u, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	return &Approvals{url: u.String(), open: make(map[string]*Request), of: make(map[string]int)}, nil
}

// URL returns the URL of the page.
func (a *Approvals) URL() string { return a.url }

// A Request is one key that asks. Wait must be called.
type Request struct {
	Code string // for a person to type on the page, as WXYZ-3479; "" of NewHere
	URL  string // of the page

	a           *Approvals
	name        string // in a.open
	fingerprint string // of the key
	kind        string // of the key
	from        netip.Addr
	source      string
	made        time.Time
	back        string // URL on loopback to which the browser is sent; "" of New
	state       string

	answered  chan struct{} // closed when one of these is set
	principal string
	err       error
	proof     [sha256.Size]byte // of the code that the browser brings back
}

// Errors of Wait and Redeem.
var (
	ErrNotApproved = errors.New("the key was refused on the page")
	ErrApproveLate = fmt.Errorf("the key was not approved within %v: ask again", approvalLife)
	ErrWrongProof  = errors.New("this is not what the browser was given")
)

// New returns the request of a key of a client at an address. The error is fs.ErrBusy if
// there are too many.
func (a *Approvals) New(key ssh.PublicKey, from net.Addr) (*Request, error) {
	code := newCode()
	r := &Request{Code: code[:codeSize/2] + "-" + code[codeSize/2:], URL: a.url + "/approve", name: code}
	if err := a.add(r, key, from); err != nil {
		return nil, err
	}
	return r, nil
}

// NewHere returns the request of a key of a client that listens on a port of 127.0.0.1, in
// a browser that is opened at the request's URL. When the key is approved, the browser is
// sent to http://127.0.0.1:PORT/?code=PROOF&state=STATE; the client then shows the proof:
// Redeem. If the key is refused, it is sent there with error=access_denied instead of the
// code. The error is fs.ErrBusy if there are too many.
func (a *Approvals) NewHere(key ssh.PublicKey, from net.Addr, port uint16, state string) (*Request, error) {
	if port == 0 || state == "" || len(state) > maxLoopbackWord || strings.ContainsFunc(state, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, fmt.Errorf("want a port, and a state of %d printable ASCII characters at most", maxLoopbackWord)
	}
	id := newRequestID()
	r := &Request{URL: a.url + "/approve/" + id, name: id, back: "http://127.0.0.1:" + strconv.Itoa(int(port)) + "/", state: state}
	if err := a.add(r, key, from); err != nil {
		return nil, err
	}
	return r, nil
}

func (a *Approvals) add(r *Request, key ssh.PublicKey, from net.Addr) error {
	r.a, r.made, r.answered = a, time.Now(), make(chan struct{})
	r.fingerprint, r.kind = ssh.FingerprintSHA256(key), key.Type()
	r.from = netip.IPv6Loopback() // a Unix socket
	if t, ok := from.(*net.TCPAddr); ok {
		r.from = t.AddrPort().Addr().Unmap().WithZone("")
	}
	r.source = source(r.from)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range a.open { // of clients that never waited
		if r.made.Sub(o.made) >= approvalLife {
			a.end(o, ErrApproveLate)
		}
	}
	switch {
	case a.of[r.source] >= maxApprovalsOf:
		return fmt.Errorf("%d keys of this address wait for approval already: %w", maxApprovalsOf, fs.ErrBusy)
	case len(a.open) >= maxApprovals:
		return fmt.Errorf("%d keys wait for approval already: %w", maxApprovals, fs.ErrBusy)
	case a.open[r.name] != nil:
		return fs.ErrBusy
	}
	a.open[r.name] = r
	a.of[r.source]++
	return nil
}

// end ends a request, with an error if it has not been answered. The lock is held.
func (a *Approvals) end(r *Request, err error) {
	if a.open[r.name] != r {
		return
	}
	delete(a.open, r.name)
	if a.of[r.source]--; a.of[r.source] == 0 {
		delete(a.of, r.source)
	}
	r.err = err
	close(r.answered)
}

// Wait waits until a person has answered a request of New, and returns the principal
// that approves. The
// error is ErrNotApproved, ErrApproveLate, or that of ctx, with which the request is over.
func (r *Request) Wait(ctx context.Context) (principal string, err error) {
	late := time.NewTimer(time.Until(r.made.Add(approvalLife)))
	defer late.Stop()
	select {
	case <-r.answered:
	case <-late.C:
		err = ErrApproveLate
	case <-ctx.Done():
		err = ctx.Err()
	}
	r.a.mu.Lock()
	defer r.a.mu.Unlock()
	r.a.end(r, err) // nothing, if it was answered
	if r.back != "" && r.err == nil {
		return "", errors.New("a request of NewHere is redeemed")
	}
	return r.principal, r.err
}

// Redeem waits as Wait does for a request of NewHere, and returns the principal
// that approves, if proof is what the browser was given. It is to be called once. The error may also be ErrWrongProof.
func (r *Request) Redeem(ctx context.Context, proof string) (principal string, err error) {
	if _, err := r.Wait(ctx); r.err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(proof))
	if r.back == "" || subtle.ConstantTimeCompare(sum[:], r.proof[:]) == 0 {
		return "", ErrWrongProof
	}
	return r.principal, nil
}

// find returns the open request of a code or an id, or nil.
func (a *Approvals) find(name string) *Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.open[name]
	if r != nil && time.Since(r.made) >= approvalLife {
		return nil
	}
	return r
}

// answer answers a request, once. It reports whether the request was still open. If
// principal is "", the key is refused. Of a request of NewHere, proof is what the browser
// is to be given.
func (r *Request) answer(principal string) (proof string, ok bool) {
	r.a.mu.Lock()
	defer r.a.mu.Unlock()
	if r.a.open[r.name] != r || time.Since(r.made) >= approvalLife {
		return "", false
	}
	if principal == "" {
		r.a.end(r, ErrNotApproved)
		return "", true
	}
	r.principal = principal
	proof = newSecret()
	r.proof = sha256.Sum256([]byte(proof))
	r.a.end(r, nil)
	return proof, true
}

// codeLetters are those of codes: no vowels, so that they spell nothing (RFC 8628 §6.1),
// and no two that look alike.
const (
	codeLetters = "BCDFGHJKLMNPQRSTVWXZ34679"
	codeSize    = 8 // 25^8 codes
)

func newCode() string {
	b := make([]byte, codeSize)
	for i := range b {
		b[i] = codeLetters[below(len(codeLetters))]
	}
	return string(b)
}

// below returns a random number from 0 to n-1, of which each is as likely.
func below(n int) int {
	var b [1]byte
	for {
		rand.Read(b[:])
		if int(b[0]) < 256/n*n {
			return int(b[0]) % n
		}
	}
}

// cleanCode returns a code as it was made, from what a person has typed; "" if it can be
// none.
func cleanCode(s string) string {
	var b strings.Builder
	for _, r := range strings.ToUpper(s) {
		switch {
		case strings.ContainsRune(codeLetters, r):
			b.WriteRune(r)
		case strings.ContainsRune(" \t-–—_.", r):
		default:
			return ""
		}
		if b.Len() > codeSize {
			return ""
		}
	}
	if b.Len() != codeSize {
		return ""
	}
	return b.String()
}

// requestIDSize is how many random bytes an id has. It lets nobody in: a person who opens
// its page still has to approve.
const requestIDSize = 16

func newRequestID() string {
	b := make([]byte, requestIDSize)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

func isRequestID(s string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(b) == requestIDSize && len(s) == base64.RawURLEncoding.EncodedLen(requestIDSize)
}
