package config

import (
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"9ci/cmd/internal/home"
)

// checkTrust refuses files that say whom to trust if they are in the work tree or
// the git directory: the repository may have brought them along.
func (l *loader) checkTrust() {
	if l.rp == nil {
		return
	}
	dir, err := home.Config()
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	type file struct{ what, name, mend string }
	files := []file{
		{"the configuration directory", dir, "set XDG_CONFIG_HOME to a directory elsewhere"},
		{"the configuration", filepath.Join(dir, "env"), "keep it elsewhere"},
		{"CI_KEY: the key", l.c.Key, "keep it elsewhere"},
		{"CI_AUTHFILE: the credentials", l.c.AuthFile, "keep them elsewhere"},
		{"CI_TLS_CERT: the certificate", l.c.TLSCert, "keep it elsewhere"},
		{"CI_TLS_KEY: the key", l.c.TLSKey, "keep it elsewhere"},
		{"CI_TLS_CA: the CAs of the orchestrator", l.c.TLSCA, "keep them elsewhere"},
	}
	for i, list := range l.c.trustFiles(dir) {
		what := ""
		if i > 0 {
			what = "CI_SIGNERS: "
		}
		files = append(files,
			file{what + "the list of trusted signers", list.Signers, "keep it elsewhere"},
			file{what + "the list of revoked keys", list.Revoked, "keep it elsewhere"})
	}
	for _, f := range files {
		if f.name == "" { // none is set
			continue
		}
		if in := l.inside(f.name); in != "" {
			l.errs = append(l.errs, fmt.Errorf("%s %s is inside %s, which does not decide whom to trust: %s", f.what, f.name, in, f.mend))
			return
		}
	}
}

// A TrustFile is an allowed_signers file of the user's, and the file of revoked
// keys beside it. Neither need exist.
type TrustFile struct{ Signers, Revoked string }

// TrustFiles returns the files that say whose runs are replayed: those in the
// configuration directory, then those of CI_SIGNERS.
func (c *Config) TrustFiles() ([]TrustFile, error) {
	dir, err := home.Config()
	return c.trustFiles(dir), err
}

func (c *Config) trustFiles(dir string) []TrustFile {
	var files []TrustFile
	for _, name := range []string{filepath.Join(dir, "allowed_signers"), c.Signers} {
		if name != "" {
			files = append(files, TrustFile{name, filepath.Join(filepath.Dir(name), "revoked")})
		}
	}
	return files
}

// inside returns the directory of the repository in which a file is, or would be
// if it were made, with symbolic links followed; or "".
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

// follow returns an absolute path with the symbolic links in it followed, as far
// as its files exist. depth is how many links were followed already: Linux
// follows 40 (path_resolution(7)).
func follow(name string, depth int) string {
	if depth > 40 {
		return name // nothing can open it
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

// othersWrite says why the .env f may have been written by another user, or
// returns "". It is the user's own if the user or root owns it, no others can write
// or replace it, and it has one name: a hard link may be to a file that git tracks
// elsewhere.
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

// writers says which other users can write the file f, or replace files of the
// user in the directory f, and what to do; or it returns "".
func writers(f *os.File, fi os.FileInfo) string {
	st := fi.Sys().(*syscall.Stat_t)
	uid := uint32(os.Geteuid())
	sudo := os.Getenv("SUDO_UID") // git trusts it too: safe.directory in git-config(1)
	perm := fi.Mode().Perm()
	if fi.IsDir() && fi.Mode()&iofs.ModeSticky != 0 {
		perm = 0 // sticky: other users replace only their own files
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

// alone reports whether the owner of a file is the only member of the file's
// group, as on systems that give each user a group and a umask of 002. A file with
// an access control list is never alone: there the group's bits are a limit for
// other users too (acl(5)).
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

// entries returns the lines of a file such as passwd(5) and group(5) that have n
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

// ShellKeys returns the keys in ~/.config/9ci/shell_keys, whose holders get a shell in the
// machines that this user holds. The file is as authorized_keys of sshd(8), without
// options. If others could have written it, nobody is in it, and the error says so; so it
// is if there is a line that is not understood.
func ShellKeys() ([]ssh.PublicKey, error) {
	dir, err := home.Config()
	if err != nil {
		return nil, err
	}
	f, fi, err := openOwn(filepath.Join(dir, "shell_keys"), "public keys, one a line")
	if f == nil {
		return nil, err
	}
	defer f.Close()
	if why := othersWrite(f, fi); why != "" {
		return nil, fmt.Errorf("%s is not used: %s", f.Name(), why)
	}
	text, err := readText(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	var keys []ssh.PublicKey
	n := 0
	for line := range strings.Lines(text) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
		_, cert := key.(*ssh.Certificate)
		if err != nil || len(options) > 0 || cert {
			return nil, fmt.Errorf("%s:%d: want a public key and no options, as ssh-keygen(1) writes it: the file is not used", f.Name(), n)
		}
		keys = append(keys, key)
	}
	return keys, nil
}
