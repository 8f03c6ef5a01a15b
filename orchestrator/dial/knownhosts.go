package dial

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	iofs "io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// Host keys are checked strictly: there is no trust on first use.
var (
	ErrUnknownHost    = errors.New("unknown host key")
	ErrHostKeyChanged = errors.New("the host key has changed")
)

// A knownHosts is known_hosts files, as sshd(8) describes them. A host is known if one
// of them knows it, and a key is revoked if one of them revokes it.
type knownHosts struct {
	path    string              // of the first, the user's own
	is      ssh.HostKeyCallback // nil if there is no file
	paths   []string            // of those that are there
	lines   map[string][]string // of each of these
	skipped []string            // the lines that cannot be read, and why
}

// openKnownHosts reads the files. One that is not there knows no host. A line that
// cannot be read names no host; if it revokes a key, it is an error.
func openKnownHosts(path string, more ...string) (*knownHosts, error) {
	k := &knownHosts{path: path, lines: map[string][]string{}}
	for _, p := range append([]string{path}, more...) {
		text, err := os.ReadFile(p)
		if errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		k.paths = append(k.paths, p)
		k.lines[p] = strings.Split(string(text), "\n")
	}
	if len(k.paths) == 0 {
		return k, nil
	}
	var err error
	if k.is, err = knownhosts.New(k.paths...); err == nil {
		return k, nil
	}
	// The package takes all lines or none.
	dir, err := os.MkdirTemp("", "known_hosts")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	read := func(text string) (err error) {
		name := filepath.Join(dir, "f")
		if err = os.WriteFile(name, []byte(text), 0o600); err == nil {
			k.is, err = knownhosts.New(name)
		}
		return err
	}
	var good []string // of all files, each line at the place that it has in k.lines[path]
	for _, p := range k.paths {
		for i, line := range k.lines[p] {
			err := read(line)
			if err == nil {
				good = append(good, line)
				continue
			}
			_, why, _ := strings.Cut(err.Error(), "f:1: ")
			why = fmt.Sprintf("%s:%d: %s", p, i+1, cmp.Or(strings.TrimPrefix(why, "knownhosts: "), err.Error()))
			if strings.HasPrefix(strings.TrimSpace(line), "@revoked") {
				return nil, fmt.Errorf("%s: it revokes a key that cannot be read: mend the line, or take it out", why)
			}
			k.skipped = append(k.skipped, why)
			good = append(good, "")
		}
	}
	return k, read(strings.Join(good, "\n"))
}

// where returns the file and the line of a known key, and whether the key is an
// authority's.
func (k *knownHosts) where(w knownhosts.KnownKey) (path string, line int, authority bool) {
	path, line = w.Filename, w.Line
	if _, ok := k.lines[path]; !ok { // all files, one behind the other
		for _, p := range k.paths {
			if path = p; line <= len(k.lines[p]) {
				break
			}
			line -= len(k.lines[p])
		}
	}
	if all := k.lines[path]; line >= 1 && line <= len(all) {
		authority = strings.HasPrefix(strings.TrimSpace(all[line-1]), "@cert-authority")
	}
	return path, line, authority
}

// check returns nil if key is the one by which the host at addr is known, and else
// an error that says what to type.
func (k *knownHosts) check(addr string, remote net.Addr, key ssh.PublicKey) error {
	if k.is == nil {
		return k.unknown(addr, key)
	}
	err := k.ask(addr, remote, key)
	var ke *knownhosts.KeyError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ke) && len(ke.Want) == 0:
		return k.unknown(addr, key)
	case errors.As(err, &ke):
		for _, w := range ke.Want {
			path, line, authority := k.where(w)
			if authority {
				continue
			}
			return fmt.Errorf("%w: it is %s %s, and %s:%d has %s %s; if that is right: ssh-keygen -R %s -f %s, then %s", ErrHostKeyChanged,
				key.Type(), ssh.FingerprintSHA256(key), path, line, w.Key.Type(), ssh.FingerprintSHA256(w.Key),
				shellQuote(knownhosts.Normalize(addr)), k.name(path), k.command(addr, key))
		}
		path, line, _ := k.where(ke.Want[0])
		return fmt.Errorf("%w; it has no certificate of the authority in %s:%d", k.unknown(addr, key), path, line)
	}
	return err
}

func (k *knownHosts) unknown(addr string, key ssh.PublicKey) error {
	err := fmt.Errorf("%w %s %s; if that is its fingerprint: %s", ErrUnknownHost, key.Type(), ssh.FingerprintSHA256(key), k.command(addr, key))
	if len(k.skipped) > 0 {
		err = fmt.Errorf("%w; skipped, of %d lines that cannot be read: %s", err, len(k.skipped), k.skipped[0])
	}
	return err
}

// command returns what adds the host's key.
func (k *knownHosts) command(addr string, key ssh.PublicKey) string {
	host, port, _ := net.SplitHostPort(addr)
	kind := strings.TrimPrefix(key.Type(), "ssh-")
	if strings.HasPrefix(kind, "ecdsa-") {
		kind = "ecdsa"
	}
	s := "ssh-keyscan -t " + kind
	if port != "22" {
		s += " -p " + port
	}
	return s + " " + host + " >> " + k.name(k.path)
}

// name returns a file's path as a shell takes it.
func (k *knownHosts) name(path string) string {
	if home, err := os.UserHomeDir(); err == nil {
		if rest, ok := strings.CutPrefix(path, home+"/"); ok {
			return "~/" + rest
		}
	}
	return shellQuote(path)
}

func shellQuote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:") == "" && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// ask is k.is. Like ssh, it looks for a host at another port than 22 by its name alone
// too, if it is not known with the port.
func (k *knownHosts) ask(addr string, remote net.Addr, key ssh.PublicKey) error {
	err := k.is(addr, remote, key)
	host, port, serr := net.SplitHostPort(addr)
	if err == nil || serr != nil || port == "22" {
		return err
	}
	var ke *knownhosts.KeyError
	if _, cert := key.(*ssh.Certificate); cert || errors.As(err, &ke) && len(ke.Want) == 0 {
		if plain := k.is(net.JoinHostPort(host, "22"), remote, key); plain == nil || !errors.As(plain, &ke) {
			return plain
		}
	}
	return err
}

// algorithms returns the algorithms of host keys, the best first: those by which the
// host is known, so that a server that has several keys shows the one that can be
// checked. Certificates are among them if an authority is known.
func (k *knownHosts) algorithms(addr string, remote net.Addr) []string {
	all := ssh.SupportedAlgorithms().HostKeys
	isCert := func(a string) bool { return strings.Contains(a, "-cert-") }
	certs := slices.DeleteFunc(slices.Clone(all), func(a string) bool { return !isCert(a) })
	plain := slices.DeleteFunc(all, isCert)
	var known []string
	authorities := false
	for _, w := range k.want(addr, remote) {
		if _, _, authority := k.where(w); authority {
			authorities = true
		} else {
			known = append(known, algorithms(w.Key.Type())...)
		}
	}
	algos := append(known, slices.DeleteFunc(plain, func(a string) bool { return slices.Contains(known, a) })...)
	if authorities {
		return append(certs, algos...)
	}
	return algos
}

// want returns what the files have for the host.
func (k *knownHosts) want(addr string, remote net.Addr) []knownhosts.KnownKey {
	if k.is == nil {
		return nil
	}
	nobody, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return nil
	}
	var ke *knownhosts.KeyError
	if !errors.As(k.is(addr, remote, nobody), &ke) {
		return nil
	}
	if host, port, err := net.SplitHostPort(addr); len(ke.Want) == 0 && err == nil && port != "22" {
		return k.want(net.JoinHostPort(host, "22"), remote)
	}
	return ke.Want
}

// algorithms returns the algorithms by which a server proves a key of that type.
func algorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}
