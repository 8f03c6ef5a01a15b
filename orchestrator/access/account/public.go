package account

import (
	"bytes"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"9ci/orchestrator/access"
)

// publicFile has a line for each namespace, or pattern of these, that every account may
// read, and on the page everybody.
const publicFile = "public"

const publicHead = `# Namespaces that everybody may read, a line each, or patterns of these as in
# authorized_keys. An edit counts at once.
`

// Public are the namespaces that everybody may read.
type Public struct {
	get func() ([]access.Pattern, bool)
}

// OpenPublic returns the public namespaces of a state directory. It makes the file, which
// then names none, unless it is there. It logs each line that it cannot read, now and
// after each edit. It reports an error if the file cannot be read.
func OpenPublic(dir string, log *slog.Logger) (*Public, error) {
	path := filepath.Join(dir, publicFile)
	if err := access.MakeFile(path, publicHead); err != nil {
		return nil, err
	}
	get, err := access.Watch(path, func(text []byte) (all []access.Pattern, err error) {
		n := 0
		for line := range bytes.Lines(text) {
			n++
			s := strings.TrimSpace(string(line))
			if s == "" || s[0] == '#' {
				continue
			}
			p, err := access.ParsePatterns([]string{s})
			if err != nil {
				log.Error("state file", "err", fmt.Errorf("%s:%d: the line is skipped: %w", path, n, err))
				continue
			}
			all = append(all, p...)
		}
		return all, nil
	}, log)
	return &Public{get}, err
}

// Has reports whether everybody may read a namespace.
func (p *Public) Has(ns string) bool {
	all, _ := p.get()
	return len(all) > 0 && access.Grant{Namespaces: all, Read: true}.MayRead(ns)
}
