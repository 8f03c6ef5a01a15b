package access

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/internal/limit"
	"9ci/orchestrator/internal/statedir"
	"9ci/orchestrator/internal/wire"
	"9ci/orchestrator/revoked"
)

// The files of the orchestrator's own authority, besides those of tokens.
const (
	authorityFile = "ca_ed25519"
	krlFile       = "revoked.krl"
)

const (
	jobLife = time.Hour   // of a certificate for a token or a job
	early   = time.Minute // that a certificate holds before it is made: clocks differ

	PersonLife = 12 * time.Hour // of a certificate for a person
)

// An Authority is the orchestrator's own: it gives short certificates to clients that
// prove to be somebody by other means than a key that the operator knows, and says what
// these may do. A certificate has one principal, which is the account:
//
//   - token:ID is a repository token. What it may do is looked up in the file tokens,
//     so that an edit counts at once.
//   - github:repo:ID, gitlab:repo:ID or HOST:repo:ID is a repository's CI job. What it may
//     do stands in the certificate, in extensions that count in no other authority's.
//   - Any other, as github:ID or passkey:ID, is a person. What it may do is asked of
//     People.
//
// Accounts can be barred, and certificates revoked: Revoke. The files of an Authority
// may be edited while it runs.
type Authority struct {
	dir    stateDir
	key    ssh.Signer
	jobs   Jobs // nil: none
	host   string
	people *knowledge // what is known of people; nil: none may log in

	tokens       *watched[tokens]
	barred       *watched[map[string]bool]
	krl          *watched[*revoked.List]
	repositories *Repositories

	checks chan struct{} // holds a token for each job that is being checked
	issues limit.Rate    // of certificates, by principal

	changes changes // of what a certificate may do

	mu      sync.Mutex           // guards what follows, and is held while files are changed
	trimmed time.Time            // when the file of certificates was last rid of old lines
	used    map[string]time.Time // when the use of a token was last written

	told        sync.Mutex          // guards what follows, and is taken after mu
	toldRevoked map[Revocation]bool // what Revoked knows; nil before its first call
	toldTokens  map[string]bool     // ids that it knows, or that have been used since
}

// Jobs know the tokens of CI jobs.
type Jobs interface {
	// Job returns the job that token is of. Host is the orchestrator's name, and
	// fingerprint that of the client's key: the token must have been made for both.
	// The error is for the log; if it is fs.ErrBusy, the token cannot be checked at
	// present.
	Job(ctx context.Context, token, host, fingerprint string) (Job, error)
}

// maxChecks is how many tokens of jobs are checked at once, and checkTime how long one
// may take: a forge is asked.
const (
	maxChecks = 64
	checkTime = 20 * time.Second
)

// How many certificates a principal gets at once, and each second after that. Each is a
// line of a file for an hour: a token that has been stolen must not fill the disk. With
// 2 a second, 4800 executors renew theirs.
const (
	issueBurst = 1000
	issueRate  = 2
)

// OpenAuthority returns the Authority of a state directory, which it makes on a first
// start. Host is the orchestrator's name, for which tokens of jobs must be made out; ""
// refuses all of these, and so does a jobs that is nil. It logs each line of a file that
// it cannot read, now and after each edit; such a line grants nothing. It reports an
// error if a file is there and cannot be read.
func OpenAuthority(dir string, jobs Jobs, host string, log *slog.Logger) (*Authority, error) {
	d := stateDir{statedir.Dir(dir)}
	key, err := PrivateKey(d.Path(authorityFile), "9ci orchestrator CA")
	if err != nil {
		return nil, err
	}
	a := &Authority{
		dir: d, key: key, jobs: jobs, host: host, used: map[string]time.Time{},
		checks: make(chan struct{}, maxChecks), issues: limit.Rate{Burst: issueBurst, PerSecond: issueRate},
	}
	// A stock sshd that is told of the list wants it to be there.
	if _, err := os.Stat(d.Path(krlFile)); errors.Is(err, iofs.ErrNotExist) {
		if err := d.Locked(func() error { return d.writeKRL(key.PublicKey()) }); err != nil {
			return nil, err
		}
	}
	if a.krl, err = watchFile(d.Path(krlFile), revoked.Parse, a.changes.note, log); err != nil {
		return nil, err
	}
	if a.tokens, err = watchFile(d.Path(tokensFile), func(text []byte) (tokens, error) {
		return parseTokens(d.Path(tokensFile), text, log), nil
	}, a.changes.note, log); err != nil {
		return nil, err
	}
	if a.barred, err = watchFile(d.Path(barredFile), func(text []byte) (map[string]bool, error) {
		return parseBarred(d.Path(barredFile), text, log), nil
	}, a.changes.note, log); err != nil {
		return nil, err
	}
	if a.repositories, err = OpenRepositories(dir, log); err != nil {
		return nil, err
	}
	_, err = a.Revoked()
	return a, err
}

// Key returns the key that signs the certificates.
func (a *Authority) Key() ssh.PublicKey { return a.key.PublicKey() }

// Changed is Policy's.
func (a *Authority) Changed() <-chan struct{} {
	a.load()
	return a.changes.next()
}

// load looks at the files that say what certificates may do.
func (a *Authority) load() (t tokens, barred map[string]bool, krl *revoked.List) {
	return a.tokens.get(), a.barred.get(), a.krl.get()
}

// made reports whether key is a certificate that a has made, or claims to be one.
func (a *Authority) made(key ssh.PublicKey) bool {
	cert, ok := key.(*ssh.Certificate)
	return ok && bytes.Equal(cert.SignatureKey.Marshal(), a.key.PublicKey().Marshal())
}

// identify is Policy's Identify of a certificate that a has made.
func (a *Authority) identify(cert *ssh.Certificate) (Identity, error) {
	_, barred, krl := a.load()
	if cert.CertType != ssh.UserCert || len(cert.ValidPrincipals) != 1 {
		return Identity{}, errors.New("not a user certificate of one principal")
	}
	principal := cert.ValidPrincipals[0]
	if err := checkPrincipal(principal); err != nil {
		return Identity{}, err
	}
	if err := new(ssh.CertChecker).CheckCert(principal, cert); err != nil {
		return Identity{}, err
	}
	if krl.Has(cert) {
		return Identity{}, errors.New("this certificate is revoked")
	}
	if barred[principal] {
		return Identity{}, errBarred(principal)
	}
	return Identity{Key: cert, Name: principal}, nil
}

func errBarred(principal string) error {
	return fmt.Errorf("%s is barred: a line of the file %s says since when, and without that line it may log in again", principal, barredFile)
}

// grant is Policy's Grant of what identify has returned.
func (a *Authority) grant(id Identity) (Grant, error) {
	all, _, _ := a.load()
	if tid, ok := strings.CutPrefix(id.Name, tokenPrincipal); ok {
		t := all[tid]
		if t == nil {
			return Grant{}, fmt.Errorf("the token %s is revoked", tid)
		}
		return t.Grant, t.expired()
	}
	if cert := id.Key.(*ssh.Certificate); isJob(cert) {
		return jobGrant(cert)
	}
	return a.personGrant(id.Name)
}

func (t *Token) expired() error {
	if !t.Expires.IsZero() && !time.Now().Before(t.Expires) {
		return errTokenExpired
	}
	return nil
}

var errTokenExpired = errors.New("the token has expired")

// checkPrincipal returns why s cannot be an account's: it is a word in files and
// certificates, where a comma separates others.
func checkPrincipal(s string) error {
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(",'\"\\", r) }
	if s == "" || len(s) > maxPrincipal || s[0] == '#' || strings.ContainsFunc(s, bad) {
		return fmt.Errorf("principal %.80q: want %d printable ASCII characters at most, without commas and quotes", s, maxPrincipal)
	}
	return nil
}

const maxPrincipal = 300 // bytes: a host's name, and what a forge calls a repository

// A RefusedError is a token that lets nobody in.
type RefusedError struct {
	Words string // for the client, no more than it may know
	Err   error  // for the log
}

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

const refusedWords = "the token lets this key in nowhere: it is wrong, revoked or not meant for this, and the orchestrator's log says why"

func refuse(err error) error { return &RefusedError{refusedWords, err} }

// Login returns a certificate for key by a token: a repository token, or a CI job's.
// The error is a RefusedError, or fs.ErrBusy if the token may be tried again, or of the
// state directory.
func (a *Authority) Login(ctx context.Context, token string, key ssh.PublicKey) (*ssh.Certificate, error) {
	switch {
	case token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return nil, refuse(errors.New("what was given is no token"))
	case strings.HasPrefix(token, wire.TokenPrefix):
		return a.byToken(token, key)
	}
	return a.byJob(ctx, token, key)
}

// byToken is Login by a repository token.
func (a *Authority) byToken(secret string, key ssh.PublicKey) (*ssh.Certificate, error) {
	all, _, _ := a.load()
	t := all.find(secret)
	if t == nil {
		return nil, refuse(errors.New("a repository token that is not known, or no more"))
	}
	if err := t.expired(); err != nil {
		// A client that has the token may know that it has ended.
		return nil, &RefusedError{"the token has expired: ask for another", fmt.Errorf("%s: %w", t.Principal(), err)}
	}
	return a.issue(key, t.Principal(), jobLife, nil, func(now time.Time) error {
		all, _, _ := a.load()
		if all[t.ID] == nil {
			return refuse(fmt.Errorf("the token %s is revoked", t.ID))
		}
		a.told.Lock()
		a.toldTokens[t.ID] = true
		a.told.Unlock()
		if now.Sub(a.used[t.ID]) < usedEvery {
			return nil
		}
		a.used[t.ID] = now
		maps.DeleteFunc(a.used, func(_ string, at time.Time) bool { return now.Sub(at) >= usedEvery })
		return a.dir.note(t.ID, now, all)
	})
}

// issue returns a certificate for key that holds for life. Before, it calls admit with
// the lock held.
func (a *Authority) issue(key ssh.PublicKey, principal string, life time.Duration, extensions map[string]string, admit func(now time.Time) error) (*ssh.Certificate, error) {
	if err := checkPrincipal(principal); err != nil {
		return nil, err
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return nil, refuse(errors.New("a certificate gets no certificate"))
	}
	if _, ok := a.issues.Take(principal); !ok {
		return nil, fmt.Errorf("%s has had %d certificates, and gets %d a second: %w", principal, issueBurst, issueRate, fs.ErrBusy)
	}
	now := time.Now()
	cert := &ssh.Certificate{
		Key:             key,
		CertType:        ssh.UserCert,
		KeyId:           principal,
		ValidPrincipals: []string{principal},
		ValidAfter:      uint64(now.Add(-early).Unix()),
		ValidBefore:     uint64(now.Add(life).Unix()),
		Permissions:     ssh.Permissions{Extensions: extensions},
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.dir.Locked(func() (err error) {
		if _, barred, _ := a.load(); barred[principal] {
			return refuse(errBarred(principal))
		}
		if err := admit(now); err != nil {
			return err
		}
		if now.Sub(a.trimmed) > trimEvery {
			if err := a.dir.trimIssued(now); err != nil {
				return err
			}
			a.trimmed = now
		}
		// The number is on the disk before the certificate is anywhere.
		cert.Serial, err = a.dir.addIssued(now, issued{principal: principal, key: ssh.FingerprintSHA256(key), expires: time.Unix(int64(cert.ValidBefore), 0)})
		return err
	})
	if err != nil {
		return nil, err
	}
	return cert, cert.SignCert(rand.Reader, a.key)
}

// A Revocation is something that lets nobody in any more.
type Revocation struct {
	Principal string
	Serial    uint64 // of a certificate; 0: the token or the account itself
	Key       string // the fingerprint of the key that the certificate is for
}

// Revoked returns what has been revoked since the last call, of certificates, tokens
// and accounts, for the log. Those that were when a was opened are not among them.
func (a *Authority) Revoked() ([]Revocation, error) {
	all, barred, _ := a.load()
	text, err := a.dir.Read(issuedFile)
	if err != nil {
		return nil, err
	}
	now := map[Revocation]bool{}
	for _, i := range parseIssued(text) {
		if i.revoked {
			now[Revocation{i.principal, i.serial, i.key}] = true
		}
	}
	for principal := range barred {
		now[Revocation{Principal: principal}] = true
	}
	a.told.Lock()
	defer a.told.Unlock()
	var fresh []Revocation
	for r := range now {
		if a.toldRevoked != nil && !a.toldRevoked[r] {
			fresh = append(fresh, r)
		}
	}
	for id := range a.toldTokens {
		if all[id] == nil {
			fresh = append(fresh, Revocation{Principal: tokenPrincipal + id})
		}
	}
	a.toldRevoked, a.toldTokens = now, map[string]bool{}
	for id := range all {
		a.toldTokens[id] = true
	}
	slices.SortFunc(fresh, func(x, y Revocation) int {
		return cmp.Or(strings.Compare(x.Principal, y.Principal), cmp.Compare(x.Serial, y.Serial))
	})
	return fresh, nil
}
