package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"9ci/cmd/internal/home"
)

// A repository must not make git run programs. Only the three commands of Open read
// the repository's configuration, that of Hooks, and of Clone those that ask for the settings of a
// submodule's clone and for lfs.storage. These start no program. All other commands
// see a common git directory of ours: it has the repository's objects and refs, and
// a configuration written here, with the settings that [carried] lets through. So
// no filter, hook, file system monitor, external diff, alias, credential helper,
// pager, transport or include is in force, and none that git may learn of later. A
// file that a filter would change counts as dirty if its stat differs from the
// index.

// A gitError is the error of a git command that failed.
type gitError struct {
	command string
	words   string // its standard error, without the first "fatal: "
	err     error
}

func (e *gitError) Error() string {
	if e.words == "" {
		return fmt.Sprintf("git %s: %v", e.command, e.err)
	}
	return fmt.Sprintf("git %s: %s", e.command, e.words)
}

func (e *gitError) Unwrap() error { return e.err }

// full returns syscall.ENOSPC or syscall.EDQUOT if git failed for want of room on a disk,
// and else nil.
func (e *gitError) full() error {
	words := strings.ToLower(e.words)
	for _, err := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		if strings.Contains(words, err.Error()) {
			return err
		}
	}
	if strings.Contains(words, "out of diskspace") { // where write(2) has taken less than all: write-or-die.c, csum-file.c
		return syscall.ENOSPC
	}
	return nil
}

// status returns the exit status of git in err, or -1.
func status(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}

// run runs git in dir. The error is a gitError, or ctx's.
func run(ctx context.Context, dir string, env []string, stdin io.Reader, stdout io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = dir, env
	cmd.Stdin, cmd.Stdout = stdin, stdout
	stderr := &limited{n: maxWords, forget: true}
	cmd.Stderr = stderr
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	words := strings.TrimPrefix(strings.TrimSpace(stderr.buf.String()), "fatal: ")
	return &gitError{args[0], words, err}
}

// pipe runs two git commands, the second of which reads what the first writes.
func pipe(ctx context.Context, dir string, env []string, stdin io.Reader, stdout io.Writer, first, second []string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		err := run(ctx, dir, env, stdin, w, first...)
		w.Close()
		done <- err
	}()
	err = run(ctx, dir, env, r, stdout, second...)
	r.Close() // a first that goes on writing ends
	if failed := <-done; err == nil {
		err = failed
	}
	return err
}

const (
	maxWords  = 64 << 10 // bytes of standard error that are kept
	maxAnswer = 16 << 20 // bytes of an answer that is taken as a whole
)

// A limited keeps n bytes of what is written to it. More than that ends the command
// that writes, or with forget is dropped.
type limited struct {
	buf    bytes.Buffer // not embedded: its ReadFrom has no limit
	n      int
	forget bool
	over   bool // there was more
}

func (l *limited) Write(p []byte) (int, error) {
	room := l.n - l.buf.Len()
	l.buf.Write(p[:min(len(p), room)])
	if l.over = l.over || len(p) > room; l.over && !l.forget {
		return 0, errTooLong
	}
	return len(p), nil
}

var errTooLong = errors.New("it is too long")

// items calls f with each item that is written to it, up to its sep. An error of f
// ends the command that writes.
type items struct {
	sep  byte
	f    func(item string) error
	rest []byte
	err  error // of f
}

func (w *items) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for w.err == nil {
		i := bytes.IndexByte(w.rest, w.sep)
		if i < 0 {
			break
		}
		w.err = w.f(string(w.rest[:i]))
		w.rest = w.rest[i+1:]
	}
	if w.err == nil && len(w.rest) > maxAnswer {
		w.err = errTooLong
	}
	return len(p), w.err
}

// answer runs git in dir and returns its standard output, even if git failed.
func answer(ctx context.Context, dir string, env []string, stdin string, args ...string) (string, error) {
	var in io.Reader // nil is /dev/null
	if stdin != "" {
		in = strings.NewReader(stdin)
	}
	out := &limited{n: maxAnswer}
	err := run(ctx, dir, env, in, out, args...)
	if out.over {
		err = fmt.Errorf("git %s: %w", args[0], errTooLong)
	}
	return out.buf.String(), err
}

// userEnv returns the environment for questions that git answers with the
// configuration of the user and the system. It leaves out what would point git at
// another repository: hooks run with GIT_DIR and GIT_INDEX_FILE.
func userEnv() []string {
	return environ(func(name string) bool {
		return strings.HasPrefix(name, "GIT_CONFIG_") || name == "GIT_CEILING_DIRECTORIES" || name == "GIT_DISCOVERY_ACROSS_FILESYSTEM"
	})
}

// ownEnv returns the environment of all other commands, in which git reads no
// configuration of the host.
func ownEnv() []string {
	return append(environ(func(string) bool { return false }), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull)
}

func environ(keep func(name string) bool) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return strings.HasPrefix(name, "GIT_") && !keep(name)
	})
	// No object may be replaced by another (git-replace(1)).
	return append(env, "GIT_ALLOW_PROTOCOL=none", "GIT_NO_LAZY_FETCH=1", "GIT_NO_REPLACE_OBJECTS=1",
		"GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
}

// A setting is one line of a configuration.
type setting struct {
	section, sub, name string
	value              string
	set                bool // to value; else it is a name alone, which means true
}

// parseSettings reads what git config --list -z writes.
func parseSettings(list string) []setting {
	var all []setting
	for line := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		var s setting
		key, value, set := strings.Cut(line, "\n")
		s.value, s.set = value, set
		var ok bool
		if s.section, s.name, ok = strings.Cut(key, "."); !ok {
			continue
		}
		if i := strings.LastIndexByte(s.name, '.'); i >= 0 {
			s.sub, s.name = s.name[:i], s.name[i+1:]
		}
		all = append(all, s)
	}
	return all
}

// carried reports whether a setting of the repository is in force. Such a setting
// says how files are stored on this disk, or what a revision such as @{upstream}
// means. It can name neither a program nor a file.
func (s setting) carried() bool {
	switch s.section {
	case "core":
		return s.sub == "" && slices.Contains([]string{"autocrlf", "checkstat", "eol", "filemode", "ignorecase",
			"precomposeunicode", "sharedrepository", "sparsecheckout", "sparsecheckoutcone", "symlinks", "trustctime"}, s.name)
	case "branch":
		return slices.Contains([]string{"merge", "pushremote", "remote"}, s.name)
	case "remote":
		return slices.Contains([]string{"fetch", "push", "pushdefault"}, s.name)
	case "push":
		return s.sub == "" && s.name == "default"
	}
	return false
}

// text returns the setting in the syntax of git-config(1).
func (s setting) text() string {
	sub := ""
	if s.sub != "" {
		sub = " " + quote(s.sub)
	}
	value := ""
	if s.set {
		value = " = " + quote(s.value)
	}
	return fmt.Sprintf("[%s%s]\n\t%s%s\n", s.section, sub, s.name, value)
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

// read asks git for the URL of the repository's origin, which the user's
// configuration may redirect (url.*.insteadOf), and reads the repository's own.
func (r *Repo) read(ctx context.Context) error {
	dir := "GIT_DIR=" + r.dir
	// The URL may hold a password, so it must not be an argument.
	origin, err := answer(ctx, r.Top, append(userEnv(), dir), "", "ls-remote", "--get-url", "origin")
	if failed, ok := errors.AsType[*gitError](err); ok {
		// The words of git may hold the URL.
		err = fmt.Errorf("git ls-remote --get-url origin: %w: the same command in %s says why", failed.err, r.Top)
	}
	if err != nil {
		return err
	}
	r.origin = strings.TrimSuffix(origin, "\n")
	return r.readConfig(ctx)
}

// readConfig asks git for the repository's own configuration.
func (r *Repo) readConfig(ctx context.Context) error {
	// Git goes to the work tree first, and core.worktree of a submodule's clone may
	// be gone.
	list, err := answer(ctx, r.Top, append(ownEnv(), "GIT_DIR="+r.dir, "GIT_WORK_TREE="+r.Top), "", "config", "--list", "-z")
	if err != nil {
		return err
	}
	for _, s := range parseSettings(list) {
		switch {
		case s.carried():
			r.settings += s.text()
		case s.section == "extensions" && s.name == "refstorage" && s.value == "reftable":
			r.reftable = true
		case s.section == "extensions" && s.name == "partialclone", s.section == "remote" && s.name == "promisor":
			r.partial = true
		}
	}
	return nil
}

// config returns our configuration for a repository with the objects of r.
func (r *Repo) config(bare, reftable bool) string {
	text := fmt.Sprintf("[core]\n\trepositoryformatversion = 1\n\tbare = %t\n[extensions]\n\tobjectFormat = %s\n", bare, r.format)
	if reftable {
		text += "\trefStorage = reftable\n"
	}
	return text
}

// lend makes dir a common git directory that commands about r see in the place of
// r's own (GIT_COMMON_DIR in git(1)).
func (r *Repo) lend(dir string) error {
	err := errors.Join(os.WriteFile(filepath.Join(dir, "config"), []byte(r.config(r.Bare, r.reftable)+r.settings), 0o600),
		os.Mkdir(filepath.Join(dir, "info"), 0o700))
	for _, name := range []string{"refs", "packed-refs", "reftable", "logs", "shallow", "HEAD", "worktrees", "info/exclude", "info/attributes"} {
		err = errors.Join(err, os.Symlink(filepath.Join(r.GitDir, name), filepath.Join(dir, name)))
	}
	return err
}

// borrow calls f with the environment in which git commands are about r.
func (r *Repo) borrow(f func(env []string) error) error {
	common, err := home.TempDir("git")
	if err != nil {
		return err
	}
	defer os.RemoveAll(common)
	if err := r.lend(common); err != nil {
		return err
	}
	env := append(ownEnv(), "GIT_DIR="+r.dir, "GIT_COMMON_DIR="+common, "GIT_OBJECT_DIRECTORY="+r.objects())
	if !r.Bare {
		env = append(env, "GIT_WORK_TREE="+r.Top)
	}
	return f(env)
}

func (r *Repo) objects() string { return filepath.Join(r.GitDir, "objects") }

// git runs git about r with the standard input given, and returns its standard
// output.
func (r *Repo) git(ctx context.Context, stdin string, args ...string) (out string, err error) {
	err = r.borrow(func(env []string) error {
		out, err = answer(ctx, r.Top, env, stdin, args...)
		return err
	})
	return out, err
}

// each runs git about r and calls f with each item that it writes. An error of
// f ends it.
func (r *Repo) each(ctx context.Context, sep byte, f func(item string) error, args ...string) error {
	w := &items{sep: sep, f: f}
	err := r.borrow(func(env []string) error { return run(ctx, r.Top, env, nil, w, args...) })
	if w.err != nil {
		return w.err
	}
	return err
}
