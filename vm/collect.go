package vm

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Images returns all images in a cache that are whole, in the order of their labels,
// architectures and digests. That of LookupImage is among them. A cache that does not exist has
// none.
func Images(cache string) ([]*Image, error) {
	labels, err := labelDirs(cache)
	if err != nil {
		return nil, err
	}
	var out []*Image
	for _, l := range labels {
		dirs, err := glob(l, digestGlob)
		if err != nil {
			return nil, err
		}
		for _, d := range dirs {
			if img, err := whole(d); err == nil {
				out = append(out, img)
			}
		}
	}
	return out, nil
}

// CollectImages removes from a cache all images but that of LookupImage and its like of
// other architectures: those of other labels, older ones, and what is left of a build
// that died. It blocks while
// another process builds. Machines that run keep the files of their image.
func CollectImages(ctx context.Context, cache string) error {
	labels, err := labelDirs(cache)
	if err != nil {
		return err
	}
	for _, l := range labels {
		if err := collectImages(ctx, l); err != nil {
			return fmt.Errorf("vm: collect images: %w", err)
		}
	}
	return nil
}

// digestGlob matches the names of images.
const digestGlob = "[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]*"

// labelDirs returns the directories of images, as imageDir names them.
func labelDirs(cache string) ([]string, error) {
	dir, err := imageDir(cache, runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	top := filepath.Dir(filepath.Dir(dir)) // a label is two names
	return glob(top, "*/*")
}

// glob returns the paths of the files below dir whose names there match pattern. In dir
// itself no character has a meaning.
func glob(dir, pattern string) ([]string, error) {
	names, err := iofs.Glob(os.DirFS(dir), pattern)
	for i, name := range names {
		names[i] = filepath.Join(dir, name)
	}
	return names, err
}

func collectImages(ctx context.Context, dir string) error {
	unlock, err := lock(ctx, filepath.Join(dir, "lock"), func() {})
	if err != nil {
		return err
	}
	defer unlock()
	keep := ""
	if label, arch := labelOf(dir); label == CoreOS && arch != "" {
		keep, err = os.Readlink(filepath.Join(dir, "current"))
		if err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return err
		}
	} else if err := os.RemoveAll(filepath.Join(dir, "current")); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n := e.Name(); n == keep || n == "current" || n == "lock" || n == verifiedFile && keep != "" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
