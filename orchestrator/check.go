package orchestrator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
	"9ci/orchestrator/access/forge"
	"9ci/orchestrator/report"
)

// Check writes to w what the state directory dir and the authorities of o grant,
// a line for each of theirs, as FILE:LINE: and words, or FILE: for what has no lines,
// and what is wrong there. It
// changes nothing. It reports whether all is well; files that are not there are,
// if a first start makes them.
func Check(w io.Writer, dir string, o Options) bool {
	c := checker{w: w, well: true}
	fi, err := os.Stat(dir)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		c.say(dir, "it is not there: the first start makes it, with a host key and an authorized_keys that lets nobody in")
	case err != nil:
		c.wrong(dir, err)
	case !fi.IsDir():
		c.wrong(dir, errors.New("it is no directory"))
	default:
		c.authority, _ = access.OwnKey(dir) // own tells why it cannot be read
		c.writable(dir, fi)
		c.hostKeys(dir, fi)
		c.keys(filepath.Join(dir, authorizedKeysFile), false, fi)
		c.others(dir, fi)
		c.own(dir, fi)
		c.people(dir, fi)
	}
	if o.Authorities != "" {
		c.keys(o.Authorities, true, nil)
	}
	return c.well
}

// A checker writes what Check finds.
type checker struct {
	w         io.Writer
	well      bool
	authority ssh.PublicKey // the orchestrator's own; nil: none
}

func (c *checker) say(where, what string) {
	// A comment may have come from anybody.
	printable := strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, what)
	fmt.Fprintf(c.w, "%s: %s\n", where, printable)
}

func (c *checker) wrong(where string, err error) {
	c.well = false
	c.say(where, "wrong: "+err.Error())
}

// writable finds fault with a file that others may write to.
func (c *checker) writable(path string, fi iofs.FileInfo) {
	if m := fi.Mode().Perm(); m&0o022 != 0 {
		c.wrong(path, fmt.Errorf("its mode is %#o, and others may write to it: chmod go-w %s", m, path))
	}
}

// readable finds fault with a file in the directory that the directory's owner, as
// which the service runs, cannot read: an editor of root's may have made it anew.
func (c *checker) readable(path string, fi, dir iofs.FileInfo) {
	if dir == nil {
		return
	}
	file, ok := fi.Sys().(*syscall.Stat_t)
	d, ok2 := dir.Sys().(*syscall.Stat_t)
	if ok && ok2 && file.Uid != d.Uid && d.Uid != 0 && fi.Mode().Perm()&0o044 == 0 {
		c.wrong(path, fmt.Errorf("it belongs to uid %d, and uid %d, whose directory this is, cannot read it: chown %d %s", file.Uid, d.Uid, d.Uid, path))
	}
}

// secret finds fault with a file that others may read, or the service may not.
func (c *checker) secret(path, what string, fi, dir iofs.FileInfo) {
	if m := fi.Mode().Perm(); m&0o077 != 0 {
		c.wrong(path, fmt.Errorf("its mode is %#o, and others may read %s: chmod 600 %s", m, what, path))
	}
	c.readable(path, fi, dir)
}

// hostKeys checks the host keys of the state directory dir.
func (c *checker) hostKeys(dir string, fi iofs.FileInfo) {
	first := filepath.Join(dir, hostKeyFile)
	if _, err := os.Stat(first); errors.Is(err, iofs.ErrNotExist) {
		c.say(first, "it is not there: the first start makes it, and clients get to know the orchestrator by it")
	} else {
		c.hostKey(first, fi)
	}
	others, err := otherHostKeys(dir)
	if err != nil {
		c.wrong(dir, err)
	}
	for _, path := range others {
		c.hostKey(path, fi)
	}
}

// hostKey checks a host key.
func (c *checker) hostKey(path string, dir iofs.FileInfo) {
	fi, err := os.Stat(path)
	if err != nil {
		c.wrong(path, err)
		return
	}
	c.privateKey(path, fi, dir, "clients know the orchestrator by this key", "without one, take the file away and the next start makes another, which all clients must get to know")
}

// privateKey checks the file of a key, which the orchestrator uses for what words say. If
// it is lost, rescue says what then.
func (c *checker) privateKey(path string, fi, dir iofs.FileInfo, words, rescue string) {
	c.secret(path, "the key", fi, dir)
	b, err := os.ReadFile(path)
	if err != nil {
		c.wrong(path, err)
		return
	}
	s, err := ssh.ParsePrivateKey(b)
	if err != nil {
		c.wrong(path, fmt.Errorf("%w: put the key back from a backup; %s", err, rescue))
		return
	}
	c.say(path, ssh.FingerprintSHA256(s.PublicKey())+": "+words)
	public, err := os.ReadFile(path + ".pub")
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		c.say(path+".pub", "it is not there, and nothing here needs it: ssh-keygen -y -f "+path+" prints it")
		return
	case err != nil:
		c.wrong(path+".pub", err)
		return
	}
	if key, _, _, _, err := ssh.ParseAuthorizedKey(public); err != nil || !bytes.Equal(key.Marshal(), s.PublicKey().Marshal()) {
		c.wrong(path+".pub", fmt.Errorf("it is not that key's: ssh-keygen -y -f %s > %s.pub", path, path))
	}
}

// own says what the files of the orchestrator's own authority grant. A start or a command
// makes those that are not there.
func (c *checker) own(dir string, fi iofs.FileInfo) {
	path := filepath.Join(dir, access.AuthorityFile)
	switch key, err := os.Stat(path); {
	case err == nil:
		c.privateKey(path, key, fi, "certificates for people, tokens and CI jobs are signed by this key", "without one, take the file away and the next start makes another: certificates that are out count no more, and clients get others by their tokens")
	case !errors.Is(err, iofs.ErrNotExist):
		c.wrong(path, err)
	}
	for _, name := range access.OwnFiles {
		path := filepath.Join(dir, name)
		file, err := os.Stat(path)
		if errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		if err != nil {
			c.wrong(path, err)
			continue
		}
		c.writable(path, file)
		c.readable(path, file, fi)
		found, err := access.CheckOwn(dir, name, time.Now())
		if err != nil {
			c.wrong(path, err)
		}
		c.found(found)
	}
}

// people says what the files of accounts and invitations grant, and what is wrong with the
// certificate of the page and with what keeps secrets.
func (c *checker) people(dir string, fi iofs.FileInfo) {
	for _, name := range account.Files {
		c.there(filepath.Join(dir, name), fi)
	}
	c.found(account.Check(dir, time.Now()))
	c.found(access.CheckPage(dir, time.Now()))
	c.found(forge.CheckSeal(dir))
	for _, path := range slices.Concat(forge.Secrets(dir), access.PageACMEFiles(dir), []string{filepath.Join(dir, access.PageKeyFile)}) {
		if file, err := os.Stat(path); err == nil {
			c.secret(path, "the secret", file, fi)
		}
	}
}

// keys says what each line of a file of keys grants.
func (c *checker) keys(path string, authorities bool, dir iofs.FileInfo) {
	fi, err := os.Stat(path)
	if errors.Is(err, iofs.ErrNotExist) && !authorities {
		c.say(path, "it is not there, so nobody may enter: the next start makes it, without keys")
		return
	}
	if err != nil {
		c.wrong(path, err)
		return
	}
	c.writable(path, fi)
	c.readable(path, fi, dir)
	found, err := access.CheckKeys(path, authorities, c.authority, time.Now())
	if err != nil {
		c.wrong(path, err)
		return
	}
	if len(found) == 0 {
		c.say(path, "it has no keys, so it lets nobody in: a line is the .pub file of a key")
	}
	c.found(found)
}

// others checks what need not be in the state directory dir: the keys that are revoked,
// the rules of sources, the forges and what they were told, and the files of TLS.
func (c *checker) others(dir string, fi iofs.FileInfo) {
	if path := filepath.Join(dir, revokedFile); c.there(path, fi) {
		if err := access.CheckRevoked(path); err != nil {
			c.wrong(path, fmt.Errorf("%w: the next start fails", err))
		}
	}
	if path := filepath.Join(dir, sourcesFile); c.there(path, fi) {
		found, err := access.CheckSources(path)
		if err != nil {
			c.wrong(path, err)
		}
		c.found(found)
	}
	if path := filepath.Join(dir, forge.File); c.there(path, fi) {
		found, err := forge.Check(path)
		if err != nil {
			c.wrong(path, err)
		}
		c.found(found)
	}
	c.there(filepath.Join(dir, report.File), fi)
	for _, path := range access.TLSFiles(dir) {
		if info, err := os.Stat(path); err != nil {
			c.wrong(path, err)
		} else if filepath.Ext(path) == ".key" {
			c.secret(path, "the key", info, fi)
		} else {
			c.writable(path, info)
			c.readable(path, info, fi)
		}
	}
	c.found(access.CheckTLS(dir, time.Now()))
}

// there reports whether a file is there, and finds fault with it.
func (c *checker) there(path string, dir iofs.FileInfo) bool {
	fi, err := os.Stat(path)
	switch {
	case err == nil:
		c.writable(path, fi)
		c.readable(path, fi, dir)
	case !errors.Is(err, iofs.ErrNotExist):
		c.wrong(path, err)
	}
	return err == nil
}

// found says what package access has found.
func (c *checker) found(all []access.Finding) {
	for _, f := range all {
		where, who := f.File, ""
		if f.Line > 0 {
			where = fmt.Sprintf("%s:%d", f.File, f.Line)
		}
		if f.Who != "" {
			who = f.Who + ": "
		}
		if f.Words != "" {
			c.say(where, who+f.Words)
		}
		if f.Err != nil {
			c.wrong(where, fmt.Errorf("%s%w", who, f.Err))
		}
	}
}
