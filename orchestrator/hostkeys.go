package orchestrator

import (
	"bytes"
	"crypto/rand"
	"errors"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/ssh"
)

// The global requests by which stock ssh learns of host keys that it does not know
// yet, and forgets those that are gone (UpdateHostKeys; OpenSSH's PROTOCOL §2.5).
const (
	requestHostKeys      = "hostkeys-00@openssh.com"
	requestHostKeysProve = "hostkeys-prove-00@openssh.com"
)

// maxProofs is how often one connection may ask for proofs, which are signatures. A
// client asks once.
const maxProofs = 4

// hostKeys are the server's host keys. The first is the one by which HostKey and the
// log know the server. A client is shown the first of the type that it asks for.
type hostKeys []ssh.Signer

// shown returns the keys that a handshake may use, one of each type.
func (h hostKeys) shown() (one []ssh.Signer) {
	types := map[string]bool{}
	for _, k := range h {
		if t := k.PublicKey().Type(); !types[t] {
			types[t] = true
			one = append(one, k)
		}
	}
	return one
}

// payload is that of requestHostKeys: all keys.
func (h hostKeys) payload() []byte {
	var b cryptobyte.Builder
	for _, k := range h {
		addString(&b, k.PublicKey().Marshal())
	}
	return b.BytesOrPanic()
}

func addString(b *cryptobyte.Builder, s []byte) {
	b.AddUint32LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(s) })
}

// prove answers a requestHostKeysProve: a signature by each key that it names. Rsa
// is the algorithm for RSA keys.
func (h hostKeys) prove(payload, session []byte, rsa string) ([]byte, error) {
	var reply cryptobyte.Builder
	s := cryptobyte.String(payload)
	n := 0
	for ; !s.Empty(); n++ {
		var size uint32
		var blob []byte
		if n == len(h) || !s.ReadUint32(&size) || uint64(size) > uint64(len(s)) || !s.ReadBytes(&blob, int(size)) {
			return nil, errors.New("want host keys of this server, each once")
		}
		k := h.find(blob)
		if k == nil {
			return nil, errors.New("this server has no such host key")
		}
		var b cryptobyte.Builder
		addString(&b, []byte(requestHostKeysProve))
		addString(&b, session)
		addString(&b, blob)
		sig, err := signAs(k, b.BytesOrPanic(), rsa)
		if err != nil {
			return nil, err
		}
		addString(&reply, ssh.Marshal(sig))
	}
	if n == 0 {
		return nil, errors.New("want host keys of this server")
	}
	return reply.BytesOrPanic(), nil
}

func (h hostKeys) find(blob []byte) ssh.Signer {
	for _, k := range h {
		if bytes.Equal(k.PublicKey().Marshal(), blob) {
			return k
		}
	}
	return nil
}

func signAs(k ssh.Signer, data []byte, rsa string) (*ssh.Signature, error) {
	if as, ok := k.(ssh.AlgorithmSigner); ok && k.PublicKey().Type() == ssh.KeyAlgoRSA {
		return as.SignWithAlgorithm(rand.Reader, data, rsa)
	}
	return k.Sign(rand.Reader, data)
}

// proveHostKeys answers a requestHostKeysProve on c. Serve alone calls it.
func (c *conn) proveHostKeys(payload []byte) ([]byte, error) {
	if c.overTLS() {
		return nil, errors.New("over TLS there are no host keys")
	}
	if c.proofs++; c.proofs > maxProofs {
		return nil, errors.New("too many proofs of host keys")
	}
	// OpenSSH wants the algorithm of the handshake if that was one of RSA.
	rsa := ssh.KeyAlgoRSASHA512
	if a, ok := c.ssh.(ssh.AlgorithmsConnMetadata); ok && a.Algorithms().HostKey == ssh.KeyAlgoRSASHA256 {
		rsa = ssh.KeyAlgoRSASHA256
	}
	return c.s.hosts.prove(payload, c.ssh.SessionID(), rsa)
}
