package vm

import (
	"fmt"
	"io"
	"path"
)

// A cpioWriter writes an archive that the kernel unpacks as its initramfs:
// the format newc, of its Documentation/driver-api/early-userspace/buffer-format.rst.
// All entries are root's and have the time epoch, so that the same files make the
// same bytes.
type cpioWriter struct {
	w    io.Writer
	dirs map[string]bool
	ino  int
	err  error
}

func newCPIO(w io.Writer) *cpioWriter {
	return &cpioWriter{w: w, dirs: map[string]bool{".": true}}
}

// file adds a file, and the directories above it that are not there yet.
func (c *cpioWriter) file(name string, mode uint32, data []byte) {
	c.dir(path.Dir(name))
	c.entry(name, 0o100000|mode, data)
}

func (c *cpioWriter) dir(name string) {
	if c.dirs[name] {
		return
	}
	c.dir(path.Dir(name))
	c.dirs[name] = true
	c.entry(name, 0o040755, nil)
}

func (c *cpioWriter) entry(name string, mode uint32, data []byte) {
	c.ino++
	nlink := 1
	if mode&0o040000 != 0 {
		nlink = 2
	}
	const uid, gid, mtime, major, minor, rmajor, rminor, sum = 0, 0, epoch, 0, 0, 0, 0, 0
	h := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.ino, mode, uid, gid, nlink, mtime, len(data), major, minor, rmajor, rminor,
		len(name)+1, sum, name)
	c.pad([]byte(h))
	c.pad(data)
}

// close writes the trailer. Archives may follow one another.
func (c *cpioWriter) close() error {
	c.ino = -1
	c.entry("TRAILER!!!", 0, []byte{})
	return c.err
}

// pad writes b and zeros to a multiple of four bytes.
func (c *cpioWriter) pad(b []byte) {
	if c.err != nil {
		return
	}
	if _, c.err = c.w.Write(b); c.err == nil && len(b)%4 != 0 {
		_, c.err = c.w.Write(make([]byte, 4-len(b)%4))
	}
}
