package orchestrator

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/access"
)

// The files of a state directory.
const (
	hostKeyFile        = "ssh_host_ed25519_key"
	authorizedKeysFile = "authorized_keys"
	revokedFile        = "revoked"
	sourcesFile        = "sources"
)

// openState makes in dir what a first start needs, and returns the host keys: the
// one of hostKeyFile first, then those of other files ssh_host_*_key by name.
func openState(dir string) (hostKeys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	first := filepath.Join(dir, hostKeyFile)
	host, err := hostKey(first)
	if err != nil {
		return nil, err
	}
	hosts := hostKeys{host}
	others, err := otherHostKeys(dir)
	if err != nil {
		return nil, err
	}
	for _, path := range others {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		k, err := parseHostKey(path, b)
		if err != nil {
			return nil, err
		}
		if hosts.find(k.PublicKey().Marshal()) == nil {
			hosts = append(hosts, k)
		}
	}
	return hosts, access.MakeAuthorizedKeys(filepath.Join(dir, authorizedKeysFile))
}

// otherHostKeys returns the files of host keys but for hostKeyFile, by name.
func otherHostKeys(dir string) ([]string, error) {
	all, err := filepath.Glob(filepath.Join(dir, "ssh_host_*_key"))
	return slices.DeleteFunc(all, func(path string) bool { return filepath.Base(path) == hostKeyFile }), err
}

func parseHostKey(path string, b []byte) (ssh.Signer, error) {
	s, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("host key %s: %w", path, err)
	}
	return s, nil
}

// hostKey reads the host key, or makes one if there is none.
func hostKey(path string) (ssh.Signer, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, iofs.ErrNotExist) {
		b, err = makeHostKey(path)
	}
	if err != nil {
		return nil, err
	}
	return parseHostKey(path, b)
}

// makeHostKey writes a new key and returns it. The key appears under its name as
// a whole: of two orchestrators that start at once, one wins and both use its key.
func makeHostKey(path string) ([]byte, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(priv, "9ci orchestrator")
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromSigner(priv)
	if err != nil {
		return nil, err
	}
	secret := pem.EncodeToMemory(block)
	tmp, err := os.CreateTemp(filepath.Dir(path), ".key")
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(secret)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(tmp.Name(), path); errors.Is(err, iofs.ErrExist) {
		return os.ReadFile(path)
	} else if err != nil {
		return nil, err
	}
	return secret, os.WriteFile(path+".pub", ssh.MarshalAuthorizedKey(signer.PublicKey()), 0o644)
}
