package access

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs/ci"
)

// A Finding is what Check says of one line of a file: what it grants, or why it
// does not grant what it seems to.
type Finding struct {
	Line  int    // from 1
	Key   string // the key's fingerprint and comment; "" if it cannot be read
	Words string // what the line grants; "" if it grants nothing
	Err   error  // nil if the line is well
}

// Check says what each line of a file of keys grants at the time now, to an
// operator. If authorities is true, every key is an authority. It reports an error
// if the file cannot be read.
func Check(path string, authorities bool, now time.Time) ([]Finding, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []Finding
	seen := make(map[string]int) // numbers of lines
	for n, line := range numbered(text) {
		key, l, err := parseLine(line)
		if err != nil {
			all = append(all, Finding{Line: n, Err: fmt.Errorf("%w: the line grants nothing", err)})
			continue
		}
		f := Finding{Line: n, Key: strings.TrimSpace(ssh.FingerprintSHA256(key) + " " + l.name)}
		l.authority = l.authority || authorities
		id := string(key.Marshal())
		if l.authority {
			id = authorityPrefix + id
		}
		switch first := seen[id]; {
		case first > 0:
			f.Err = fmt.Errorf("line %d has the same key, and it counts: this one grants nothing; a key has one line", first)
		case !l.Expires.IsZero() && !now.Before(l.Expires):
			f.Err = fmt.Errorf("the line expired at %s and grants nothing: take it out, or give it a later expiry-time", ci.FormatTime(l.Expires))
		default:
			f.Words, f.Err = l.words(), l.idle()
		}
		if first := seen[id]; first == 0 {
			seen[id] = n
		}
		all = append(all, f)
	}
	return all, nil
}

// words returns what the line grants, as a sentence without a subject.
func (l *line) words() string {
	var b strings.Builder
	if l.authority {
		if len(l.principals) > 0 {
			fmt.Fprintf(&b, "its certificates of %s ", list(l.principals))
		} else {
			b.WriteString("its certificates of any principal ")
		}
	}
	b.WriteString("may " + strings.Replace(l.Rights(), " ", " and ", 1))
	if len(l.Namespaces) == 0 {
		b.WriteString(" in all namespaces but local/NAME")
	} else {
		patterns := make([]string, len(l.Namespaces))
		for i, p := range l.Namespaces {
			patterns[i] = string(p)
		}
		b.WriteString(" in " + list(patterns))
	}
	if !l.Expires.IsZero() {
		b.WriteString(" until " + ci.FormatTime(l.Expires))
	}
	return b.String()
}

func list(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return words[0]
}

// idle returns an error that names patterns of the line that no namespace can
// match.
func (l *line) idle() error {
	var errs []error
	for _, p := range l.Namespaces {
		if p.literal() {
			if _, err := ci.CleanNamespace(string(p)); err != nil {
				errs = append(errs, fmt.Errorf("there can be no such namespace: %w; a pattern PREFIX/... is for all that follows", err))
			}
			continue
		}
		n := strings.Count(string(p), "/") + 1
		if !strings.HasSuffix(string(p), "...") && n < 3 && !(n == 2 && ci.LocalNamespace(string(p))) {
			errs = append(errs, fmt.Errorf("namespace pattern %q matches nothing, for a namespace is host/owner/repo: a last element ... is for all that follows", string(p)))
		}
	}
	return errors.Join(errs...)
}
