package ci

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"9ci/fs/internal/disk"
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
		return rep, fmt.Errorf("ci: verify: %w", err)
	}
	defer root.Close()
	if rep.Manifest, err = ReadText(root, "manifest"); err != nil {
		return rep, fmt.Errorf("ci: verify: %w", err)
	}
	sums, err := ParseManifest(rep.Manifest)
	if err != nil {
		return rep, fmt.Errorf("ci: verify: %w", err)
	}
	rep.Score = fmt.Sprintf("%x", sha256.Sum256(rep.Manifest))
	if rep.Sig, err = ReadText(root, "manifest.sig"); err != nil {
		rep.Sig = nil
	}
	report := func(to *[]string, format string, args ...any) {
		*to = append(*to, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", `\n`)) // a name makes no line
	}
	content := func(format string, args ...any) { report(&rep.Content, format, args...) }
	metadata := func(format string, args ...any) { report(&rep.Metadata, format, args...) }

	files := make(map[string]bool)
	for _, x := range sums {
		files[x.Name] = true
		d, _, err := disk.Hash(root, x.Name)
		switch {
		case err != nil:
			content("%s: %v", x.Name, err)
		case d != x.Digest:
			content("%s: its SHA-256 is %x, the manifest says %x", x.Name, d, x.Digest)
		default:
			rep.Files++
		}
	}
	var tree []Artifact
	if b, err := ReadText(root, "artifacts.mtree"); err != nil {
		content("%v", err)
	} else if tree, err = ParseMtree(b); err != nil {
		content("%v", err)
	} else if err := CheckNames(sums, tree); err != nil {
		content("%v", err)
	}
	var end time.Time
	if b, err := ReadText(root, "info"); err != nil {
		content("%v", err)
	} else if rep.Info, err = ParseAttrs(b); err != nil {
		content("info: %v", err)
	} else if end, err = ParseTime(rep.Info.Get("end")); err != nil {
		content("info: end: %v", err)
	}
	if len(rep.Content) == 0 {
		if err := CheckTexts(root, end); err != nil {
			content("%v", err)
		}
	}
	want := make(map[string]Artifact)
	for _, x := range tree {
		x.Name = "artifacts/" + x.Name
		want[x.Name] = x
	}
	for _, name := range slices.Concat(Files, []string{"manifest", "manifest.sig"}) {
		want[name] = Artifact{Name: name, Mode: 0o444, Time: end, Size: -1}
	}
	for _, name := range Dirs {
		want[name] = Artifact{Name: name, Mode: iofs.ModeDir | 0o555, Time: end}
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
		case got.Mode.Type() != x.Mode.Type():
			metadata("%s: it is a %s, not a %s", name, mtreeType(got.Mode), mtreeType(x.Mode))
		default:
			if disk.UnixMode(got.Mode) != disk.UnixMode(x.Mode) {
				metadata("%s: its mode is %#o, not %#o", name, disk.UnixMode(got.Mode), disk.UnixMode(x.Mode))
			}
			if !got.Time.Equal(x.Time) {
				metadata("%s: its time is %s, not %s", name, got.Time.UTC().Format(time.RFC3339Nano), x.Time.UTC().Format(time.RFC3339Nano))
			}
			if x.Size >= 0 && got.Size != x.Size {
				metadata("%s: its size is %d, not %d", name, got.Size, x.Size)
			}
			if got.Link != x.Link {
				metadata("%s: it points to %q, not %q", name, got.Link, x.Link)
			}
		}
		return nil
	})
	if err != nil {
		return rep, fmt.Errorf("ci: verify: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if x := want[name]; name != "manifest.sig" && !x.Mode.IsRegular() { // the digests told of files
			content("%s: it is not there", name)
		}
	}
	return rep, nil
}

// checkTexts checks that the texts of a complete run are what they should be,
// whoever signed them: what we serve of ours can be relied upon.
func CheckTexts(root *os.Root, end time.Time) error {
	text, err := ReadText(root, "status")
	if err != nil {
		return err
	}
	st, err := ParseStatus(string(text))
	if err != nil || !st.Finished() || st.String()+"\n" != string(text) || !st.Time.Equal(end) {
		return fmt.Errorf("status is %.100q, info's end %s", text, FormatTime(end))
	}
	if text, err = ReadText(root, "key"); err != nil {
		return err
	}
	key, err := ParseAttrs(text)
	if err != nil || !bytes.Equal(key.Sorted().Text(), text) {
		return fmt.Errorf("key is not sorted lines attr=value: %v", err)
	}
	for _, name := range Files {
		if !strings.HasSuffix(name, "log") {
			continue
		}
		f, err := disk.OpenRegular(root, name)
		if err != nil {
			return err
		}
		err = CopyLog(io.Discard, io.Discard, f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, s := range Steps {
		text, err := ReadText(root, "step/"+s+"/status")
		if err != nil {
			return err
		}
		if st, err := ParseStatus(string(text)); err != nil || st.String()+"\n" != string(text) {
			return fmt.Errorf("step/%s/status is %.100q", s, text)
		}
	}
	return nil
}
