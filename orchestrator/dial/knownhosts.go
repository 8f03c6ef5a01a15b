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
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// Host keys are checked strictly: there is no trust on first use.
var (
	ErrUnknownHost    = errors.New("unknown host key")
	ErrHostKeyChanged = errors.New("the host key has changed")
)

// A knownHosts is a known_hosts file, as sshd(8) describes it.
type knownHosts struct {
	path    string
	is      ssh.HostKeyCallback // nil if there is no file
	skipped []string            // the lines that cannot be read, and why
}

// openKnownHosts reads the file. A line that cannot be read names no host; if it
// revokes a key, it is an error.
func openKnownHosts(path string) (*knownHosts, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, iofs.ErrNotExist) {
		return &knownHosts{path: path}, nil
	}
	if err != nil {
		return nil, err
	}
	k := &knownHosts{path: path}
	if k.is, err = knownhosts.New(path); err == nil {
		return k, nil
	}
	// The package takes a file or none of it.
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
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		err := read(line)
		if err == nil {
			continue
		}
		_, why, _ := strings.Cut(err.Error(), "f:1: ")
		why = fmt.Sprintf("%s:%d: %s", path, i+1, cmp.Or(strings.TrimPrefix(why, "knownhosts: "), err.Error()))
		if strings.HasPrefix(strings.TrimSpace(line), "@revoked") {
			return nil, fmt.Errorf("%s: it revokes a key that cannot be read: mend the line, or take it out", why)
		}
		k.skipped = append(k.skipped, why)
		lines[i] = ""
	}
	return k, read(strings.Join(lines, "\n"))
}

// check returns nil if key is the one by which the host at addr is known, and else
// an error that says what to type.
func (k *knownHosts) check(addr string, remote net.Addr, key ssh.PublicKey) error {
	if k.is == nil {
		return k.unknown(addr, key)
	}
	err := k.is(addr, remote, key)
	var ke *knownhosts.KeyError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ke) && len(ke.Want) == 0:
		return k.unknown(addr, key)
	case errors.As(err, &ke):
		w := ke.Want[0]
		return fmt.Errorf("%w: it is %s %s, and %s:%d has %s %s; if that is right: ssh-keygen -R %s -f %s, then %s", ErrHostKeyChanged,
			key.Type(), ssh.FingerprintSHA256(key), k.path, w.Line, w.Key.Type(), ssh.FingerprintSHA256(w.Key),
			shellQuote(knownhosts.Normalize(addr)), k.name(), k.command(addr, key))
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
	return s + " " + host + " >> " + k.name()
}

// name returns the file's path as a shell takes it.
func (k *knownHosts) name() string {
	if home, err := os.UserHomeDir(); err == nil {
		if rest, ok := strings.CutPrefix(k.path, home+"/"); ok {
			return "~/" + rest
		}
	}
	return shellQuote(k.path)
}

func shellQuote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:") == "" && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// algorithms returns the key types by which the host is known, or nil if it is not
// known: a server that has several keys shows the one that can be checked.
func (k *knownHosts) algorithms(addr string, remote net.Addr) []string {
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
	var algos []string
	for _, w := range ke.Want {
		algos = append(algos, algorithms(w.Key.Type())...)
	}
	return algos
}

// algorithms returns the algorithms by which a server proves a key of that type.
func algorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}
