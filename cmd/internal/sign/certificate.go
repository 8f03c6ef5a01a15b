package sign

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

// loginComment begins the comment of a certificate that a person has logged in for. The
// URL of the orchestrator follows.
const loginComment = "9ci login "

// CertificateFile returns the name of the file beside the key of a name, or beside an
// agent's key NAME.pub, that has the key's certificate: NAME-cert.pub, which ssh(1) reads
// too.
func CertificateFile(name string) string { return strings.TrimSuffix(name, ".pub") + "-cert.pub" }

// ReadCertificate returns the certificate in CertificateFile, or nil if there is no file.
// Login is the URL of the orchestrator that gave it to 9ci login, or "". Nothing of the
// certificate is checked.
func ReadCertificate(name string) (cert *ssh.Certificate, login string, err error) {
	file := CertificateFile(name)
	b, err := os.ReadFile(file)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	pub, comment, _, _, err := ssh.ParseAuthorizedKey(b)
	cert, ok := pub.(*ssh.Certificate)
	if err != nil || !ok {
		return nil, "", fmt.Errorf("%s: not a certificate", file)
	}
	login, ok = strings.CutPrefix(comment, loginComment)
	if !ok {
		login = ""
	}
	return cert, login, nil
}

// WriteCertificate puts a certificate into CertificateFile (mode 0600), in the place of
// what is there. Readers see the one or the other. Login is as in ReadCertificate.
func WriteCertificate(name string, cert *ssh.Certificate, login string) error {
	file := CertificateFile(name)
	text := bytes.TrimSuffix(ssh.MarshalAuthorizedKey(cert), []byte("\n"))
	if login != "" {
		text = append(text, " "+loginComment+login...)
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".cert")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(text, '\n'))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// RemoveCertificate removes CertificateFile.
func RemoveCertificate(name string) error { return os.Remove(CertificateFile(name)) }
