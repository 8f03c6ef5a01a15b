package main

import (
	"os"
	"path/filepath"
	"strings"
)

// shellFlag, as the first argument, makes this program the built-in shell.
// What follows is for sh: -e, or -c and a command.
const shellFlag = "--builtin-sh"

// builtin returns the command line of the built-in shell, nil where this
// program cannot tell where it is.
func builtin() []string {
	exe, err := os.Executable()
	if err != nil { // no /proc
		if strings.IndexByte(os.Args[0], '/') < 0 {
			return nil
		}
		if exe, err = filepath.Abs(os.Args[0]); err != nil {
			return nil
		}
	}
	return []string{exe, shellFlag}
}
