//go:build linux

package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// envFD is the descriptor that withEnv reads.
const envFD = 3

// withEnv becomes a program, with the variables from descriptor 3 added to its
// environment: NAME=VALUE, each ended by a NUL. podman writes to files what it is
// told of a container's environment, and is not told of these.
func withEnv(args []string) error {
	if len(args) == 0 {
		return errors.New("no program")
	}
	f := os.NewFile(envFD, "environment")
	text, err := io.ReadAll(f)
	f.Close()
	if err != nil {
		return err
	}
	env := os.Environ()
	for v := range strings.SplitSeq(strings.TrimSuffix(string(text), "\x00"), "\x00") {
		name, _, ok := strings.Cut(v, "=")
		if !ok {
			return errors.New("want NAME=VALUE in descriptor 3, each ended by a NUL")
		}
		env = slices.DeleteFunc(env, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		env = append(env, v)
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	return &os.PathError{Op: "exec", Path: path, Err: unix.Exec(path, args, env)}
}
