package forge

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/statedir"
)

// A secret is printed by nothing. In a struct its field is exported: fmt shows the others
// as they are.
type secret string

func (secret) String() string                { return "(a secret)" }
func (secret) GoString() string              { return "(a secret)" }
func (secret) LogValue() slog.Value          { return slog.StringValue("(a secret)") }
func (secret) Format(s fmt.State, verb rune) { fmt.Fprint(s, "(a secret)") }

// sealFile has the key that the tokens of people are sealed with, in base64. Without it
// they are worth nothing: everybody logs in again.
const sealFile = "seal.key"

// A sealer seals what is kept of an account, for that account alone.
type sealer struct{ cipher.AEAD }

// openSealer returns the sealer of a state directory. It makes the key on a first start.
func openSealer(dir statedir.Dir) (s sealer, err error) {
	err = dir.Locked(func() error {
		text, err := dir.Read(sealFile)
		if err != nil {
			return err
		}
		key := make([]byte, chacha20poly1305.KeySize)
		if len(text) == 0 {
			rand.Read(key)
			err = dir.Write(sealFile, []byte(base64.StdEncoding.EncodeToString(key)+"\n"))
		} else if key, err = parseSeal(text); err != nil {
			err = fmt.Errorf("%s: %w", dir.Path(sealFile), err)
		}
		if err != nil {
			return err
		}
		s.AEAD, err = chacha20poly1305.NewX(key)
		return err
	})
	return s, err
}

func parseSeal(text []byte) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != chacha20poly1305.KeySize {
		return nil, errors.New("it is no key: delete it, and everybody logs in again")
	}
	return key, nil
}

// CheckSeal returns why the key of the accounts' tokens in a state directory, if there is
// one, keeps the next start from serving.
func CheckSeal(dir string) (all []access.Finding) {
	d := statedir.Dir(dir)
	text, err := d.Read(sealFile)
	if err == nil && len(text) > 0 {
		_, err = parseSeal(text)
	}
	if err != nil {
		all = append(all, access.Finding{File: d.Path(sealFile), Err: err})
	}
	return all
}

// sealVersion is the first byte of what is sealed.
const sealVersion = 1

// seal seals text for an account. XChaCha20's nonces are long enough to be random.
func (s sealer) seal(principal string, text []byte) []byte {
	b := make([]byte, 1+s.NonceSize(), 1+s.NonceSize()+len(text)+s.Overhead())
	b[0] = sealVersion
	rand.Read(b[1:])
	return s.Seal(b, b[1:], text, additional(principal))
}

// open returns what was sealed for an account.
func (s sealer) open(principal string, sealed []byte) ([]byte, error) {
	if len(sealed) < 1+s.NonceSize() || sealed[0] != sealVersion {
		return nil, errors.New("it was not sealed here")
	}
	nonce, text := sealed[1:1+s.NonceSize()], sealed[1+s.NonceSize():]
	return s.Open(nil, nonce, text, additional(principal))
}

func additional(principal string) []byte { return []byte("9ci forge token\x00" + principal) }
