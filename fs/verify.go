package fs

import (
	"fmt"
	iofs "io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Report is what VerifyDir found, content and metadata apart.
type Report struct {
	Score    string // SHA-256 of the manifest
	Manifest []byte
	Sig      []byte // nil where there is no manifest.sig
	Info     Attrs
	Files    int // whose digests are right

	// Each is one line.
	Content  []string // what is wrong with what the files hold
	Metadata []string // what is wrong with modes, times, sizes and links
}

// VerifyDir compares a run on disk, in a store or as tar -xp left it, with its
// manifest and its artifacts.mtree: each file must be there as they say, and
// nothing else. The signature of the manifest is the caller's to verify. The
// error is of a directory that is no sealed run at all.
func VerifyDir(dir string) (Report, error) {
	var rep Report
	root, err := os.OpenRoot(dir)
	if err != nil {
		return rep, fmt.Errorf("fs: verify: %w", err)
	}
	defer root.Close()
	if rep.Manifest, err = readRoot(root, "manifest"); err != nil {
		return rep, fmt.Errorf("fs: verify: %w", err)
	}
	sums, err := parseManifest(rep.Manifest)
	if err != nil {
		return rep, fmt.Errorf("fs: verify: %w", err)
	}
	rep.Score = fmt.Sprintf("%x", sha256sum(rep.Manifest))
	if rep.Sig, err = readRoot(root, "manifest.sig"); err != nil {
		rep.Sig = nil
	}
	report := func(to *[]string, format string, args ...any) {
		*to = append(*to, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", `\n`)) // a name makes no line
	}
	content := func(format string, args ...any) { report(&rep.Content, format, args...) }
	metadata := func(format string, args ...any) { report(&rep.Metadata, format, args...) }

	files := make(map[string]bool)
	for _, x := range sums {
		files[x.name] = true
		d, _, err := hashFile(root, x.name)
		switch {
		case err != nil:
			content("%s: %v", x.name, err)
		case d != x.digest:
			content("%s: its SHA-256 is %x, the manifest says %x", x.name, d, x.digest)
		default:
			rep.Files++
		}
	}
	var tree []artifact
	if b, err := readRoot(root, "artifacts.mtree"); err != nil {
		content("%v", err)
	} else if tree, err = parseMtree(b); err != nil {
		content("%v", err)
	} else if err := checkNames(sums, tree); err != nil {
		content("%v", err)
	}
	var end time.Time
	if b, err := readRoot(root, "info"); err != nil {
		content("%v", err)
	} else if rep.Info, err = ParseAttrs(b); err != nil {
		content("info: %v", err)
	} else if end, err = parseTime(rep.Info.Get("end")); err != nil {
		content("info: end: %v", err)
	}
	if len(rep.Content) == 0 {
		if err := checkTexts(root, end); err != nil {
			content("%v", err)
		}
	}
	want := make(map[string]artifact)
	for _, x := range tree {
		x.name = "artifacts/" + x.name
		want[x.name] = x
	}
	for _, name := range slices.Concat(ourNames, []string{"manifest", "manifest.sig"}) {
		want[name] = artifact{name: name, mode: 0o444, time: end, size: -1}
	}
	for _, name := range ourDirs {
		want[name] = artifact{name: name, mode: iofs.ModeDir | 0o555, time: end}
	}
	err = iofs.WalkDir(root.FS(), ".", func(name string, d iofs.DirEntry, err error) error {
		if err != nil {
			content("%s: %v", name, err)
			return nil
		}
		x, ok := want[name]
		if !ok {
			content("%s: neither the manifest nor artifacts.mtree names it", name)
			if d.IsDir() {
				return iofs.SkipDir
			}
			return nil
		}
		delete(want, name)
		fi, err := root.Lstat(filepath.FromSlash(name))
		if err != nil {
			content("%s: %v", name, err)
			return nil
		}
		got, err := describe(root, name, fi)
		switch {
		case err != nil:
			metadata("%v", err)
		case got.mode.Type() != x.mode.Type():
			metadata("%s: it is a %s, not a %s", name, mtreeType(got.mode), mtreeType(x.mode))
		default:
			if unixMode(got.mode) != unixMode(x.mode) {
				metadata("%s: its mode is %#o, not %#o", name, unixMode(got.mode), unixMode(x.mode))
			}
			if !got.time.Equal(x.time) {
				metadata("%s: its time is %s, not %s", name, got.time.UTC().Format(time.RFC3339Nano), x.time.UTC().Format(time.RFC3339Nano))
			}
			if x.size >= 0 && got.size != x.size {
				metadata("%s: its size is %d, not %d", name, got.size, x.size)
			}
			if got.link != x.link {
				metadata("%s: it points to %q, not %q", name, got.link, x.link)
			}
		}
		return nil
	})
	if err != nil {
		return rep, fmt.Errorf("fs: verify: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if x := want[name]; name != "manifest.sig" && !x.mode.IsRegular() { // the digests told of files
			content("%s: it is not there", name)
		}
	}
	return rep, nil
}
