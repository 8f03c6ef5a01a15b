//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// modules are those of the initramfs. The file load in their directory has a line
// for each module: its name, and the files to be loaded for it, in order.
type modules struct {
	dir    string
	files  map[string][]string
	loaded map[string]bool
}

func readModules(dir string) (*modules, error) {
	b, err := os.ReadFile(filepath.Join(dir, "load"))
	if err != nil {
		return nil, err
	}
	m := &modules{dir, make(map[string][]string), make(map[string]bool)}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 0 {
			m.files[f[0]] = f[1:]
		}
	}
	return m, nil
}

// load loads modules and what they need.
func (m *modules) load(names ...string) error {
	for _, name := range names {
		files, ok := m.files[name]
		if !ok {
			return fmt.Errorf("%s: not in the initramfs", name)
		}
		for _, file := range files {
			if m.loaded[file] {
				continue
			}
			m.loaded[file] = true
			f, err := os.Open(filepath.Join(m.dir, file))
			if err != nil {
				return err
			}
			err = unix.FinitModule(int(f.Fd()), "", 0)
			f.Close()
			// The driver of a feature that the CPU lacks, such as crc32c, says ENODEV.
			if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return nil
}
