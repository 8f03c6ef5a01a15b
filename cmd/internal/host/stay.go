package host

import (
	"fmt"
	iofs "io/fs"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/show"
	"9ci/cmd/internal/sign"
	"9ci/fs/ci"
	"9ci/orchestrator/dial"
)

// stays are the stays of this process, by the name of a key: the hosts of a daemon share
// one.
var stays sync.Map

// stay returns the Stay of the certificate beside the key of that name.
func stay(name string) *dial.Stay {
	s, _ := stays.LoadOrStore(name, dial.NewStay(beside(name)))
	return s.(*dial.Stay)
}

// beside is the certificate beside the key of that name.
type beside string

func (b beside) Read() (*ssh.Certificate, error) {
	cert, _, err := sign.ReadCertificate(string(b))
	return cert, err
}

func (b beside) Write(next *ssh.Certificate) error {
	now, login, err := sign.ReadCertificate(string(b))
	switch {
	case err != nil:
		return err
	case now == nil: // the person has logged out meanwhile
		return iofs.ErrNotExist
	}
	return sign.WriteCertificate(string(b), next, login)
}

// Refused tells the user that the login ends. A certificate that 9ci login has not made is
// renewed by those that have.
func (b beside) Refused(end time.Time, why error) {
	cert, login, err := sign.ReadCertificate(string(b))
	if err == nil && cert != nil && login != "" {
		show.Message("9ci", fmt.Sprintf("the login as %s ends at %s, and is not renewed: %v: 9ci login %s", cert.KeyId, ci.FormatTime(end), why, login))
	}
}
