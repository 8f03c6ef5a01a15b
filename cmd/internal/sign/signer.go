package sign

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Certified returns key, which LoadKey made of name, with the certificate that stands
// beside it now, NAME-cert.pub. It returns nil if none stands there. Its error names
// the file of a certificate that cannot be used, and when that ended.
func Certified(key ssh.Signer, name string) (ssh.Signer, error) {
	file := CertificateFile(name)
	cert, login, err := ReadCertificate(name)
	if cert == nil {
		return nil, err
	}
	s, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	now := uint64(time.Now().Unix())
	when := func(t uint64) string { return time.Unix(int64(t), 0).UTC().Format(time.RFC3339) }
	switch {
	case now < cert.ValidAfter:
		return nil, fmt.Errorf("%s: the certificate begins at %s", file, when(cert.ValidAfter))
	case cert.ValidBefore != ssh.CertTimeInfinity && now >= cert.ValidBefore && login != "":
		return nil, fmt.Errorf("%s: the login ended at %s: 9ci login %s", file, when(cert.ValidBefore), login)
	case cert.ValidBefore != ssh.CertTimeInfinity && now >= cert.ValidBefore:
		return nil, fmt.Errorf("%s: the certificate ended at %s: renew it", file, when(cert.ValidBefore))
	}
	return s, nil
}

// Logins returns what logs in with key, which LoadKey made of name: the certificate
// that stands beside it now, and the key. The error tells of a certificate that
// cannot be used, and the key is returned all the same.
func Logins(key ssh.Signer, name string) ([]ssh.Signer, error) {
	cert, err := Certified(key, name)
	if cert == nil {
		return []ssh.Signer{key}, err
	}
	return []ssh.Signer{cert, key}, nil
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
