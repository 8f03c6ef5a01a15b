// Package artifacts keeps in a directory what the last run left (CI_ARTIFACTS).
//
// The directory is replaced as a whole: the new one is filled under a name beside
// it and then renamed. Even if this process is killed, the directory holds the
// artifacts of one run, never of two. It is replaced only if 9ci has put there all
// that would be lost. A record in the store says what that is: a record beside the
// directory could be forged by the repository.
package artifacts

import (
	"crypto/rand"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Dir is the directory.
type Dir struct {
	// Name is its path. A relative one is below Top.
	Name string

	// Top is the work tree, as git names it: without symbolic links.
	Top string

	// Records is the directory of the records. It need not exist.
	Records string
}

// Check returns an error if the directory cannot be replaced. It changes nothing.
// While another process replaces the directory, Check looks at its place alone.
func (d Dir) Check() error {
	p, err := d.open(false)
	if p == nil {
		return err
	}
	defer p.close()
	unlock, err := p.lock(unix.LOCK_SH | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	r, err := readRecord(p.record)
	if err != nil {
		return err
	}
	return p.check(p.base, r.files)
}

// Replace has fill put files in an empty directory and gives that the name,
// mode and owner of the one that there was. It waits while another process
// does so. After an error the old one is there, unless the error says that the
// old one could not be removed.
func (d Dir) Replace(fill func(*os.Root) error) error {
	p, err := d.open(true)
	if err != nil {
		return err
	}
	defer p.close()
	if err := os.MkdirAll(d.Records, 0o700); err != nil {
		return err
	}
	unlock, err := p.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := readRecord(p.record)
	if err != nil {
		return err
	}
	if err := p.recover(&r); err != nil {
		return err
	}
	if err := p.check(p.base, r.files); err != nil {
		return err
	}

	// The record tells of each thing before it is there.
	r.path, r.beside, r.filling = p.name, ".9ci-"+rand.Text(), true
	if err := r.write(p.record); err != nil {
		return err
	}
	reached("recorded")
	files, err := p.fill(r.beside, fill)
	if err == nil {
		reached("filled")
		r.files, r.filling = r.files.with(files), false
		if err = r.write(p.record); err == nil {
			reached("listed")
			err = p.swap(r.beside, r.files)
		}
	}
	if err != nil {
		p.recover(&r) // or the next Replace does
		return err
	}
	reached("swapped")
	if err := p.remove(r.beside); err != nil {
		return fmt.Errorf("%s is new, but the old one is left: %w", p.name, err)
	}
	reached("removed")
	return (&record{path: p.name, files: files}).write(p.record)
}

// reached is called at points of Replace at which a test ends the process.
var reached = func(point string) {}

// recover removes what a process that was killed left beside the directory.
func (p *place) recover(r *record) error {
	if r.beside == "" {
		return nil
	}
	aside := aside(r.beside)
	if _, err := p.parent.Lstat(p.base); errors.Is(err, iofs.ErrNotExist) {
		err := unix.Renameat(p.fd, aside, p.fd, p.base)
		if err != nil && err != unix.ENOENT {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	for _, name := range []string{r.beside, aside} {
		// A directory that was being filled holds nothing but new files, some of
		// them half written. Any other may be the old one, and is checked.
		if !r.filling {
			if err := p.check(name, r.files); err != nil {
				return fmt.Errorf("9ci was killed when it replaced %s: %w", p.name, err)
			}
		}
		if err := p.remove(name); err != nil {
			return err
		}
	}
	r.beside, r.filling = "", false
	return r.write(p.record)
}

// aside is the name that the old directory gets on file systems that cannot
// exchange two names.
func aside(beside string) string { return beside + "-old" }

// remove removes a directory beside, and all in it even if that is read-only.
func (p *place) remove(name string) error {
	err := p.parent.RemoveAll(name)
	if err == nil {
		return nil
	}
	p.parent.Chmod(name, 0o700)
	root, rerr := p.parent.OpenRoot(name)
	if rerr != nil {
		return err
	}
	defer root.Close()
	walk(root, ".", func(name string, e iofs.DirEntry) error {
		if e.IsDir() {
			root.Chmod(name, 0o700)
		}
		return nil
	})
	return p.parent.RemoveAll(name)
}

// check reports an entry of a directory beside or at the place that is not in
// the list.
func (p *place) check(name string, known files) error {
	fi, err := p.parent.Lstat(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	path := filepath.Join(filepath.Dir(p.name), name)
	if !fi.IsDir() {
		return fmt.Errorf("%s is not a directory", path)
	}
	root, err := p.parent.OpenRoot(name)
	if err != nil {
		return err
	}
	defer root.Close()
	err = walk(root, ".", func(name string, e iofs.DirEntry) error {
		const then = "move it away, or name another directory"
		if len(known[name]) == 0 {
			return fmt.Errorf("%s holds %q, which 9ci did not put there: %s", path, name, then)
		}
		what, err := describe(root, name, e)
		if err == nil && !known.has(name, what) {
			err = fmt.Errorf("%s holds %q, which is not as 9ci put it there: %s", path, name, then)
		}
		return err
	})
	return err
}

// fill makes the directory beside, fills it, and lists it. Other users cannot enter
// it until it is full.
func (p *place) fill(beside string, fill func(*os.Root) error) (files, error) {
	if err := p.parent.Mkdir(beside, 0o777); err != nil {
		return nil, fmt.Errorf("9ci fills a directory beside %s and renames it, so it must be able to write in %s: %w", p.name, filepath.Dir(p.name), err)
	}
	reached("made")
	meta, err := p.parent.Lstat(beside) // of the umask, unless there is an old one
	if old, oerr := p.parent.Lstat(p.base); oerr == nil {
		meta = old
	}
	if err != nil {
		return nil, err
	}
	if err := p.parent.Chmod(beside, 0o700); err != nil {
		return nil, err
	}
	root, err := p.parent.OpenRoot(beside)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := fill(root); err != nil {
		return nil, err
	}
	list := make(files)
	err = walk(root, ".", func(name string, e iofs.DirEntry) error {
		what, err := describe(root, name, e)
		list.add(name, what)
		return err
	})
	if err != nil {
		return nil, err
	}
	if name := list.repository(); name != "" {
		return nil, fmt.Errorf("%q among the artifacts is a git repository, whose configuration git would obey: it can be had in an archive", name)
	}
	if st, ok := meta.Sys().(*syscall.Stat_t); ok {
		p.parent.Lchown(beside, int(st.Uid), int(st.Gid)) // if we may
	}
	const bits = iofs.ModePerm | iofs.ModeSetgid | iofs.ModeSticky
	return list, p.parent.Chmod(beside, meta.Mode()&bits|0o700)
}

// swap gives the directory beside the name of the old one. The old one is then
// beside, or gone if it was empty.
func (p *place) swap(beside string, known files) error {
	err := unix.Renameat(p.fd, beside, p.fd, p.base) // onto nothing, or an empty directory
	if err != unix.ENOTEMPTY && err != unix.EEXIST {
		return p.unmoved(err)
	}
	switch err := exchange(p.fd, beside, p.base); err {
	case nil:
		// Files may have come in since the check.
		if err := p.check(beside, known); err != nil {
			return errors.Join(err, exchange(p.fd, beside, p.base))
		}
		return nil
	case unix.EINVAL, unix.ENOSYS: // not on this file system
	default:
		return p.unmoved(err)
	}
	aside := aside(beside)
	if err := unix.Renameat(p.fd, p.base, p.fd, aside); err != nil {
		return p.unmoved(err)
	}
	reached("aside")
	err = p.check(aside, known)
	if err == nil {
		err = p.unmoved(unix.Renameat(p.fd, beside, p.fd, p.base))
	}
	if err != nil {
		return errors.Join(err, unix.Renameat(p.fd, aside, p.fd, p.base))
	}
	return p.unmoved(unix.Renameat(p.fd, aside, p.fd, beside))
}

// exchange exchanges two names in a directory, of files that exist.
var exchange = exchangeAt

// unmoved returns the error of a directory that could not be renamed.
func (p *place) unmoved(err error) error {
	switch err {
	case nil:
		return nil
	case unix.EBUSY, unix.EXDEV:
		return fmt.Errorf("%s cannot be renamed (%w), as where something is mounted on it: name a directory in it", p.name, err)
	}
	return fmt.Errorf("%s cannot be replaced: %w", p.name, err)
}
