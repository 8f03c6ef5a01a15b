package sign

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// loadSigner returns the signer of a private key file in OpenSSH's format, or
// the agent's of a public key file (NAME.pub) or of a key that has a
// passphrase. Where NAME-cert.pub stands beside it, the signer comes with that
// certificate.
func loadSigner(path string) (ssh.Signer, error) {
	base := strings.TrimSuffix(path, ".pub")
	s, err := loadKey(base, base != path)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", path, err)
	}
	b, err := os.ReadFile(base + "-cert.pub")
	if errors.Is(err, iofs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(b)
	cert, ok := pub.(*ssh.Certificate)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s-cert.pub: not a certificate", base)
	}
	if s, err = ssh.NewCertSigner(cert, s); err != nil {
		return nil, fmt.Errorf("%s-cert.pub: %w", base, err)
	}
	return s, nil
}

func loadKey(base string, public bool) (ssh.Signer, error) {
	if !public {
		b, err := os.ReadFile(base)
		if err != nil {
			return nil, err
		}
		s, err := ssh.ParsePrivateKey(b)
		var locked *ssh.PassphraseMissingError
		if !errors.As(err, &locked) {
			return s, err
		}
	}
	b, err := os.ReadFile(base + ".pub")
	if err != nil {
		return nil, err
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		return nil, err
	}
	return newAgentSigner(pub)
}

// An agentSigner signs by the agent at $SSH_AUTH_SOCK, which it calls each time.
type agentSigner struct{ pub ssh.PublicKey }

func newAgentSigner(pub ssh.PublicKey) (ssh.Signer, error) {
	s := &agentSigner{pub}
	return s, s.with(func(ssh.AlgorithmSigner) error { return nil })
}

func (s *agentSigner) PublicKey() ssh.PublicKey { return s.pub }

func (s *agentSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.SignWithAlgorithm(rand, data, "")
}

func (s *agentSigner) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (sig *ssh.Signature, err error) {
	err = s.with(func(k ssh.AlgorithmSigner) error {
		if algorithm == "" {
			sig, err = k.Sign(rand, data)
		} else {
			sig, err = k.SignWithAlgorithm(rand, data, algorithm)
		}
		return err
	})
	return sig, err
}

// with calls f with the agent's signer for the key.
func (s *agentSigner) with(f func(ssh.AlgorithmSigner) error) error {
	sock := os.Getenv("SSH_AUTH_SOCK")
	if sock == "" {
		return errors.New("it needs an ssh agent, and SSH_AUTH_SOCK is not set")
	}
	nc, err := net.Dial("unix", sock)
	if err != nil {
		return fmt.Errorf("ssh agent: %w", err)
	}
	defer nc.Close()
	keys, err := agent.NewClient(nc).Signers()
	if err != nil {
		return fmt.Errorf("ssh agent: %w", err)
	}
	for _, k := range keys {
		if bytes.Equal(k.PublicKey().Marshal(), s.pub.Marshal()) {
			return f(k.(ssh.AlgorithmSigner))
		}
	}
	return errors.New("the ssh agent does not have it: ssh-add it")
}
