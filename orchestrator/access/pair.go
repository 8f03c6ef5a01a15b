package access

import (
	"crypto/tls"
	"errors"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The files of the page's certificate, with intermediate ones, and of its key, in a state
// directory.
const (
	PageCertFile = "web.crt"
	PageKeyFile  = "web.key"
)

// PageACMEDir is the directory, in a state directory, of what CAs have given the page by
// ACME: below a directory for each CA, in a file of the page's host, a key and its
// certificate; and the keys of accounts.
const PageACMEDir = "acme"

// PageACMEFiles returns the paths of the files of PageACMEDir, all of which are secrets.
func PageACMEFiles(dir string) []string {
	names, _ := iofs.Glob(os.DirFS(dir), PageACMEDir+"/*/*") // the pattern is good
	for i, name := range names {
		names[i] = filepath.Join(dir, name)
	}
	return names
}

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
	find := func(path, words string, err error) {
		all = append(all, Finding{File: path, Words: words, Err: err})
	}
	if _, err := os.Stat(file(PageCertFile)); !errors.Is(err, iofs.ErrNotExist) {
		checkPair(func(name, words string, err error) { find(file(name), words, err) }, file, PageCertFile, PageKeyFile, "browsers know the page", now)
		return all
	}
	for _, path := range PageACMEFiles(dir) {
		if !strings.Contains(filepath.Base(path), "+") { // as in acme_account+key
			checkPair(find, func(path string) string { return path }, path, path, "browsers know the page", now)
		}
	}
	return all
}
