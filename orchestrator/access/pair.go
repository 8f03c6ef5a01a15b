package access

import (
	"crypto/tls"
	"errors"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// The files of the page's certificate, with intermediate ones, and of its key, in a state
// directory.
const (
	PageCertFile = "web.crt"
	PageKeyFile  = "web.key"
)

// Pair returns a function that returns the certificate of a file, with the key of
// another. It reads the files again when they have changed. While they cannot be read, or
// do not fit each other, what they said last stands, and log is told. Pair reports an
// error if they cannot be read now.
func Pair(cert, key string, log *slog.Logger) (func() *tls.Certificate, error) {
	if _, err := tls.LoadX509KeyPair(cert, key); err != nil { // watch bears files that are not there yet
		return nil, err
	}
	w, err := watch([]string{cert, key}, parsePair, nil, log)
	if err != nil {
		return nil, err
	}
	return w.get, nil
}

// CheckPage says how browsers know the page of a state directory at the time now, or what
// is wrong with its certificate. It says nothing if there is none.
func CheckPage(dir string, now time.Time) (all []Finding) {
	file := func(name string) string { return filepath.Join(dir, name) }
	if _, err := os.Stat(file(PageCertFile)); errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	checkPair(func(name, words string, err error) {
		all = append(all, Finding{File: file(name), Words: words, Err: err})
	}, file, PageCertFile, PageKeyFile, "browsers know the page", now)
	return all
}
