package access

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"9ci/fs/ci"
	"9ci/orchestrator/internal/statedir"
)

// publicFile has a pattern a line: of namespaces that everybody may read.
const publicFile = "public"

// Public are the namespaces that everybody may read: all who have logged in, and every
// visitor of the page. A namespace local/NAME is never one. A nil Public has none.
type Public struct {
	file    *watched[[]Pattern]
	changes changes
	mu      sync.Mutex                // held while now is set
	now     atomic.Pointer[[]Pattern] // what file last said: Has looks at no file
}

// OpenPublic returns the Public of a state directory, whose file need not be there. It
// logs each line that it cannot read, now and after each edit; such a line opens nothing.
// It reports an error if the file is there and cannot be read.
func OpenPublic(dir string, log *slog.Logger) (*Public, error) {
	p := &Public{}
	path := statedir.Dir(dir).Path(publicFile)
	var err error
	p.file, err = watchFile(path, func(text []byte) (all []Pattern, err error) {
		eachLine(path, text, log, func(line []byte) error {
			one, err := parsePublic(string(line))
			if err == nil {
				all = append(all, one)
			}
			return err
		})
		return all, nil
	}, p.changes.note, log)
	p.load()
	return p, err
}

// parsePublic reads a line of publicFile.
func parsePublic(line string) (Pattern, error) {
	p, err := parsePattern(line)
	if err != nil {
		return "", err
	}
	if ci.LocalNamespace(string(p)) {
		return "", errors.New("a namespace local/NAME is one executor's own, and never public")
	}
	l := lineOf(p)
	return p, l.idle()
}

func lineOf(p Pattern) *line { return &line{Grant: Grant{Namespaces: []Pattern{p}, Read: true}} }

// load looks at the file.
func (p *Public) load() {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.file.get()
	p.now.Store(&all)
}

// Changed returns a channel that is closed when the file says something else than at
// present.
func (p *Public) Changed() <-chan struct{} {
	p.load()
	return p.changes.next()
}

// Add returns g of somebody who may read what is public besides.
func (p *Public) Add(g Grant) Grant {
	p.load()
	g.public = p
	return g
}

// Has reports whether everybody may read ns. It looks at no file.
func (p *Public) Has(ns string) bool {
	return !ci.LocalNamespace(ns) && slices.ContainsFunc(p.patterns(), func(q Pattern) bool { return q.Match(ns) })
}

func (p *Public) patterns() []Pattern {
	if p == nil {
		return nil
	}
	return *p.now.Load()
}

// checkPublic is CheckOwn of the file.
func checkPublic(path string, text []byte) []Finding {
	seen := map[Pattern]bool{}
	return eachFinding(path, text, func(line string) Finding {
		p, err := parsePublic(line)
		switch {
		case err != nil:
			return Finding{Err: fmt.Errorf("%w: the line opens nothing", err)}
		case seen[p]:
			return Finding{Err: fmt.Errorf("%s stands there twice", p)}
		}
		seen[p] = true
		return Finding{Who: strings.TrimSpace(line), Words: "everybody may read it, on the page without a login"}
	})
}
