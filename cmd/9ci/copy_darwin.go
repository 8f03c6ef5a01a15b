package main

import (
	"os"
	"path/filepath"

	"9ci/fs"
)

// setOpenTime gives the open file f, name in root, its time, by its name: by its
// descriptor it would have microseconds.
func setOpenTime(_ *os.File, root *os.Root, name string, st fs.Stat) error {
	dir, err := root.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return setTime(dir, filepath.Base(name), st)
}
