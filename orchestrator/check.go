package orchestrator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/access"
)

// Check writes to w what the state directory dir and the authorities of o grant,
// a line for each of theirs, as FILE:LINE: and words, and what is wrong there. It
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
		c.writable(dir, fi)
		c.hostKey(filepath.Join(dir, hostKeyFile), fi)
		c.keys(filepath.Join(dir, authorizedKeysFile), false, fi)
	}
	if o.Authorities != "" {
		c.keys(o.Authorities, true, nil)
	}
	return c.well
}

// A checker writes what Check finds.
type checker struct {
	w    io.Writer
	well bool
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

// hostKey checks the host key.
func (c *checker) hostKey(path string, dir iofs.FileInfo) {
	fi, err := os.Stat(path)
	if errors.Is(err, iofs.ErrNotExist) {
		c.say(path, "it is not there: the first start makes it, and clients get to know the orchestrator by it")
		return
	}
	if err != nil {
		c.wrong(path, err)
		return
	}
	if m := fi.Mode().Perm(); m&0o077 != 0 {
		c.wrong(path, fmt.Errorf("its mode is %#o, and others may read the host key: chmod 600 %s", m, path))
	}
	c.readable(path, fi, dir)
	b, err := os.ReadFile(path)
	if err != nil {
		c.wrong(path, err)
		return
	}
	s, err := ssh.ParsePrivateKey(b)
	if err != nil {
		c.wrong(path, fmt.Errorf("%w: put the key back from a backup; without one, take the file away and the next start makes another, which all clients must get to know", err))
		return
	}
	c.say(path, ssh.FingerprintSHA256(s.PublicKey())+": clients know the orchestrator by this key")
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
		c.wrong(path+".pub", fmt.Errorf("it is not the host key's: ssh-keygen -y -f %s > %s.pub", path, path))
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
	found, err := access.Check(path, authorities, time.Now())
	if err != nil {
		c.wrong(path, err)
		return
	}
	if len(found) == 0 {
		c.say(path, "it has no keys, so it lets nobody in: a line is the .pub file of a key")
	}
	for _, f := range found {
		where, who := fmt.Sprintf("%s:%d", path, f.Line), ""
		if f.Key != "" {
			who = f.Key + ": "
		}
		if f.Words != "" {
			c.say(where, who+f.Words)
		}
		if f.Err != nil {
			c.wrong(where, fmt.Errorf("%s%w", who, f.Err))
		}
	}
}
