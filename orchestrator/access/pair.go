package access

import (
	"crypto/tls"
	"log/slog"
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
