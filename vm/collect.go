package vm

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
)

// Images returns all images in a cache that are whole, in the order of their labels
// and digests. That of LookupImage is among them. A cache that does not exist has
// none.
func Images(cache string) ([]*Image, error) {
	labels, err := labelDirs(cache)
	if err != nil {
		return nil, err
	}
	var out []*Image
	for _, l := range labels {
		dirs, err := filepath.Glob(filepath.Join(l.dir, digestGlob))
		if err != nil {
			return nil, err
		}
		for _, d := range dirs {
			if img, err := whole(d, l.label); err == nil {
				out = append(out, img)
			}
		}
	}
	return out, nil
}

// CollectImages removes from a cache all images but that of LookupImage: those of
// other labels, older ones, and what is left of a build that died. It blocks while
// another process builds. Machines that run keep the files of their image.
func CollectImages(ctx context.Context, cache string) error {
	labels, err := labelDirs(cache)
	if err != nil {
		return err
	}
	for _, l := range labels {
		if err := l.collect(ctx); err != nil {
			return fmt.Errorf("vm: collect images: %w", err)
		}
	}
	return nil
}

// digestGlob matches the names of images.
const digestGlob = "[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]*"

// A labelDir holds the images of a label; see imageDir.
type labelDir struct{ label, dir string }

func labelDirs(cache string) ([]labelDir, error) {
	dir, err := imageDir(cache)
	if err != nil {
		return nil, err
	}
	top := filepath.Dir(filepath.Dir(dir)) // a label is two names
	dirs, err := filepath.Glob(filepath.Join(top, "*", "*"))
	if err != nil {
		return nil, err
	}
	var out []labelDir
	for _, d := range dirs {
		label, err := filepath.Rel(top, d)
		if err != nil {
			return nil, err
		}
		out = append(out, labelDir{filepath.ToSlash(label), d})
	}
	return out, nil
}

func (l labelDir) collect(ctx context.Context) error {
	unlock, err := lock(ctx, filepath.Join(l.dir, "lock"), func() {})
	if err != nil {
		return err
	}
	defer unlock()
	keep := ""
	if l.label == CoreOS {
		keep, err = os.Readlink(filepath.Join(l.dir, "current"))
		if err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return err
		}
	} else if err := os.RemoveAll(filepath.Join(l.dir, "current")); err != nil {
		return err
	}
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n := e.Name(); n == keep || n == "current" || n == "lock" || n == verifiedFile && keep != "" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(l.dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
