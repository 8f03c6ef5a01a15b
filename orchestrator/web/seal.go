package web

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// A sealer keeps what is under way with a browser, at the browser: a login at a forge, a
// ceremony of WebAuthn. So a client that begins a thousand of these and finishes none fills
// no table. What is sealed is bound to the browser that it was sealed for, and is opened
// once.
type sealer struct {
	aead cipher.AEAD

	mu   sync.Mutex           // guards used
	used map[string]time.Time // nonces that have been opened, and when they end
}

// sealLife is how long a login or a ceremony may take.
const sealLife = 10 * time.Minute

// maxUsed is how many nonces are remembered. Beyond that nobody logs in, for what has been
// opened might be opened again. Limits keep one address from getting there.
const maxUsed = 1 << 16

func newSealer() *sealer {
	key := make([]byte, chacha20poly1305.KeySize)
	rand.Read(key)
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		panic(err)
	}
	return &sealer{aead: aead, used: make(map[string]time.Time)}
}

type sealed struct {
	Ends  time.Time
	Value json.RawMessage
}

// seal returns v, sealed for an owner and a purpose.
func (s *sealer) seal(purpose, owner string, v any) (string, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(sealed{time.Now().Add(sealLife), value})
	if err != nil {
		return "", err
	}
	nonce := make([]byte, s.aead.NonceSize())
	rand.Read(nonce) // 24 bytes: no two are equal
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nonce, nonce, text, bound(purpose, owner))), nil
}

// open reads into v what seal has sealed for the same owner and purpose. The error is
// errStale for anything else, for what has been opened before, and when its time is over.
func (s *sealer) open(purpose, owner, text string, v any) error {
	b, err := base64.RawURLEncoding.DecodeString(text)
	n := s.aead.NonceSize()
	if err != nil || len(b) < n {
		return errStale
	}
	plain, err := s.aead.Open(nil, b[:n], b[n:], bound(purpose, owner))
	if err != nil {
		return errStale
	}
	var got sealed
	if err := json.Unmarshal(plain, &got); err != nil {
		return err
	}
	now := time.Now()
	if !now.Before(got.Ends) {
		return errStale
	}
	if err := s.once(string(b[:n]), now, got.Ends); err != nil {
		return err
	}
	return json.Unmarshal(got.Value, v)
}

func bound(purpose, owner string) []byte { return []byte(purpose + "\x00" + owner) }

func (s *sealer) once(nonce string, now, ends time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.used[nonce]; ok {
		return errStale
	}
	if len(s.used) >= maxUsed {
		for n, t := range s.used {
			if !now.Before(t) {
				delete(s.used, n)
			}
		}
		if len(s.used) >= maxUsed {
			return errTooMany
		}
	}
	s.used[nonce] = ends
	return nil
}
