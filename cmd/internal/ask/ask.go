// Package ask asks a tree what a client of ci(4) wants to know of it: a file, a
// status, the reply of a ctl. The tree may be this process's own, or one that
// was imported.
package ask

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"9ci/fs"
	"9ci/fs/ci"
)

// File returns the content of the file at path below dir. Errors are those of
// the tree, and name nothing.
func File(ctx context.Context, dir fs.Dir, path string) ([]byte, error) {
	n, err := fs.FileAt(ctx, dir, path)
	if err != nil {
		return nil, err
	}
	return fs.ReadAll(ctx, n)
}

// Attrs returns what the file of attr=value lines at path below dir says.
func Attrs(ctx context.Context, dir fs.Dir, path string) (ci.Attrs, error) {
	text, err := File(ctx, dir, path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ci.ParseAttrs(text)
}

// Status returns what the status file of a run or a step at path below dir says.
func Status(ctx context.Context, dir fs.Dir, path string) (ci.Status, error) {
	text, err := File(ctx, dir, path)
	if err != nil {
		return ci.Status{}, fmt.Errorf("%s: %w", path, err)
	}
	return ci.ParseStatus(string(text))
}

// Dir returns the directory at path below dir.
func Dir(ctx context.Context, dir fs.Dir, path string) (fs.Dir, error) {
	d, err := fs.WalkDir(ctx, dir, path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// MaxReply is how many bytes of a reply are read at most: /find's is the
// longest.
const MaxReply = 1 << 20

// Ctl writes a message to a ctl, or to /find, and returns the reply.
func Ctl(ctx context.Context, n fs.Node, message []byte) ([]byte, error) {
	f, err := n.Open(ctx, fs.OpenRead|fs.OpenWrite)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Reply(ctx, f, message)
}

// Reply is Ctl for a file that is open for reading and writing, and stays open.
// If the write fails, the error has the text of the reply, which 9P2000.L has no
// room for in its own error.
func Reply(ctx context.Context, f fs.File, message []byte) ([]byte, error) {
	_, werr := f.WriteAt(ctx, message, 0)
	reply, err := io.ReadAll(io.LimitReader(fs.NewReader(ctx, f), MaxReply))
	if werr != nil {
		if text := strings.TrimSpace(string(reply)); text != "" && err == nil {
			werr = errors.New(text)
		}
		return nil, werr
	}
	return reply, err
}
