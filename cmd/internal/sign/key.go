// Package sign signs the manifests of runs, as ssh-keygen -Y sign does, and
// says whose signatures are trusted (ssh-keygen(1), ALLOWED SIGNERS).
package sign

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Namespace is the SSHSIG namespace of a run's manifest.
const Namespace = "run@9ci"

// LoadKey returns the key that CI_KEY names. If that is the file of an OpenSSH
// private key, LoadKey makes it (ed25519, mode 0600) if it does not exist; if it is
// that of a public key, NAME.pub, or the private key has a passphrase, the agent
// signs. It is the key alone, without a certificate.
func LoadKey(name string) (ssh.Signer, error) {
	if _, err := os.Stat(name); errors.Is(err, iofs.ErrNotExist) && !strings.HasSuffix(name, ".pub") {
		if err := makeKey(name); err != nil {
			return nil, fmt.Errorf("CI_KEY: %w", err)
		}
	}
	base := strings.TrimSuffix(name, ".pub")
	s, err := loadKey(base, base != name)
	if err != nil {
		return nil, fmt.Errorf("CI_KEY: key %s: %w", name, err)
	}
	return s, nil
}

// LookKey is LoadKey, but makes no file: if there is no key, it returns one that this
// process alone has.
func LookKey(name string) (ssh.Signer, error) {
	if _, err := os.Stat(name); !errors.Is(err, iofs.ErrNotExist) || strings.HasSuffix(name, ".pub") {
		return LoadKey(name)
	}
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(priv)
}

// makeKey makes the key file. If several processes do so at once, one succeeds and
// all use its key.
func makeKey(name string) error {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	comment := "9ci@" + host
	block, err := ssh.MarshalPrivateKey(priv, comment)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".id")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(pem.EncodeToMemory(block))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), name); err == nil {
		s, err := ssh.NewSignerFromKey(priv)
		if err != nil {
			return err
		}
		pub := append(bytes.TrimSuffix(ssh.MarshalAuthorizedKey(s.PublicKey()), []byte("\n")), " "+comment+"\n"...)
		if err := os.WriteFile(name+".pub", pub, 0o644); err != nil {
			return err
		}
	} else if !errors.Is(err, iofs.ErrExist) {
		return err
	}
	return nil
}

// Manifest signs the manifest of a run. The signature is in the armored form that
// ssh-keygen -Y verify reads.
func Manifest(s ssh.Signer, manifest []byte) ([]byte, error) {
	sig, err := sshsig.Sign(bytes.NewReader(manifest), s, sshsig.HashSHA512, Namespace)
	if err != nil {
		return nil, err
	}
	return sshsig.Armor(sig), nil
}
