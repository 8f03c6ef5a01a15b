package store

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"9ci/fs/ci"
	"9ci/fs/internal/disk"
)

// A VerifyFunc judges the signature of a run that is being adopted. sig is its
// manifest.sig, nil where it has none. It returns the signer's name, for the
// index. An error refuses the run before more of it is read.
type VerifyFunc func(manifest, sig []byte, info ci.Attrs) (signer string, err error)

// ErrRefused is the error of an adoption, and of artifacts, that were refused
// for what their tar holds.
var ErrRefused = errors.New("refused")

// Adopt reads the tar of another store's sealed run, as /ci/<id>.tar gives it,
// and seals the run as it is. It checks every digest, mode, time and size
// against the manifest and artifacts.mtree, and refuses what neither names: the
// error wraps ErrRefused. A nil verify accepts every signature, and none.
// Nothing of the run is visible before, and nothing is left after an error.
//
// The run keeps its maker's id, unless this store has another run of that name:
// then it gets a number of this store's. A run that the store has already is
// not adopted again: Adopt returns its entry.
//
// Adopt looks at ctx between reads: the caller closes a reader that stalls.
func (s *Store) Adopt(ctx context.Context, r io.Reader, verify VerifyFunc) (Entry, error) {
	a := &adoption{s: s, tar: newTarReader(ctx, r), verify: verify}
	rec, err := a.run()
	if err != nil {
		return Entry{}, fmt.Errorf("store: adopt %s: %w", cmp.Or(a.id, "a run"), err)
	}
	if !a.had {
		s.tell(rec.id(), rec.status())
		s.enforce()
	}
	return s.entry(rec), nil
}

// An adoption is one call of Adopt.
type adoption struct {
	s      *Store
	tar    tarReader
	verify VerifyFunc

	id       string // the maker's
	dir      string // where the run is put together
	root     *os.Root
	manifest []byte
	sig      []byte
	info     ci.Attrs
	end      time.Time
	signer   string
	services []string
	sums     map[string][32]byte    // what is still to come of regular files
	dirs     map[string]bool        // and of directories of ours
	tree     map[string]ci.Artifact // and of artifacts
	all      []ci.Artifact
	room     int64 // how many bytes our files may still have
	had      bool  // the store has this run
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, args...))
}

func (a *adoption) run() (*record, error) {
	a.room = cmp.Or(a.s.MaxOutput, defaultMaxOutput)
	if err := a.begin(); err != nil {
		return nil, err
	}
	if rec := a.known(); rec != nil {
		return rec, nil
	}
	a.dir = filepath.Join(a.s.RunDir(), inPrefix+a.s.token+"+"+rand.Text())
	if err := os.Mkdir(a.dir, 0o700); err != nil {
		return nil, err
	}
	rec, err := a.fill()
	if a.root != nil {
		a.root.Close()
	}
	if err != nil || a.had {
		if rerr := removeAll(a.dir); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}
	return rec, err
}

// begin reads manifest, manifest.sig and info, by which it judges the rest.
func (a *adoption) begin() error {
	h, err := a.next()
	if err != nil {
		return err
	}
	id, name, _ := strings.Cut(h.Name, "/")
	prefix, _, ok := ci.SplitID(id)
	if !ok || name != "manifest" {
		return refuse("the first entry is %.100q, not ID/manifest", h.Name)
	}
	a.id = id
	if a.manifest, err = a.text(h, "manifest"); err != nil {
		return err
	}
	sums, err := ci.ParseManifest(a.manifest)
	if err != nil {
		return refuse("%w", err)
	}
	if a.services, err = ci.Services(sums); err != nil {
		return refuse("%w", err)
	}
	a.sums = make(map[string][32]byte, len(sums))
	for _, x := range sums {
		a.sums[x.Name] = x.Digest
	}
	if h, err = a.next(); err != nil {
		return err
	}
	sigTime := time.Time{}
	if h.Name == id+"/manifest.sig" {
		sigTime = h.ModTime
		if a.sig, err = a.text(h, "manifest.sig"); err != nil {
			return err
		}
		if h, err = a.next(); err != nil {
			return err
		}
	}
	if h.Name != id+"/info" {
		return refuse("%.100q stands where info should: manifest, manifest.sig and info come first", h.Name)
	}
	text, err := a.text(h, "info")
	if err != nil {
		return err
	}
	if sha256.Sum256(text) != a.sums["info"] {
		return refuse("info is not what the manifest says")
	}
	if a.info, err = ci.ParseAttrs(text); err != nil {
		return refuse("info: %w", err)
	}
	if got := a.info.Get("id"); got != id {
		return refuse("the tar is of %s, its info of %q", id, got)
	}
	if c := a.info.Get("commit"); !strings.HasPrefix(c, prefix) {
		return refuse("%s is not a run of commit %.80q", id, c)
	}
	if a.end, err = ci.End(a.info); err != nil {
		return refuse("%w", err)
	}
	if !h.ModTime.Equal(a.end) || a.sig != nil && !sigTime.Equal(a.end) {
		return refuse("its files are not of info's end %s", ci.FormatTime(a.end))
	}
	if a.verify != nil {
		if a.signer, err = a.verify(a.manifest, a.sig, a.info); err != nil {
			return err
		}
	} else if a.sig != nil {
		a.signer = sigSigner(a.sig)
	}
	if strings.ContainsAny(a.signer, "\n\x00") {
		return refuse("the signer's name %.100q has a newline or a NUL in it", a.signer)
	}
	a.sums["info"] = [32]byte{} // it is here; fill writes it
	a.room -= int64(len(text))
	return nil
}

// known returns the record of the run that has the same manifest.
func (a *adoption) known() *record {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.s.index.refresh()
	score := sha256.Sum256(a.manifest)
	for r := range byHash(a.s.index.byScore, hex.EncodeToString(score[:]), scoreOf) {
		if _, err := os.Lstat(a.s.runPath(r.id())); err == nil {
			a.had = true
			return r
		}
	}
	return nil
}

// fill reads the rest of the tar into a.dir and publishes it.
func (a *adoption) fill() (*record, error) {
	var err error
	if a.root, err = os.OpenRoot(a.dir); err != nil {
		return nil, err
	}
	a.dirs = make(map[string]bool)
	for _, name := range ci.Dirs(a.services) { // parents come first
		a.dirs[name] = true
		if name != "." {
			if err := a.root.Mkdir(name, 0o700); err != nil {
				return nil, err
			}
		}
	}
	texts := []struct {
		name string
		text []byte
	}{{"manifest", a.manifest}, {"manifest.sig", a.sig}, {"info", a.info.Text()}}
	for _, t := range texts {
		if t.text != nil {
			if err := a.root.WriteFile(t.name, t.text, 0o600); err != nil {
				return nil, err
			}
		}
	}
	if sha256.Sum256(a.info.Text()) != mustSum(a.manifest, "info") {
		return nil, refuse("info is not written as it should be")
	}
	delete(a.sums, "info")
	for {
		h, err := a.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := a.entry(h); err != nil {
			return nil, err
		}
	}
	if err := a.complete(); err != nil {
		return nil, err
	}
	if sums, err := ci.ParseManifest(a.manifest); err == nil {
		shareLog(a.root, sums)
	}
	for i := len(a.all) - 1; i >= 0; i-- { // children before their directory
		x := a.all[i]
		x.Name = "artifacts/" + x.Name
		if x.Mode.IsDir() {
			if err := setMeta(a.root, x); err != nil {
				return nil, err
			}
		}
	}
	if err := settle(a.root, a.end, a.all); err != nil {
		return nil, err
	}
	return a.publish()
}

func mustSum(manifest []byte, name string) [32]byte {
	sums, _ := ci.ParseManifest(manifest)
	i := slices.IndexFunc(sums, func(x ci.Sum) bool { return x.Name == name })
	if i < 0 {
		return [32]byte{}
	}
	return sums[i].Digest
}

// next returns the next header of the tar, io.EOF at its end.
func (a *adoption) next() (*tar.Header, error) {
	h, err := a.tar.Next()
	if err == io.EOF && a.root == nil {
		return nil, refuse("the tar ends early")
	}
	return h, err
}

// text reads a file of ours that is never large.
func (a *adoption) text(h *tar.Header, name string) ([]byte, error) {
	if err := a.header(h, ci.Artifact{Name: name, Mode: 0o444, Time: h.ModTime, Size: h.Size}); err != nil {
		return nil, err
	}
	if h.Size > ci.MaxText {
		return nil, refuse("%s is over %d bytes", name, ci.MaxText)
	}
	var b bytes.Buffer
	if _, err := io.Copy(&b, a.tar); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// header compares a header with what it should be.
func (a *adoption) header(h *tar.Header, want ci.Artifact) error {
	bad := func(what string, got, want any) error {
		return refuse("%.300q has %s %v, want %v", h.Name, what, got, want)
	}
	kind, size := byte(tar.TypeReg), want.Size
	switch {
	case want.Mode.IsDir():
		kind, size = tar.TypeDir, 0
	case want.Mode&iofs.ModeSymlink != 0:
		kind, size = tar.TypeSymlink, 0
	}
	switch {
	case h.Typeflag != kind:
		return bad("type", fmt.Sprintf("%q", h.Typeflag), fmt.Sprintf("%q", kind))
	case h.Mode != int64(disk.UnixMode(want.Mode)):
		return bad("mode", fmt.Sprintf("%#o", h.Mode), fmt.Sprintf("%#o", disk.UnixMode(want.Mode)))
	case !h.ModTime.Equal(want.Time):
		return bad("time", h.ModTime.UTC(), want.Time.UTC())
	case h.Size != size:
		return bad("size", h.Size, size)
	case h.Linkname != want.Link:
		return bad("target", fmt.Sprintf("%.300q", h.Linkname), fmt.Sprintf("%.300q", want.Link))
	case h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "":
		return bad("owner", fmt.Sprintf("%d %d %.40q %.40q", h.Uid, h.Gid, h.Uname, h.Gname), "0 0")
	}
	for k := range h.PAXRecords {
		switch k {
		case "path", "linkpath", "size", "mtime":
		default:
			return refuse("%.300q has the pax record %.60q", h.Name, k)
		}
	}
	return nil
}

// entry takes one entry of the tar.
func (a *adoption) entry(h *tar.Header) error {
	path := strings.TrimSuffix(h.Name, "/")
	name, ok := strings.CutPrefix(path, a.id+"/")
	if path == a.id && h.Typeflag == tar.TypeDir {
		name, ok = ".", true
	}
	if !ok || name != "." && ci.CheckPath(name) != nil {
		return refuse("the entry %.300q is not in %s", h.Name, a.id)
	}
	if a.dirs[name] {
		delete(a.dirs, name)
		return a.header(h, ci.Artifact{Name: name, Mode: iofs.ModeDir | 0o555, Time: a.end})
	}
	if inner, ok := strings.CutPrefix(name, "artifacts/"); ok {
		x, ok := a.tree[inner]
		if !ok {
			return refuse("artifacts.mtree does not name %.300q, or it came twice or too early", name)
		}
		delete(a.tree, inner)
		return a.artifact(h, x)
	}
	if _, ok := a.sums[name]; !ok || !slices.Contains(ci.Files(a.services), name) {
		return refuse("%.300q is no file of a run, or it came twice", name)
	}
	if err := a.header(h, ci.Artifact{Name: name, Mode: 0o444, Time: a.end, Size: h.Size}); err != nil {
		return err
	}
	if a.room -= h.Size; a.room < 0 {
		return refuse("the run's output and its logs are over %d bytes", cmp.Or(a.s.MaxOutput, defaultMaxOutput))
	}
	if err := a.file(name); err != nil {
		return err
	}
	if name == "artifacts.mtree" {
		return a.mtree()
	}
	return nil
}

// file writes the current entry's bytes and checks their digest.
func (a *adoption) file(name string) error {
	want, ok := a.sums[name]
	if !ok {
		return refuse("manifest does not name %.300q", name)
	}
	delete(a.sums, name)
	h := sha256.New()
	if err := fill(a.root, name, io.TeeReader(a.tar, h), nil); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = refuse("the tar ends in %.300q", name)
		}
		return err
	}
	if [32]byte(h.Sum(nil)) != want {
		return refuse("%.300q is not what the manifest says", name)
	}
	return nil
}

// mtree reads artifacts.mtree, which is on disk and as signed, and makes its
// directories.
func (a *adoption) mtree() error {
	b, err := ci.ReadText(a.root, "artifacts.mtree")
	if err != nil {
		return err
	}
	if a.all, err = ci.ParseMtree(b); err != nil {
		return refuse("%w", err)
	}
	sums, err := ci.ParseManifest(a.manifest)
	if err != nil {
		return err
	}
	if err := ci.CheckNames(sums, a.all); err != nil {
		return refuse("%w", err)
	}
	a.tree = make(map[string]ci.Artifact, len(a.all))
	for _, x := range a.all {
		a.tree[x.Name] = x
		if x.Mode.IsDir() {
			if err := a.root.Mkdir(filepath.FromSlash("artifacts/"+x.Name), 0o700); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *adoption) artifact(h *tar.Header, x ci.Artifact) error {
	if err := a.header(h, x); err != nil {
		return err
	}
	x.Name = "artifacts/" + x.Name
	switch {
	case x.Mode.IsDir():
		return nil // made by mtree, dated at the end
	case x.Mode&iofs.ModeSymlink != 0:
		if err := a.root.Symlink(x.Link, filepath.FromSlash(x.Name)); err != nil {
			return err
		}
	default:
		if err := a.file(x.Name); err != nil {
			return err
		}
	}
	return setMeta(a.root, x)
}

// complete reports what the tar lacks.
func (a *adoption) complete() error {
	for name := range a.sums {
		return refuse("the tar has no %.300q", name)
	}
	for name := range a.tree {
		return refuse("the tar has no artifact %.300q", name)
	}
	for name := range a.dirs {
		return refuse("the tar has no directory %q", name)
	}
	if err := ci.CheckTexts(a.root, a.end); err != nil {
		if _, ok := errors.AsType[*iofs.PathError](err); ok {
			return err // our own disk's
		}
		return refuse("%w", err)
	}
	return nil
}

// publish gives the run its id in this store.
func (a *adoption) publish() (*record, error) {
	rec, err := recordOf(a.dir)
	if err != nil {
		return nil, refuse("%w", err)
	}
	unlock, err := a.s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if had := a.known(); had != nil { // adopted meanwhile by another
		return had, nil
	}
	if rec.seq, err = a.s.nextNumber(); err != nil {
		return nil, err
	}
	_, rec.num, _ = ci.SplitID(a.id)
	for a.s.taken(rec.id()) {
		rec.num = rec.seq
		if a.s.taken(rec.id()) {
			if rec.seq, err = a.s.nextNumber(); err != nil {
				return nil, err
			}
		}
	}
	rec.owner, rec.signer, rec.adopted = a.s.token, a.signer, true
	return rec, a.s.publish(a.dir, rec, nil)
}

// taken reports whether a run, sealed or not, has the id.
func (s *Store) taken(id string) bool {
	for _, dir := range []string{s.runPath(id), s.workPath(id)} {
		if _, err := os.Lstat(dir); !errors.Is(err, iofs.ErrNotExist) {
			return true
		}
	}
	return false
}
