package access

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"9ci/fs"
)

// A stateDir is a state directory whose files a server and commands of an operator
// change. A process that changes a file holds the lock, and writes the file anew under
// another name, which then takes the old one's place: a reader needs no lock, and a
// process that is killed leaves the old file or the new one.
type stateDir string

const (
	lockFile = "lock"
	lockWait = 5 * time.Second // for a process that holds the lock, which takes milliseconds
	lockPoll = 5 * time.Millisecond
)

func (d stateDir) path(name string) string { return filepath.Join(string(d), name) }

// locked calls f while it holds the lock. Its error is fs.ErrBusy if another process
// holds it for long.
func (d stateDir) locked(f func() error) error {
	lock, err := d.create(lockFile, os.O_RDWR)
	if err != nil {
		return err
	}
	defer lock.Close()
	for began := time.Now(); ; time.Sleep(lockPoll) {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f()
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("%s: %w", lock.Name(), err)
		case time.Since(began) > lockWait:
			return fmt.Errorf("%s is locked by another process, a stopped orchestrator token or revoke perhaps (fuser shows which): %w", lock.Name(), fs.ErrBusy)
		}
	}
}

// create opens a file, and makes it if it is not there.
func (d stateDir) create(name string, flag int) (*os.File, error) {
	f, err := d.open(name, flag|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := d.give(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// open opens a file. A command that root starts in a directory of the server's user must
// read, change and give away no file elsewhere, whatever that user has put there: a
// symbolic link is an error, and so is a pipe.
func (d stateDir) open(name string, flag int) (*os.File, error) {
	f, err := os.OpenFile(d.path(name), flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	plain := !errors.Is(err, unix.ELOOP)
	if err == nil {
		fi, err := f.Stat()
		if plain = err == nil && fi.Mode().IsRegular(); !plain {
			f.Close()
		}
	}
	if !plain {
		return nil, fmt.Errorf("%s: want a plain file, not a link or a pipe: put one there, or take it away", d.path(name))
	}
	return f, err
}

// give gives a file that root has made to the owner of the directory, as which the
// server may run.
func (d stateDir) give(f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	fi, err := os.Stat(string(d))
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
		return f.Chown(int(st.Uid), int(st.Gid))
	}
	return nil
}

// read returns what a file says, nothing if it is not there.
func (d stateDir) read(name string) ([]byte, error) {
	f, err := d.open(name, os.O_RDONLY)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// write makes text what a file says. The lock is held.
func (d stateDir) write(name string, text []byte) error {
	next := "." + name + ".new"
	if err := os.Remove(d.path(next)); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err // a killed process has left it
	}
	f, err := d.create(next, os.O_WRONLY|os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(d.path(next), d.path(name))
	}
	if err != nil {
		os.Remove(d.path(next)) // the disk may be full
		return err
	}
	return d.sync()
}

// sync has the names in the directory survive a loss of power.
func (d stateDir) sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// add adds a line to a file, which begins with head if it is new. The lock is held.
func (d stateDir) add(name, head, line string) error {
	text, err := d.read(name)
	if err != nil {
		return err
	}
	if len(text) == 0 {
		text = []byte(head)
	}
	return d.write(name, append(ended(text), line+"\n"...))
}

// ended returns a text whose last line has its end.
func ended(text []byte) []byte {
	if n := len(text); n > 0 && text[n-1] != '\n' {
		text = append(text, '\n')
	}
	return text
}

// without returns text without the lines for which drop reports true. It is asked of those
// that are neither blank nor a comment.
func without(text []byte, drop func(line []byte) bool) (rest []byte) {
	for line := range bytes.Lines(text) {
		if t := bytes.TrimSpace(line); len(t) == 0 || t[0] == '#' || !drop(t) {
			rest = append(rest, line...)
		}
	}
	return rest
}

// PrivateKey returns the private key in a file, or makes one if the file is not
// there, and the public key beside it.
func PrivateKey(path, comment string) (ssh.Signer, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, iofs.ErrNotExist) {
		b, err = makePrivateKey(path, comment)
	}
	if err != nil {
		return nil, err
	}
	s, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", path, err)
	}
	return s, nil
}

// makePrivateKey writes a new key and returns it. The key appears under its name as
// a whole: of two processes that start at once, one wins and both use its key.
func makePrivateKey(path, comment string) ([]byte, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(priv, comment)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromSigner(priv)
	if err != nil {
		return nil, err
	}
	secret := pem.EncodeToMemory(block)
	tmp, err := os.CreateTemp(filepath.Dir(path), ".key")
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(secret)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(tmp.Name(), path); errors.Is(err, iofs.ErrExist) {
		return os.ReadFile(path)
	} else if err != nil {
		return nil, err
	}
	return secret, os.WriteFile(path+".pub", ssh.MarshalAuthorizedKey(signer.PublicKey()), 0o644)
}
