package account

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"9ci/fs/ci"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/statedir"
)

// Files are the files of people in a state directory.
var Files = []string{accountsDir, invitesFile}

// Check says what each of Files grants at the time now, to an operator, and what is wrong
// there. Of accounts it names those that are wrong, and says how many there are. It says
// nothing of files that are not there.
func Check(dir string, now time.Time) (all []access.Finding) {
	d := statedir.Dir(dir)
	s := &Store{dir: d}
	accounts := d.Path(accountsDir)
	files, err := os.ReadDir(accounts)
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		all = append(all, access.Finding{File: accounts, Err: err})
	}
	n := 0
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") { // one that was being written when a process was killed
			continue
		}
		n++
		if err := s.check(f.Name()); err != nil {
			all = append(all, access.Finding{File: filepath.Join(accounts, f.Name()), Err: fmt.Errorf("%w: the account may not log in", err)})
		}
	}
	if n > 0 {
		all = append(all, access.Finding{File: accounts, Words: fmt.Sprintf("%d accounts", n)})
	}
	return append(all, checkLines(d.Path(invitesFile), func(line string) access.Finding {
		i, err := parseInvite(line)
		switch {
		case err != nil:
			return access.Finding{Err: fmt.Errorf("%w: the line invites nobody", err)}
		case !now.Before(i.Expires):
			return access.Finding{Who: "invitation " + i.ID, Words: "has ended at " + ci.FormatTime(i.Expires)}
		}
		return access.Finding{Who: "invitation " + i.ID, Words: i.words()}
	})...)
}

// checkLines returns what f finds in each line of a file that is neither blank nor a
// comment.
func checkLines(path string, f func(line string) access.Finding) (all []access.Finding) {
	text, err := os.ReadFile(path)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	} else if err != nil {
		return []access.Finding{{File: path, Err: err}}
	}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			found := f(string(line))
			found.File, found.Line = path, n
			all = append(all, found)
		}
	}
	return all
}

// words returns what the invitation is for, as a sentence without a subject.
func (i *Invite) words() string {
	s := "makes an account"
	if i.Account != "" {
		s = "gives " + i.Account + " a passkey"
	}
	if i.Name != "" {
		s += " for " + i.Name
	}
	for n, p := range i.Namespaces {
		s += []string{" that may read and publish in ", " and "}[min(n, 1)] + string(p)
	}
	return s + " until " + ci.FormatTime(i.Expires)
}

// check returns what is wrong with the file of an account.
func (s *Store) check(file string) error {
	text, err := os.ReadFile(s.dir.Path(accountsDir + "/" + file))
	if err != nil {
		return err
	}
	a, err := parse(text)
	if err != nil {
		return err
	}
	if name, err := fileName(a.Principal); err != nil {
		return err
	} else if name != accountsDir+"/"+file {
		return fmt.Errorf("it is of %s: name it %s", a.Principal, name)
	}
	return nil
}
