package access

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// repositoriesFile has a line for each namespace that a CI job has logged in for: the
// namespace, the forge's host, and the number of the repository there. A repository that
// takes the name of one that was renamed or deleted has another number, and is refused
// until the line is gone.
const repositoriesFile = "repositories"

const repositoriesHead = `# The repositories that CI jobs have logged in for: namespace, forge, the forge's number.
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

// know returns an error unless the repository of a job is the one that its namespace was
// first seen with. The lock is held.
func (a *Authority) know(j Job) error {
	all := a.repositories.get()
	r, ok := all[j.Namespace]
	if !ok {
		return a.dir.Add(repositoriesFile, repositoriesHead, j.Namespace+" "+j.Host+" "+j.RepositoryID)
	}
	if r.host != j.Host || r.id != j.RepositoryID {
		return refuse(fmt.Errorf("%s is the repository %s of %s now, and was %s of %s: if that is right, delete line %d of %s",
			j.Namespace, j.RepositoryID, j.Host, r.id, r.host, r.line, a.dir.Path(repositoriesFile)))
	}
	return nil
}
