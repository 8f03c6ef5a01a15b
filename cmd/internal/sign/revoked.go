package sign

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/revoked"
)

// A revokedList is a file of revoked keys.
type revokedList struct {
	name string
	keys *revoked.List
}

// RevokeFile takes a file of revoked keys. It is no error if the file does not
// exist.
func (s *Signers) RevokeFile(name string) error {
	b, err := os.ReadFile(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.Revoke(name, b)
}

// Revoke takes the content of a file of revoked keys, as revoked.Parse reads it.
// What cannot be understood is an error, which calls the file by name.
func (s *Signers) Revoke(name string, b []byte) error {
	keys, err := revoked.Parse(b)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	s.revoked = append(s.revoked, revokedList{name, keys})
	return nil
}

// revokedBy returns the name of a file that revokes the key, or "".
func (s *Signers) revokedBy(key ssh.PublicKey) string {
	for _, r := range s.revoked {
		if r.keys.Has(key) {
			return r.name
		}
	}
	return ""
}
