package access

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"9ci/orchestrator/internal/statedir"
)

// repositoriesFile has a line for each namespace that a CI job has logged in for, or that
// a person may enter who is known to its repository: the namespace, the forge's host, and
// the number of the repository there. A repository that takes the name of one that was
// renamed or deleted has another number, and is refused until the line is gone.
const repositoriesFile = "repositories"

const repositoriesHead = `# The repositories that CI jobs and people have logged in for: namespace, forge, the forge's number.
# Another repository that takes a name is refused. Delete the line if that is right.
`

// repositories are the lines, by namespace.
type repositories map[string]repository

type repository struct {
	host, id string
	line     int // from 1
}

func parseRepositories(path string, text []byte, log *slog.Logger) repositories {
	all := repositories{}
	for n, line := range numbered(text) {
		if err := all.add(string(line), n); err != nil {
			log.Error("state file", "err", fmt.Errorf("%s:%d: the line is skipped: %w", path, n, err))
		}
	}
	return all
}

// add adds a line of that number.
func (all repositories) add(line string, n int) error {
	f := strings.Fields(line)
	if len(f) != 3 {
		return errors.New("want NAMESPACE HOST NUMBER")
	}
	if _, twice := all[f[0]]; twice {
		return errors.New("it is the second one of the same namespace")
	}
	all[f[0]] = repository{f[1], f[2], n}
	return nil
}

// Repositories know which repository of a forge a namespace stands for: the one that it
// was first seen with, as the file repositories has it. A name can be given to another
// repository when the old one is renamed, transferred or deleted. Their methods may be
// called from several goroutines.
type Repositories struct {
	dir  statedir.Dir
	list *watched[repositories]
}

// OpenRepositories returns the Repositories of a state directory. Their file may be
// edited while they are used. It reports an error if the file is there and cannot be
// read.
func OpenRepositories(dir string, log *slog.Logger) (*Repositories, error) {
	r := &Repositories{dir: statedir.Dir(dir)}
	var err error
	path := r.dir.Path(repositoriesFile)
	r.list, err = watchFile(path, func(text []byte) (repositories, error) { return parseRepositories(path, text, log), nil }, nil, log)
	return r, err
}

// ErrOtherRepository is the error for a namespace that stands for another repository. Its
// text tells an operator what to do.
var ErrOtherRepository = errors.New("another repository has taken the name")

// Same reports whether a namespace has been seen. The error is ErrOtherRepository if that
// was with another repository than the one with that number at the forge host.
func (r *Repositories) Same(namespace, host, id string) (seen bool, err error) {
	all := r.list.get()
	old, ok := all[namespace]
	if ok && (old.host != host || old.id != id) {
		err = fmt.Errorf("%w: %s is the repository %s of %s now, and was %s of %s: if that is right, delete line %d of %s",
			ErrOtherRepository, namespace, id, host, old.id, old.host, old.line, r.dir.Path(repositoriesFile))
	}
	return ok, err
}

// Know returns the error of Same, or why it could not write the file. A namespace that has
// not been seen stands for that repository from now on.
func (r *Repositories) Know(namespace, host, id string) error {
	if seen, err := r.Same(namespace, host, id); seen || err != nil {
		return err
	}
	return r.dir.Locked(func() error { return r.know(namespace, host, id) })
}

// know is Know while the lock is held.
func (r *Repositories) know(namespace, host, id string) error {
	seen, err := r.Same(namespace, host, id)
	if !seen {
		return r.dir.Add(repositoriesFile, repositoriesHead, namespace+" "+host+" "+id)
	}
	return err
}
