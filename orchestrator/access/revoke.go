package access

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs/ci"
	"9ci/orchestrator/internal/statedir"
)

// barredFile has a line for each account that may not log in again: its principal, and
// since when.
const barredFile = "barred"

const barredHead = `# Accounts that may not log in, a line each, as orchestrator revoke writes them: the
# principal, and since when. Delete a line to let one in again.
`

// parseBarred returns the principals of a file. When they were barred is for people. A
// line that begins with none is logged.
func parseBarred(path string, text []byte, log *slog.Logger) map[string]bool {
	all := map[string]bool{}
	eachLine(path, text, log, func(line []byte) error {
		principal := strings.Fields(string(line))[0]
		all[principal] = true
		return checkPrincipal(principal)
	})
	return all
}

// Revoke revokes what each of words names, in the state directory, and returns a line of
// words for each thing that it has revoked. A word is
//
//	an id of a token, token:ID     its line is deleted, and its certificates are revoked
//	a name of tokens               of each token of that name, the same
//	a serial number                that certificate is revoked, and its owner may get another
//	a principal, as github:123     its certificates are revoked, and it may not log in again
//
// A principal may have @FINGERPRINT of the directory's authority after it, as in the log.
// If a word names nothing, nothing is revoked. A server that runs ends the connections
// within a second.
func Revoke(dir string, words []string) (done []string, err error) {
	d := stateDir{statedir.Dir(dir)}
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	authority, err := d.authority()
	if err != nil {
		return nil, err
	}
	err = d.Locked(func() error {
		r, err := d.revoking(words, authority)
		if err != nil {
			return err
		}
		done, err = r.write(authority)
		return err
	})
	return done, err
}

// authority returns the key of the directory's authority, nil if there is none yet.
func (d stateDir) authority() (ssh.PublicKey, error) {
	b, err := os.ReadFile(d.Path(authorityFile)) // which may be elsewhere: nothing is made of it here
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Path(authorityFile), err)
	}
	return key.PublicKey(), nil
}

// A revoking is what is to be revoked.
type revoking struct {
	d          stateDir
	tokenText  []byte
	tokens     []*Token // of the file
	issued     []issued
	ids        map[string]bool // of tokens
	accounts   []string        // that are to be barred
	principals map[string]bool // whose certificates are to be revoked
	serials    map[uint64]bool
}

func (d stateDir) revoking(words []string, authority ssh.PublicKey) (*revoking, error) {
	r := &revoking{d: d, ids: map[string]bool{}, principals: map[string]bool{}, serials: map[uint64]bool{}}
	var err error
	if r.tokenText, err = d.Read(tokensFile); err != nil {
		return nil, err
	}
	for _, line := range numbered(r.tokenText) {
		if t, err := parseToken(line); err == nil {
			r.tokens = append(r.tokens, t)
		}
	}
	text, err := d.Read(issuedFile)
	if err != nil {
		return nil, err
	}
	r.issued = parseIssued(text)
	for _, w := range words {
		if authority != nil {
			w = strings.TrimSuffix(w, "@"+ssh.FingerprintSHA256(authority))
		}
		if strings.Contains(w, "SHA256:") {
			return nil, fmt.Errorf("%q names a key or another authority, so nothing was revoked: a line SHA256:... in %s revokes either", w, d.Path("revoked"))
		}
		if !r.name(w) {
			return nil, fmt.Errorf("%q is no token's id or name, no account as github:123, and no serial number in %s, so nothing was revoked: orchestrator tokens lists the tokens", w, d.Path(issuedFile))
		}
	}
	return r, nil
}

// name notes what a word names, and reports whether it names anything.
func (r *revoking) name(word string) bool {
	id, _ := strings.CutPrefix(word, tokenPrincipal)
	found := false
	for _, t := range r.tokens {
		if t.ID == id || t.Name == word {
			r.ids[t.ID], r.principals[t.Principal()], found = true, true, true
		}
	}
	if found {
		return true
	}
	gone := tokenPrincipal + id // a token whose line has been deleted
	if slices.ContainsFunc(r.issued, func(i issued) bool { return i.principal == gone }) {
		r.principals[gone] = true
		return true
	}
	if serial, err := strconv.ParseUint(word, 10, 64); err == nil {
		r.serials[serial] = true
		return slices.ContainsFunc(r.issued, func(i issued) bool { return i.serial == serial })
	}
	if strings.HasPrefix(word, tokenPrincipal) {
		return false
	}
	if !strings.Contains(word, ":") || checkPrincipal(word) != nil {
		return false
	}
	r.accounts, r.principals[word] = append(r.accounts, word), true
	return true
}

// write writes the files: first what keeps new certificates from being made, then what
// revokes those that are out. A process that is killed between can be started again.
func (r *revoking) write(authority ssh.PublicKey) (done []string, err error) {
	if len(r.ids) > 0 {
		text := statedir.Entries(r.tokenText, func(line []byte) bool {
			t, err := parseToken(line)
			if err != nil || !r.ids[t.ID] {
				return false
			}
			done = append(done, "token "+ci.QuoteWords([]string{t.ID, t.Name}))
			return true
		})
		if err := r.d.Write(tokensFile, text); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	for _, principal := range r.accounts {
		text, err := r.d.Read(barredFile)
		if err != nil {
			return done, err
		}
		words := "account " + principal + " may not log in again"
		if parseBarred(barredFile, text, slog.New(slog.DiscardHandler))[principal] {
			words += ", as before"
		} else if err := r.d.Add(barredFile, barredHead, principal+" "+ci.FormatTime(now)); err != nil {
			return done, err
		}
		done = append(done, words)
	}
	if authority == nil {
		return done, nil // there are no certificates yet
	}
	for n := range r.issued {
		i := &r.issued[n]
		if i.over(now) || !r.principals[i.principal] && !r.serials[i.serial] {
			continue
		}
		i.revoked = true
		done = append(done, fmt.Sprintf("certificate %d %s %s", i.serial, i.principal, i.key))
	}
	if err := r.d.Write(issuedFile, formatIssued(r.issued)); err != nil {
		return done, err
	}
	return done, r.d.writeKRL(authority)
}
