// Package treetest is for tests only: it tests that a tree obeys the rules of
// ci(4), which are the names, the formats and the listing rule that package ci
// documents. Every tree passes it, and every door passes it again through its
// client.
package treetest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
)

// Lacks is what a door by its nature cannot carry. Every door must do
// everything else.
type Lacks struct {
	Links    bool // an alias is a directory, and a link a file that holds its target
	Paths    bool // no Stat tells the qid.path
	Versions bool // no Stat tells the qid.vers
	Writes   bool // no ctl can be opened for writing
	Waits    bool // no read blocks: live ends at its current end, wait cannot be opened before the run ends
}

// Test tests the rules of the tree at root, which has at least one run, and
// does not change while it is tested.
//
// Where the User may write to /ctl, Test writes a command there that does not
// exist.
func Test(t *testing.T, root fs.Dir) { TestDoor(t, root, Lacks{}) }

// TestDoor is Test through a door that lacks something.
func TestDoor(t *testing.T, root fs.Dir, lacks Lacks) {
	w := &walker{T: t, root: root, ci: true, lacks: lacks, paths: make(map[uint64]string)}
	t.Run("tree", func(t *testing.T) { w.in(t).dir("", root) })
	t.Run("root", func(t *testing.T) { w.in(t).testRoot() })
	ids := w.names("ci")
	if len(ids) == 0 {
		t.Errorf("/ci lists no runs")
	}
	for _, id := range ids {
		t.Run(id, func(t *testing.T) { w.in(t).testRun(id) })
	}
}

// TestDir tests what holds of every directory that is served, whatever is in
// it: that listing, walking, stat and reading agree, page by page, and that
// nothing can be written.
func TestDir(t *testing.T, root fs.Dir) {
	w := &walker{T: t, root: root, paths: make(map[uint64]string)}
	w.dir("", root)
}

// A walker tests one tree.
type walker struct {
	*testing.T
	root  fs.Dir
	ci    bool // root is ci(4), not any directory
	lacks Lacks
	paths map[uint64]string // qid.path -> the file that has it
}

func (w *walker) in(t *testing.T) *walker {
	c := *w
	c.T = t
	return &c
}

// Blocking are the names that can be walked to and are never listed, besides
// those that end in .tar.
var Blocking = []string{"live", "wait", "event"}

// dir tests a directory and what is below it.
func (w *walker) dir(name string, d fs.Dir) {
	ctx := w.Context()
	st, err := d.Stat(ctx)
	if err != nil {
		w.Errorf("Stat(%q): %v", name, err)
		return
	}
	if !st.IsDir() {
		w.Errorf("Stat(%q).Mode = %v of a directory", name, st.Mode)
	}
	w.path(name, st)
	if f, err := d.Open(ctx, fs.OpenRead); err == nil {
		f.Close()
		w.Errorf("Open(%q) of a directory is no error", name)
	} else if !errors.Is(err, fs.ErrIsDir) {
		w.Errorf("Open(%q) of a directory = %v, want %v", name, err, fs.ErrIsDir)
	}
	if _, err := d.Walk(ctx, "no such file"); !errors.Is(err, iofs.ErrNotExist) {
		w.Errorf("Walk(%q) = %v, want %v", path.Join(name, "no such file"), err, iofs.ErrNotExist)
	}
	list := w.list(name, d)
	seen := make(map[string]bool)
	for _, e := range list {
		full := path.Join(name, e.Name)
		if seen[e.Name] {
			w.Errorf("%q is listed twice", full)
		}
		seen[e.Name] = true
		w.entry(full, d, e)
	}
}

// list reads a directory as a whole and in pages, which must agree.
func (w *walker) list(name string, d fs.Dir) []fs.Stat {
	all := w.page(name, d, 0, 1000)
	for _, n := range []int{1, 7} {
		if len(all) > 100 && n == 1 {
			continue
		}
		w.same(name, all, w.page(name, d, 0, n), fmt.Sprintf("%d at a time", n))
	}
	if len(all) > 1 {
		i := rand.IntN(len(all))
		w.same(name, all[i+1:], w.page(name, d, all[i].Cookie, 1000), fmt.Sprintf("behind %q", all[i].Name))
	}
	return all
}

func (w *walker) page(name string, d fs.Dir, after uint64, n int) []fs.Stat {
	var all []fs.Stat
	for {
		list, err := d.ReadDir(w.Context(), after, n)
		if err != nil {
			w.Errorf("ReadDir(%q, %d, %d): %v", name, after, n, err)
			return all
		}
		if len(list) > n {
			w.Errorf("ReadDir(%q, %d, %d) = %d entries", name, after, n, len(list))
		}
		if len(list) == 0 {
			return all
		}
		for _, e := range list {
			if e.Cookie == 0 {
				w.Errorf("the cookie of %q is 0", path.Join(name, e.Name))
				return all
			}
		}
		all = append(all, list...)
		after = list[len(list)-1].Cookie
		if len(all) > 1<<20 {
			w.Fatalf("the listing of %q does not end", name)
		}
	}
}

func (w *walker) same(name string, want, got []fs.Stat, how string) {
	names := func(list []fs.Stat) (s []string) {
		for _, e := range list {
			s = append(s, e.Name)
		}
		return s
	}
	if !slices.Equal(names(want), names(got)) {
		w.Errorf("%q listed %s has %q, want %q", name, how, names(got), names(want))
	}
}

// entry tests a listed file and, where it is a directory, what is in it.
func (w *walker) entry(name string, d fs.Dir, e fs.Stat) {
	ctx := w.Context()
	if w.ci && slices.Contains(Blocking, e.Name) && !strings.Contains(name, "artifacts/") {
		w.Errorf("%q is listed: it blocks", name)
		return
	}
	n, err := d.Walk(ctx, e.Name)
	if err != nil {
		w.Errorf("Walk(%q): %v", name, err)
		return
	}
	st, err := n.Stat(ctx)
	if err != nil {
		w.Errorf("Stat(%q): %v", name, err)
		return
	}
	if st.Name != e.Name || st.Mode != e.Mode || st.Path != e.Path || st.Version != e.Version || st.Target != e.Target {
		w.Errorf("Stat(%q) = %+v, listed as %+v", name, st, e)
	}
	if st.Version != 0 && (st.Size != e.Size || !st.ModTime.Equal(e.ModTime)) {
		w.Errorf("Stat(%q) = size %d time %v, listed as %d %v", name, st.Size, st.ModTime, e.Size, e.ModTime)
	}
	if st.Mode&iofs.ModeSymlink != 0 {
		if st.Target == "" {
			w.Errorf("the link %q has no target", name)
		}
		w.path(name, st)
		return
	}
	if sub, ok := n.(fs.Dir); ok {
		if w.lacks.Links && strings.HasPrefix(name, "artifacts/") {
			return // an alias: what is in it is listed in /ci
		}
		w.dir(name, sub)
		return
	}
	w.path(name, st)
	w.file(name, n, st)
}

// path tests a qid.path.
func (w *walker) path(name string, st fs.Stat) {
	if w.lacks.Paths {
		return
	}
	if st.Path == 0 {
		w.Errorf("qid.path of %q is 0", name)
	}
	if st.Path >= 1<<56 {
		w.Errorf("qid.path of %q = %#x, not below 2^56", name, st.Path)
	}
	if other, ok := w.paths[st.Path]; ok && other != name {
		w.Errorf("%q and %q have the same qid.path %#x", name, other, st.Path)
	}
	w.paths[st.Path] = name
}

// file tests a file that does not block.
func (w *walker) file(name string, n fs.Node, st fs.Stat) {
	ctx := w.Context()
	if path.Base(name) != "ctl" && path.Base(name) != "find" {
		for _, mode := range []fs.OpenMode{fs.OpenWrite, fs.OpenRead | fs.OpenWrite, fs.OpenRead | fs.OpenTrunc} {
			f, err := n.Open(ctx, mode)
			if err == nil {
				f.Close()
				w.Errorf("Open(%q, %d) for writing is no error", name, mode)
			} else if !errors.Is(err, iofs.ErrPermission) && !errors.Is(err, fs.ErrReadOnly) {
				w.Errorf("Open(%q, %d) for writing = %v, want %v", name, mode, err, iofs.ErrPermission)
			}
		}
	}
	f, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		w.Errorf("Open(%q): %v", name, err)
		return
	}
	defer f.Close()
	data, err := io.ReadAll(fs.NewReader(ctx, f))
	if err != nil {
		w.Errorf("read %q: %v", name, err)
	}
	if int64(len(data)) != st.Size {
		w.Errorf("%q has %d bytes, its Stat says %d", name, len(data), st.Size)
	}
	w.readAt(name, f, data)
	if _, err := f.WriteAt(ctx, []byte("x"), 0); err == nil {
		w.Errorf("WriteAt of %q, which was opened for reading, is no error", name)
	}
}

// readAt reads parts of a file whose bytes are known.
func (w *walker) readAt(name string, f fs.File, data []byte) {
	size := int64(len(data))
	for range 3 {
		off := rand.Int64N(size + 1)
		p := make([]byte, rand.IntN(5000)+1)
		n, err := f.ReadAt(w.Context(), p, off)
		if off == size {
			if n != 0 || err != io.EOF {
				w.Errorf("ReadAt(%q, %d) at its end = %d, %v, want 0, %v", name, off, n, err, io.EOF)
			}
			continue
		}
		if n == 0 || err != nil && err != io.EOF || off+int64(n) > size || !bytes.Equal(p[:n], data[off:off+int64(n)]) {
			w.Errorf("ReadAt(%q, %d) = %d, %v: not the file's bytes", name, off, n, err)
		}
	}
	if n, err := f.ReadAt(w.Context(), make([]byte, 10), size+10); n != 0 || err != io.EOF {
		w.Errorf("ReadAt(%q) behind its end = %d, %v, want 0, %v", name, n, err, io.EOF)
	}
}

// names lists the names in a directory.
func (w *walker) names(dir string) []string {
	d, err := fs.WalkDir(w.Context(), w.root, dir)
	if err != nil {
		w.Errorf("WalkDir(%q): %v", dir, err)
		return nil
	}
	var names []string
	for _, e := range w.page(dir, d, 0, 100) {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	return names
}

// walk walks to a file that must be there.
func (w *walker) walk(name string) fs.Node {
	n, err := fs.Walk(w.Context(), w.root, name)
	if err != nil {
		w.Fatalf("Walk(%q): %v", name, err)
	}
	return n
}

func (w *walker) read(name string) string {
	b, err := fs.ReadAll(w.Context(), w.walk(name))
	if err != nil {
		w.Errorf("read %q: %v", name, err)
	}
	return string(b)
}

func (w *walker) absent(name string) {
	if _, err := fs.Walk(w.Context(), w.root, name); !errors.Is(err, iofs.ErrNotExist) {
		w.Errorf("Walk(%q) = %v, want %v", name, err, iofs.ErrNotExist)
	}
}

// Formats, each of a whole text.
const (
	timeRE    = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`
	statusRE  = `(queued|boot|clone|prepare-runtime|base-image|test|artifacts|post-test|passed|failed|cancelled|error) (-|\d+) (-|\d+\.\d{3}) ` + timeRE
	stepRE    = `(queued|running|skipped|passed|failed|cancelled|error) (-|\d+) (-|\d+\.\d{3}) (-|` + timeRE + `)`
	hashRE    = `([0-9a-f]{40}|[0-9a-f]{64})`
	idRE      = `[0-9a-f]{12}\.[1-9]\d*`
	indexRE   = idRE + ` ` + statusRE + ` (-|` + hashRE + `) ` + hashRE + ` (-|'([^']|'')*'|[^ ']+) (-|[0-9a-f]{64})`
	attrRE    = `[a-z0-9-]+=('([^'\n]|'')*'|[^' \n]+)`
	logLineRE = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) [FP] .*`
	sumRE     = `\\?[0-9a-f]{64}  .+`
	mtreeRE   = `\./\S+ type=(file|dir|link) mode=0[0-7]+ time=-?\d+\.\d{9}( size=\d+ sha256=[0-9a-f]{64}| link=\S+|)`
)

// lines tests that each line of a text has a form, and returns them.
func (w *walker) lines(name, form string) []string {
	text := w.read(name)
	if text == "" {
		return nil
	}
	if !strings.HasSuffix(text, "\n") {
		w.Errorf("%s does not end in a newline", name)
	}
	re := regexp.MustCompile(`^(?s:` + form + `)$`)
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for _, l := range lines {
		if !re.MatchString(l) {
			w.Errorf("%s has the line %q, want the form %s", name, l, form)
		}
	}
	return lines
}

func (w *walker) attrs(name string) ci.Attrs {
	w.lines(name, attrRE)
	a, err := ci.ParseAttrs([]byte(w.read(name)))
	if err != nil {
		w.Errorf("%s: %v", name, err)
	}
	return a
}

func attrNames(a ci.Attrs) (names []string) {
	for _, x := range a {
		names = append(names, x.Name)
	}
	return names
}

func (w *walker) testRoot() {
	want := []string{"artifacts", "ci", "ctl", "index", "status"}
	if got := w.names(""); !slices.Equal(got, want) {
		w.Errorf("/ lists %q, want %q", got, want)
	}
	status := w.attrs("status")
	first := []string{"mode", "version", "arch", "accel", "coreos", "memory", "cpus", "running", "queued", "kept", "orchestrator"}
	if got := attrNames(status); len(got) < len(first) || !slices.Equal(got[:len(first)], first) {
		w.Errorf("/status has the attributes %q, want %q", got, first)
	}
	var ids []string
	for _, l := range w.lines("index", indexRE) {
		id, _, _ := strings.Cut(l, " ")
		ids = append(ids, id)
	}
	if len(ids) > 0 {
		if st := w.stat("ci/last"); st.Mode&iofs.ModeSymlink != 0 && st.Target != ids[0] {
			w.Errorf("/ci/last points to %q, the newest run in /index is %q", st.Target, ids[0])
		}
	}
	slices.Sort(ids)
	for _, dir := range []string{"ci", "artifacts"} {
		if got := w.names(dir); !slices.Equal(got, ids) {
			w.Errorf("/%s lists %q, /index %q", dir, got, ids)
		}
	}
	w.absent("ci/0000000")
	w.absent("ci/000000000000.1")
	w.absent("ci/000000000000.1.tar")
	w.absent("artifacts/000000000000.1")
	w.testCtl("ctl", []string{"run", "cancel", "keep", "forget", "gc"})
}

func (w *walker) stat(name string) fs.Stat {
	st, err := w.walk(name).Stat(w.Context())
	if err != nil {
		w.Errorf("Stat(%q): %v", name, err)
	}
	return st
}

// testCtl reads a ctl as its manual, and its reply to what is no command.
func (w *walker) testCtl(name string, commands []string) {
	ctx := w.Context()
	var words []string
	for l := range strings.Lines(w.read(name)) {
		word, _, _ := strings.Cut(strings.TrimSpace(l), " ")
		words = append(words, word)
	}
	if !slices.Equal(words, commands) {
		w.Errorf("the manual in %s is of %q, want %q", name, words, commands)
	}
	f, err := w.walk(name).Open(ctx, fs.OpenRead|fs.OpenWrite)
	if err != nil {
		if !w.lacks.Writes || !errors.Is(err, iofs.ErrPermission) {
			w.Errorf("Open(%q) for writing: %v", name, err)
		}
		return
	}
	defer f.Close()
	if w.lacks.Writes {
		w.Errorf("Open(%q) for writing is no error", name)
	}
	if n, err := f.WriteAt(ctx, []byte("frobnicate\n"), 0); err == nil {
		w.Errorf("a bad command written to %s = %d, nil, want an error", name, n)
	}
	b := make([]byte, 4096)
	n, err := f.ReadAt(ctx, b, 1000) // at whatever offset
	if err != nil && err != io.EOF || !strings.Contains(string(b[:n]), "frobnicate") {
		w.Errorf("%s replies %q, %v to a bad command, want a text that names it", name, b[:n], err)
	}
	if n, err := f.ReadAt(ctx, b, 1000+int64(n)); n != 0 || err != io.EOF {
		w.Errorf("behind the reply %s reads %q, %v, want %v", name, b[:n], err, io.EOF)
	}
}

var infoNames = []string{"id", "commit", "tree", "repo", "host", "image", "coreos", "version", "start", "end"}

func (w *walker) testRun(id string) {
	dir := "ci/" + id
	if lines := w.lines(dir+"/status", statusRE); len(lines) != 1 {
		w.Fatalf("%s/status has %d lines", dir, len(lines))
	}
	st, err := ci.ParseStatus(w.read(dir + "/status"))
	if err != nil {
		w.Fatalf("%s/status: %v", dir, err)
	}
	var want, sealed []string // what it lists, and what it has only when it is sealed
	for _, e := range ci.Entries {
		if !e.Always {
			sealed = append(sealed, e.Name)
		}
		if e.Always || st.Finished() {
			want = append(want, e.Name)
		}
	}
	got := w.names(dir)
	for _, e := range ci.Entries {
		if e.May && !slices.Contains(got, e.Name) {
			want = slices.DeleteFunc(want, func(n string) bool { return n == e.Name })
		}
	}
	if !slices.Equal(got, want) {
		w.Errorf("%s lists %q, want %q", dir, got, want)
	}
	info := w.attrs(dir + "/info")
	if got := attrNames(info); len(got) < len(infoNames) || !slices.Equal(got[:len(infoNames)], infoNames) {
		w.Errorf("%s/info has the attributes %q, want %q", dir, got, infoNames)
	}
	if names := attrNames(w.attrs(dir + "/key")); !slices.IsSorted(names) {
		w.Errorf("%s/key is not sorted: %q", dir, names)
	}
	w.lines(dir+"/log", logLineRE)
	steps := w.names(dir + "/step")
	all := slices.Clone(ci.Steps)
	slices.Sort(all)
	if !slices.Equal(steps, all) {
		w.Errorf("%s/step lists %q, want %q", dir, steps, all)
	}
	for _, s := range ci.Steps {
		if got := w.names(dir + "/step/" + s); !slices.Equal(got, []string{"log", "status"}) {
			w.Errorf("%s/step/%s lists %q", dir, s, got)
		}
		w.lines(dir+"/step/"+s+"/status", stepRE)
		w.lines(dir+"/step/"+s+"/log", logLineRE)
	}
	if slices.Contains(got, "service") {
		for _, s := range w.names(dir + "/service") {
			if got := w.names(dir + "/service/" + s); !ci.IsService(s) || !slices.Equal(got, []string{"log"}) {
				w.Errorf("%s/service/%s lists %q", dir, s, got)
			}
			w.lines(dir+"/service/"+s+"/log", logLineRE)
		}
	} else {
		w.absent(dir + "/service")
	}
	w.testCtl(dir+"/ctl", []string{"cancel", "keep", "forget"})
	w.testAliases(id, info)
	if !st.Finished() {
		w.absent(dir + ".tar")
		for _, n := range sealed {
			w.absent(dir + "/" + n)
		}
		w.testBlocks(dir + "/wait")
		w.testBlocks(dir + "/live")
		return
	}
	w.testSealed(id, info)
	w.testTar(id, info)
}

var idForm = regexp.MustCompile("^" + idRE + "$")

func (w *walker) testAliases(id string, info ci.Attrs) {
	own := w.stat("ci/" + id)
	for _, name := range []string{info.Get("commit"), info.Get("commit")[:7], info.Get("tree"), "last"} {
		if name == "-" {
			continue
		}
		full := "ci/" + name
		st := w.stat(full)
		if st.Mode&iofs.ModeSymlink == 0 {
			if !st.IsDir() {
				w.Errorf("%s is neither a link nor a directory", full)
			}
			if !w.lacks.Links {
				w.Errorf("%s is no link", full)
			}
			if st.Path == own.Path && !w.lacks.Paths {
				w.Errorf("%s has the qid.path of the run", full)
			}
		} else if !idForm.MatchString(st.Target) {
			w.Errorf("%s points to %q, want an id", full, st.Target)
		}
		w.read(full + "/status")
	}
	alias := "artifacts/" + id
	if st := w.stat(alias); st.Mode&iofs.ModeSymlink != 0 && st.Target != "../ci/"+id+"/artifacts" {
		w.Errorf("%s points to %q", alias, st.Target)
	}
	if a, b := w.names(alias), w.names("ci/"+id+"/artifacts"); !slices.Equal(a, b) {
		w.Errorf("%s lists %q, want %q", alias, a, b)
	}
}

// testBlocks tests that a file blocks at its end, and that a reader can leave.
func (w *walker) testBlocks(name string) {
	n := w.walk(name)
	st, err := n.Stat(w.Context())
	if err != nil {
		w.Errorf("Stat(%q): %v", name, err)
		return
	}
	f, err := n.Open(w.Context(), fs.OpenRead)
	if w.lacks.Waits && path.Base(name) == "wait" {
		if err == nil {
			f.Close()
			w.Errorf("Open(%q) of a run that goes on is no error", name)
		}
		return
	}
	if err != nil {
		w.Errorf("Open(%q): %v", name, err)
		return
	}
	defer f.Close()
	if w.lacks.Waits {
		if n, err := f.ReadAt(w.Context(), make([]byte, 100), st.Size); n != 0 || err != io.EOF {
			w.Errorf("ReadAt(%q) at the current end = %d, %v, want %v", name, n, err, io.EOF)
		}
		return
	}
	ctx, cancel := context.WithTimeout(w.Context(), 50*time.Millisecond)
	defer cancel()
	if n, err := f.ReadAt(ctx, make([]byte, 100), st.Size); n != 0 || err == nil || err == io.EOF {
		w.Errorf("ReadAt(%q) of a run that goes on = %d, %v: it should block", name, n, err)
	}
}

func (w *walker) testSealed(id string, info ci.Attrs) {
	dir := "ci/" + id
	if a, b := w.read(dir+"/wait"), w.read(dir+"/status"); a != b {
		w.Errorf("wait reads %q, status %q", a, b)
	}
	if got := w.read(dir + "/live"); got != w.said(dir+"/log") {
		w.Errorf("live is not what log says: %q", got)
	}
	// The streams of the test are those of its step's log.
	var stdout, stderr bytes.Buffer
	if err := ci.CopyLog(&stdout, &stderr, strings.NewReader(w.read(dir+"/step/test/log"))); err != nil {
		w.Errorf("step/test/log: %v", err)
	}
	if stdout.String() != w.read(dir+"/stdout") || stderr.String() != w.read(dir+"/stderr") {
		w.Errorf("stdout and stderr are not what step/test/log says")
	}
	for _, name := range []string{"", "/stdout", "/step", "/artifacts", "/live", "/wait", ".tar"} {
		if st := w.stat(dir + name); st.Version == 0 && !w.lacks.Versions {
			w.Errorf("the qid.vers of the sealed %s%s is 0", dir, name)
		}
	}
	if st := w.stat(dir + "/ctl"); st.Version != 0 {
		w.Errorf("the qid.vers of %s/ctl is %d, want 0", dir, st.Version)
	}
	end, err := ci.End(info)
	if err != nil {
		w.Errorf("%v", err)
	}
	if st := w.stat(dir + "/stdout"); !st.ModTime.Equal(end) || st.Mode != 0o444 {
		w.Errorf("stdout has mode %v and time %v, want 0444 and info's end %v", st.Mode, st.ModTime, end)
	}

	var names []string
	lines := w.lines(dir+"/manifest", sumRE)
	if !slices.IsSorted(lines) {
		w.Errorf("the manifest is not sorted: %q", lines)
	}
	for _, l := range lines {
		esc := strings.HasPrefix(l, `\`)
		sum, name, _ := strings.Cut(strings.TrimPrefix(l, `\`), "  ")
		if esc {
			name = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r").Replace(name)
		}
		names = append(names, name)
		if got := fmt.Sprintf("%x", sha256.Sum256([]byte(w.read(dir+"/"+name)))); got != sum {
			w.Errorf("the SHA-256 of %q is %s, the manifest says %s", name, got, sum)
		}
	}
	var files []string
	w.regular(dir, "", &files)
	slices.Sort(names)
	slices.Sort(files)
	if !slices.Equal(names, files) {
		w.Errorf("the manifest names %q, want %q", names, files)
	}
	if text := w.read(dir + "/artifacts.mtree"); !strings.HasPrefix(text, "#mtree\n") {
		w.Errorf("artifacts.mtree does not begin with #mtree")
	}
	w.lines(dir+"/artifacts.mtree", `#mtree|`+mtreeRE)
}

func (w *walker) said(log string) string {
	var b bytes.Buffer
	if err := ci.CopyLog(&b, &b, strings.NewReader(w.read(log))); err != nil {
		w.Errorf("%s: %v", log, err)
	}
	return b.String()
}

// regular collects the regular files below a run, but its ctl, manifest and
// signature.
func (w *walker) regular(dir, prefix string, files *[]string) {
	for _, name := range w.names(dir) {
		if prefix == "" && (name == "ctl" || name == "manifest" || name == "manifest.sig") {
			continue
		}
		switch st := w.stat(dir + "/" + name); {
		case st.Mode&iofs.ModeSymlink != 0:
		case st.IsDir():
			w.regular(dir+"/"+name, prefix+name+"/", files)
		case strings.HasPrefix(prefix, "artifacts/") && !strings.Contains(w.mtree(dir), vis(strings.TrimPrefix(prefix, "artifacts/")+name)+" type=file"):
			// a link, where there are none
		default:
			*files = append(*files, prefix+name)
		}
	}
}

func (w *walker) mtree(dir string) string {
	return w.read(dir[:strings.Index(dir, "/artifacts")] + "/artifacts.mtree")
}

// vis writes a name as artifacts.mtree has it.
func vis(name string) string {
	var b strings.Builder
	for _, c := range []byte("./" + name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`\#=`, c) >= 0 {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// testTar reads the tar of a run in order and at any offset.
func (w *walker) testTar(id string, info ci.Attrs) {
	n := w.walk("ci/" + id + ".tar")
	st, err := n.Stat(w.Context())
	if err != nil {
		w.Fatalf("Stat(%s.tar): %v", id, err)
	}
	f, err := n.Open(w.Context(), fs.OpenRead)
	if err != nil {
		w.Fatalf("Open(%s.tar): %v", id, err)
	}
	defer f.Close()
	data, err := io.ReadAll(fs.NewReader(w.Context(), f))
	if err != nil || int64(len(data)) != st.Size {
		w.Fatalf("%s.tar has %d bytes, %v; its Stat says %d", id, len(data), err, st.Size)
	}
	w.readAt(id+".tar", f, data)
	maker := info.Get("id")
	r := tar.NewReader(bytes.NewReader(data))
	seen := make(map[string]bool)
	for i := 0; ; i++ {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			w.Fatalf("%s.tar: %v", id, err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		if i == 0 && name != maker+"/manifest" || i == 1 && name != maker+"/manifest.sig" && w.signed(id) {
			w.Errorf("entry %d of %s.tar is %q", i, id, name)
		}
		if seen[name] {
			w.Errorf("%q is twice in %s.tar", name, id)
		}
		seen[name] = true
		inner := strings.TrimPrefix(strings.TrimPrefix(name, maker), "/")
		file := w.stat(path.Join("ci", id, inner))
		if h.Uid != 0 || h.Gid != 0 || h.Typeflag != tar.TypeSymlink && h.ModTime.Unix() != file.ModTime.Unix() {
			w.Errorf("%q in %s.tar is of %d, %d, %v; the file is of %v", name, id, h.Uid, h.Gid, h.ModTime, file.ModTime)
		}
		if h.Typeflag != tar.TypeSymlink && h.FileInfo().Mode().Perm() != file.Mode.Perm() {
			w.Errorf("%q in %s.tar has mode %v, the file %v", name, id, h.FileInfo().Mode(), file.Mode)
		}
		if h.Typeflag == tar.TypeReg {
			b, err := io.ReadAll(r)
			if err != nil || string(b) != w.read("ci/"+id+"/"+inner) {
				w.Errorf("%q in %s.tar is not the file's bytes: %v", name, id, err)
			}
		}
	}
	for _, name := range w.names("ci/" + id) {
		if name != "ctl" && !seen[maker+"/"+name] {
			w.Errorf("%s.tar has no %q", id, name)
		}
	}
}

func (w *walker) signed(id string) bool { return slices.Contains(w.names("ci/"+id), "manifest.sig") }
