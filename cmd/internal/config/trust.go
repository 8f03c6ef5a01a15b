package config

import (
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"9ci/cmd/internal/home"
)

// checkTrust refuses what says whom to trust where the repository could have
// brought it along: in its work tree, or its git directory.
func (l *loader) checkTrust() {
	if l.rp == nil {
		return
	}
	dir, err := home.Config()
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	for _, f := range []struct{ what, name, mend string }{
		{"the configuration directory", dir, "set XDG_CONFIG_HOME to a directory elsewhere"},
		{"the configuration", filepath.Join(dir, "env"), "keep it elsewhere"},
		{"the list of trusted signers", filepath.Join(dir, "allowed_signers"), "keep it elsewhere"},
		{"CI_SIGNERS: the list of trusted signers", l.c.Signers, "keep it elsewhere"},
		{"CI_KEY: the key", l.c.Key, "keep it elsewhere"},
	} {
		if f.name == "" {
			continue
		}
		if in := l.inside(f.name); in != "" {
			l.errs = append(l.errs, fmt.Errorf("%s %s is inside %s, which does not decide whom to trust: %s", f.what, f.name, in, f.mend))
			return
		}
	}
}

// inside returns the directory of the repository that a file, if its symbolic
// links are followed, is or would be in, or "".
func (l *loader) inside(name string) string {
	dirs := []string{l.rp.Top, l.rp.GitDir}
	if filepath.Base(l.rp.GitDir) == ".git" {
		dirs = append(dirs, filepath.Dir(l.rp.GitDir)) // the main work tree, where Top is a linked one
	}
	for p := follow(name, 0); ; p = filepath.Dir(p) {
		if fi, err := os.Stat(p); err == nil {
			for _, d := range dirs {
				if in, err := os.Stat(d); err == nil && os.SameFile(fi, in) {
					return d
				}
			}
		}
		if p == filepath.Dir(p) {
			return ""
		}
	}
}

// follow returns an absolute path without symbolic links, as far as there are
// files. depth is how many links led to it, of which Linux follows 40.
func follow(name string, depth int) string {
	if depth > 40 {
		return name // nobody can open it
	}
	if real, err := filepath.EvalSymlinks(name); err == nil {
		return real
	}
	dir, base := filepath.Split(filepath.Clean(name))
	if base == "" {
		return name
	}
	if to, err := os.Readlink(name); err == nil {
		if !filepath.IsAbs(to) {
			to = filepath.Join(follow(dir, depth+1), to)
		}
		return follow(to, depth+1)
	}
	return filepath.Join(follow(dir, depth), base)
}

// othersWrite says why the .env that f is may be somebody else's, or "". It is
// the user's if it is a file of theirs or of root's that no others can write or
// replace, and that is no other file's second name: a file that git tracks
// elsewhere, for one.
func othersWrite(f *os.File, fi os.FileInfo) string {
	if n := fi.Sys().(*syscall.Stat_t).Nlink; n > 1 {
		return fmt.Sprintf("it has %d names (hard links), and is to have one", n)
	}
	if why := writers(f, fi); why != "" {
		return why
	}
	dir, err := os.Open(filepath.Dir(f.Name()))
	if err != nil {
		return err.Error()
	}
	defer dir.Close()
	if fi, err = dir.Stat(); err != nil {
		return err.Error()
	}
	if why := writers(dir, fi); why != "" {
		return "of its directory, " + why
	}
	return ""
}

// writers says who but the user and root can write f, or, where that is a
// directory, replace what the user has in it, or "".
func writers(f *os.File, fi os.FileInfo) string {
	st := fi.Sys().(*syscall.Stat_t)
	uid := uint32(os.Geteuid())
	sudo := os.Getenv("SUDO_UID") // as git has it
	perm := fi.Mode().Perm()
	if fi.IsDir() && fi.Mode()&iofs.ModeSticky != 0 {
		perm = 0 // others but its owner replace only what is theirs
	}
	switch {
	case st.Uid != uid && st.Uid != 0 && !(uid == 0 && strconv.FormatUint(uint64(st.Uid), 10) == sudo):
		return fmt.Sprintf("user id %d is the owner, and not you: chown it, or set the variables in the environment", st.Uid)
	case perm&0o002 != 0:
		return "others can write it: chmod o-w " + f.Name()
	case perm&0o020 != 0 && !alone(f, st):
		return "its group can write it: chmod g-w " + f.Name()
	}
	return ""
}

// alone reports whether the owner of a file is the only member of its group, as
// where each user has a group and a umask of 002. With an access control list
// the group's bits are others' too.
func alone(f *os.File, st *syscall.Stat_t) bool {
	if n, err := unix.Fgetxattr(int(f.Fd()), "system.posix_acl_access", nil); err == nil && n > 0 {
		return false
	}
	owner, ok := "", false
	for _, u := range entries("/etc/passwd", 7) {
		if u[2] == strconv.FormatUint(uint64(st.Uid), 10) {
			owner = u[0]
		} else if u[3] == strconv.FormatUint(uint64(st.Gid), 10) {
			return false
		}
	}
	for _, g := range entries("/etc/group", 4) {
		if g[2] == strconv.FormatUint(uint64(st.Gid), 10) {
			if g[3] != "" && g[3] != owner {
				return false
			}
			ok = true
		}
	}
	return ok && owner != ""
}

// entries are the lines of a file as passwd(5) and group(5) have them, of n
// fields.
func entries(name string, n int) [][]string {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	var all [][]string
	for line := range strings.Lines(string(text)) {
		if e := strings.Split(strings.TrimSuffix(line, "\n"), ":"); len(e) == n {
			all = append(all, e)
		}
	}
	return all
}
