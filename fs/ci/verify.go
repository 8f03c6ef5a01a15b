package ci

import (
	"bytes"
	"crypto/sha256"
	"errors"
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
	Files    int  // that have the digests which the manifest says
	Ctl      bool // a ctl lies beside them: it was copied from a tree, and is no part of the run

	// What is wrong, each in one line.
	Content  []string // with what the files hold
	Metadata []string // with modes, times, sizes and links
}

// VerifyDir compares a run on disk, in a store or as tar -xp left it, with its
// manifest and its artifacts.mtree: each file must be there as they say, and
// nothing else, but for the ctl that a copy from a tree has. It reads every file. The signature of the manifest is the
// caller's to verify. The error is of a directory that is no sealed run at all.
func VerifyDir(dir string) (Report, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Report{}, fmt.Errorf("ci: verify: %w", err)
	}
	defer root.Close()
	v := verifier{root: root}
	if err := v.verify(); err != nil {
		return v.Report, fmt.Errorf("ci: verify: %w", err)
	}
	return v.Report, nil
}

// A verifier is one call of VerifyDir.
type verifier struct {
	Report
	root *os.Root
	sums []Sum      // of the manifest
	tree []Artifact // of artifacts.mtree
	end  time.Time  // of info: our files' time
	want map[string]Artifact
}

func (v *verifier) verify() (err error) {
	if v.Manifest, err = ReadText(v.root, "manifest"); err != nil {
		return err
	}
	if v.sums, err = ParseManifest(v.Manifest); err != nil {
		return err
	}
	v.Score = fmt.Sprintf("%x", sha256.Sum256(v.Manifest))
	if v.Sig, err = ReadText(v.root, "manifest.sig"); err != nil {
		v.Sig = nil
	}
	v.digests()
	v.texts()
	return v.files()
}

// content reports what is wrong with what the files hold.
func (v *verifier) content(format string, args ...any) { report(&v.Content, format, args...) }

// metadata reports what is wrong with a mode, a time, a size or a link.
func (v *verifier) metadata(format string, args ...any) { report(&v.Metadata, format, args...) }

func report(to *[]string, format string, args ...any) {
	*to = append(*to, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", `\n`)) // a name makes no line
}

// digests compares the files that the manifest names with it.
func (v *verifier) digests() {
	for _, x := range v.sums {
		d, _, err := disk.Hash(v.root, x.Name)
		switch {
		case err != nil:
			v.content("%s: %v", x.Name, err)
		case d != x.Digest:
			v.content("%s: its SHA-256 is %x, the manifest says %x", x.Name, d, x.Digest)
		default:
			v.Files++
		}
	}
}

// texts reads artifacts.mtree and info, and checks all other texts where nothing
// was wrong until then.
func (v *verifier) texts() {
	if b, err := ReadText(v.root, "artifacts.mtree"); err != nil {
		v.content("%v", err)
	} else if v.tree, err = ParseMtree(b); err != nil {
		v.content("%v", err)
	} else if err := CheckNames(v.sums, v.tree); err != nil {
		v.content("%v", err)
	}
	if b, err := ReadText(v.root, "info"); err != nil {
		v.content("%v", err)
	} else if v.Info, err = ParseAttrs(b); err != nil {
		v.content("info: %v", err)
	} else if v.end, err = End(v.Info); err != nil {
		v.content("%v", err)
	}
	if len(v.Content) == 0 {
		if err := CheckTexts(v.root, v.end); err != nil {
			v.content("%v", err)
		}
	}
}

// files compares what is in the directory with what should be.
func (v *verifier) files() error {
	v.want = make(map[string]Artifact)
	for _, x := range v.tree {
		x.Name = "artifacts/" + x.Name
		v.want[x.Name] = x
	}
	services, err := Services(v.sums)
	if err != nil {
		services = nil // texts has said so
	}
	for _, name := range slices.Concat(Files(services), []string{"manifest", "manifest.sig"}) {
		v.want[name] = Artifact{Name: name, Mode: 0o444, Time: v.end, Size: -1}
	}
	for _, name := range Dirs(services) {
		v.want[name] = Artifact{Name: name, Mode: iofs.ModeDir | 0o555, Time: v.end}
	}
	err = iofs.WalkDir(v.root.FS(), ".", func(name string, d iofs.DirEntry, err error) error {
		if err != nil {
			v.content("%s: %v", name, err)
			return nil
		}
		want, ok := v.want[name]
		if name == "ctl" && d.Type().IsRegular() {
			v.Ctl = true
			return nil
		}
		if !ok {
			v.content("%s: neither the manifest nor artifacts.mtree names it", name)
			if d.IsDir() {
				return iofs.SkipDir
			}
			return nil
		}
		delete(v.want, name)
		v.file(name, want)
		return nil
	})
	for _, name := range slices.Sorted(maps.Keys(v.want)) {
		if x := v.want[name]; name != "manifest.sig" && !x.Mode.IsRegular() { // the digests told of files
			v.content("%s: it is not there", name)
		}
	}
	return err
}

// file compares the metadata of one file. A negative size is not compared.
func (v *verifier) file(name string, want Artifact) {
	fi, err := v.root.Lstat(filepath.FromSlash(name))
	if err != nil {
		v.content("%s: %v", name, err)
		return
	}
	got, err := describe(v.root, name, fi)
	if err != nil {
		v.metadata("%v", err)
		return
	}
	if got.Mode.Type() != want.Mode.Type() {
		v.metadata("%s: it is a %s, not a %s", name, mtreeType(got.Mode), mtreeType(want.Mode))
		return
	}
	if disk.UnixMode(got.Mode) != disk.UnixMode(want.Mode) {
		v.metadata("%s: its mode is %#o, not %#o", name, disk.UnixMode(got.Mode), disk.UnixMode(want.Mode))
	}
	if !got.Time.Equal(want.Time) {
		v.metadata("%s: its time is %s, not %s", name, got.Time.UTC().Format(time.RFC3339Nano), want.Time.UTC().Format(time.RFC3339Nano))
	}
	if want.Size >= 0 && got.Size != want.Size {
		v.metadata("%s: its size is %d, not %d", name, got.Size, want.Size)
	}
	if got.Link != want.Link {
		v.metadata("%s: it points to %q, not %q", name, got.Link, want.Link)
	}
}

// CheckTexts checks that status, key, the logs and the steps' statuses of a
// complete run are written as they should be: a signature says nothing about
// that. end is the end in info. The error wraps an *iofs.PathError where a file
// cannot be read; else it says what is wrong with a file.
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
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if !bytes.Equal(key.Sorted().Text(), text) {
		return errors.New("key is not sorted lines attr=value")
	}
	services, err := ReadServices(root)
	if err != nil {
		return err
	}
	for _, name := range Files(services) {
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
