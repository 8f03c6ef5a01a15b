package access

import (
	"log/slog"
	"sync/atomic"
	"time"
)

// A Job is what a forge vouches for of a CI job that logs in: which repository it is
// of, and which of its rights it has. A job may read there, and nowhere else.
type Job struct {
	Principal    string    // stable: github:repo:ID and gitlab:repo:ID of github.com and gitlab.com, else HOST:repo:ID
	Host         string    // the forge, as its namespaces begin
	Namespace    string    // of the repository at present
	RepositoryID string    // at Host, in decimal: it survives a new name and owner, and a name may get another one
	OwnerID      string    // of the repository's owner, in decimal; "" if the forge does not say
	Commit       string    // that the job is for, in hexadecimal; "" if the forge does not say
	Publish      bool      // whether it may publish runs of Commit, which then is not ""
	Expires      time.Time // of what the job has shown; zero if that does not say. A login may last longer
}

// ParsePattern reads a pattern of namespaces.
func ParsePattern(s string) (Pattern, error) { return parsePattern(s) }

// MakeFile makes a file of the state directory with that text, unless it is there.
func MakeFile(path, text string) error { return makeFile(path, text) }

// Watch returns a function that returns what parse makes of a file, and whether that
// is new since its last call. The function reads the file again when it has changed.
// While the file cannot be read, cannot be understood or is gone, what it said last
// stands, and log is told. A file that is not there at first says what an empty one
// says. Watch reports an error if the file is there and cannot be read.
func Watch[T any](path string, parse func(text []byte) (T, error), log *slog.Logger) (get func() (v T, fresh bool), err error) {
	var anew atomic.Bool
	w, err := watchFile(path, parse, func() { anew.Store(true) }, log)
	anew.Store(false)
	return func() (T, bool) {
		v := w.get()
		return v, anew.Swap(false)
	}, err
}
