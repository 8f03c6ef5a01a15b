// Package home finds the directories of this process's user, as the XDG base
// directory specification has them. Each is absolute: a variable that is unset,
// empty or relative, as under cron and in system units, is ignored. So no file of
// the user is ever looked for or kept in the working directory.
package home

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// Dir returns the user's home directory: $HOME, or the one in the password file.
// The error says that there is neither, and what to do.
func Dir() (string, error) {
	home := os.Getenv("HOME")
	if filepath.IsAbs(home) {
		return filepath.Clean(home), nil
	}
	uid := os.Getuid()
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil && filepath.IsAbs(u.HomeDir) {
		return filepath.Clean(u.HomeDir), nil
	}
	return "", fmt.Errorf("no home directory: HOME is %q, and the password file has none for user id %d: set HOME to an absolute path", home, uid)
}

// Config returns the directory of the user's configuration,
// $XDG_CONFIG_HOME/9ci or ~/.config/9ci.
func Config() (string, error) { return xdg("XDG_CONFIG_HOME", ".config") }

// State returns the directory of the user's runs, $XDG_STATE_HOME/9ci or
// ~/.local/state/9ci. The store of a namespace is in the directory of that
// name below it.
func State() (string, error) { return xdg("XDG_STATE_HOME", ".local/state") }

// Cache returns the directory of files that can be made again, as the core OS:
// $XDG_CACHE_HOME/9ci or ~/.cache/9ci.
func Cache() (string, error) { return xdg("XDG_CACHE_HOME", ".cache") }

func xdg(name, below string) (string, error) {
	if dir := os.Getenv(name); filepath.IsAbs(dir) {
		return filepath.Join(dir, "9ci"), nil
	}
	home, err := Dir()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, below, "9ci"), nil
}

// Expand returns a path with a leading ~/ expanded to the home directory, as sh(1)
// does in an assignment. ~NAME/ is not expanded.
func Expand(path string) (string, error) {
	if path != "~" && (len(path) < 2 || path[:2] != "~/") {
		return path, nil
	}
	home, err := Dir()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, path[1:]), nil
}

// TempDir makes a directory of this process below TMPDIR. Its name, 9ci-PID-KIND and a
// number, tells whose it is: an executor removes those that killed processes left.
func TempDir(kind string) (string, error) {
	dir, err := os.MkdirTemp("", fmt.Sprintf("9ci-%d-%s*", os.Getpid(), kind))
	if err != nil {
		return "", fmt.Errorf("%w: set TMPDIR to a directory that can be written", err)
	}
	return dir, nil
}
