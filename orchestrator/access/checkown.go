package access

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs/ci"
	"9ci/orchestrator/internal/statedir"
	"9ci/orchestrator/revoked"
)

// OwnFiles are the files that an Authority keeps in a state directory, besides its key, and
// that of Public, in the order in which CheckOwn is to be asked of them.
var OwnFiles = []string{tokensFile, usedFile, issuedFile, krlFile, barredFile, repositoriesFile, publicFile}

// AuthorityFile is the file of the key of an Authority.
const AuthorityFile = authorityFile

// OwnKey returns the key of the Authority of a state directory, nil if there is none yet.
func OwnKey(dir string) (ssh.PublicKey, error) { return stateDir{statedir.Dir(dir)}.authority() }

// CheckOwn says what the lines of one of OwnFiles, in the state directory, grant or take
// away at the time now, to an operator, and what is wrong there. It reports an error if
// the file cannot be read, or makes no sense as a whole.
func CheckOwn(dir, name string, now time.Time) ([]Finding, error) {
	d := stateDir{statedir.Dir(dir)}
	text, err := os.ReadFile(d.Path(name))
	if err != nil {
		return nil, err
	}
	switch name {
	case tokensFile:
		return d.checkTokens(text, now)
	case issuedFile:
		return eachFinding(d.Path(name), text, func(line string) Finding {
			if _, err := parseIssuedLine(line); err != nil {
				return Finding{Err: fmt.Errorf("%w: the line is passed over, and its certificate can be revoked by its account alone, in %s or %s", err, tokensFile, barredFile)}
			}
			return Finding{}
		}), nil
	case publicFile:
		return checkPublic(d.Path(name), text), nil
	case krlFile:
		_, err := revoked.Parse(text)
		return nil, err
	case barredFile:
		return eachFinding(d.Path(name), text, func(line string) Finding {
			principal := strings.Fields(line)[0]
			if err := checkPrincipal(principal); err != nil {
				return Finding{Err: err}
			}
			return Finding{Who: principal, Words: "may not log in"}
		}), nil
	case repositoriesFile:
		all := repositories{}
		return eachFinding(d.Path(name), text, func(line string) Finding {
			if err := all.add(line, 0); err != nil {
				return Finding{Err: err}
			}
			return Finding{}
		}), nil
	}
	return nil, nil
}

// checkTokens is CheckOwn of the file tokens.
func (d stateDir) checkTokens(text []byte, now time.Time) ([]Finding, error) {
	uses, err := d.Read(usedFile)
	if err != nil {
		return nil, err
	}
	used := parseUsed(uses)
	seen := map[string]bool{}
	return eachFinding(d.Path(tokensFile), text, func(text string) Finding {
		t, err := parseToken([]byte(text))
		if err != nil {
			return Finding{Err: fmt.Errorf("%w: the line grants nothing", err)}
		}
		f := Finding{Who: "token " + ci.QuoteWords([]string{t.ID, t.Name})}
		switch l := (&line{Grant: t.Grant}); {
		case seen[t.ID]:
			f.Err = errors.New("it is the second line of the same token, and grants nothing")
		case !t.Expires.IsZero() && !now.Before(t.Expires):
			f.Err = fmt.Errorf("it expired at %s and grants nothing: orchestrator revoke takes it out", ci.FormatTime(t.Expires))
		default:
			f.Words, f.Err = l.words(), l.idle()
			if at := used[t.ID]; !at.IsZero() {
				f.Words += ", last used at " + ci.FormatTime(at)
			}
		}
		seen[t.ID] = true
		return f
	}), nil
}

// eachFinding calls f with each line of a file that is neither blank nor a comment.
func eachFinding(path string, text []byte, f func(line string) Finding) (all []Finding) {
	for n, line := range numbered(text) {
		found := f(string(line))
		found.File, found.Line = path, n
		all = append(all, found)
	}
	return all
}
