package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"9ci/fs"
)

// What a page of artifacts has.
const (
	perListing = 300      // names
	maxInline  = 24 << 10 // bytes of text
	inlineRows = 300      // lines of it
	maxImage   = 8 << 20  // bytes of a picture that is shown
	maxName    = 64 * 256 // bytes of a path: 64 names of 255 bytes, as ci(4) has it
)

// rawPolicy is the Content-Security-Policy of an artifact: its maker is not trusted, so it
// runs no script, sends no form, loads nothing, and is of no origin, as which the browser
// would show it our cookies.
const rawPolicy = "sandbox; default-src 'none'; frame-ancestors 'none'"

// pictures are the kinds of artifacts that a browser may show, by the end of their name.
// SVG is none: it is a document, with script.
var pictures = map[string]string{".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp"}

// An artifact is one as a page shows it.
type artifact struct {
	Name   string // below artifacts
	Stat   fs.Stat
	Target string // of a symbolic link, as it may be shown
}

func (a artifact) Base() string { return visible(path.Base(a.Name)) }
func (a artifact) IsDir() bool  { return a.Stat.IsDir() }

// An artifactsView is a page of artifacts: a directory, or a file.
type artifactsView struct {
	Place   place
	Name    string // "" for all artifacts
	Entries []artifact
	More    uint64 // cookie behind the entries; 0 at the end
	File    *artifact
	Picture bool
	Rows    []row // the beginning of a file of text
	Cut     bool  // the file is longer
}

// At returns the URL of the page of a name.
func (x artifactsView) At(name string) string { return named(x.Place.URL("artifacts"), name) }

// Raw returns the URL of the file itself.
func (x artifactsView) Raw(name string) string { return named(x.Place.URL("raw"), name) }

// Download returns the URL by which the browser keeps the file.
func (x artifactsView) Download(name string) string { return x.Raw(name) + "&download=1" }

// On returns the URL of the entries behind these.
func (x artifactsView) On() string {
	return x.Place.URL("artifacts") + "?" + url.Values{"name": {x.Name}, "after": {strconv.FormatUint(x.More, 10)}}.Encode()
}

func named(at, name string) string { return at + "?" + url.Values{"name": {name}}.Encode() }

// crumbRoom is how many bytes of HTML the directories above a name have.
const crumbRoom = 4 << 10

// Crumbs returns the directories on the way to the name, the nearest ones if a page has no
// room for all.
func (x artifactsView) Crumbs() (all []artifact) {
	room := crumbRoom
	for i := strings.LastIndexByte(x.Name, '/'); i > 0; i = strings.LastIndexByte(x.Name[:i], '/') {
		a := artifact{Name: x.Name[:i]}
		if room -= len(x.At(a.Name)) + htmlSize(a.Base()) + 20; room < 0 {
			break
		}
		all = append(all, a)
	}
	slices.Reverse(all)
	return all
}

// artifactName returns the name of the query. It is one that a tree could have.
func (v *visit) artifactName() (string, error) {
	name := v.r.URL.Query().Get("name")
	if name == "" {
		return "", nil
	}
	if len(name) > maxName || !iofs.ValidPath(name) || name == "." {
		return "", errNoPage
	}
	for n := range strings.SplitSeq(name, "/") {
		if fs.CheckPlain(n) != nil {
			return "", errNoPage
		}
	}
	return name, nil
}

// artifact returns the artifact that a visit names. A symbolic link is not followed: where
// it leads is shown.
func (r *reading) artifact() (place, string, fs.Node, fs.Stat, error) {
	at, err := r.place()
	if err != nil {
		return at, "", nil, fs.Stat{}, err
	}
	name, err := r.artifactName()
	if err != nil {
		return at, "", nil, fs.Stat{}, err
	}
	n, err := r.node(at.Path() + "/artifacts")
	for part := range strings.SplitSeq(name, "/") {
		if err != nil || part == "" {
			break
		}
		d, ok := n.(fs.Dir)
		if !ok {
			err = iofs.ErrNotExist
			break
		}
		n, err = d.Walk(r.ctx, part)
	}
	if err != nil {
		return at, "", nil, fs.Stat{}, err
	}
	st, err := n.Stat(r.ctx)
	return at, name, n, st, err
}

// artifacts shows a directory of artifacts, or one of them.
func (p *Page) artifacts(r *reading) error {
	at, name, n, st, err := r.artifact()
	if name == "" && errors.Is(err, iofs.ErrNotExist) {
		if _, err := r.status(at.Path()); err != nil {
			return err
		}
		return r.render(http.StatusOK, "artifacts", "Artifacts", artifactsView{Place: at})
	}
	if err != nil {
		return err
	}
	x := artifactsView{Place: at, Name: name}
	title := "Artifacts"
	if name != "" {
		title = visible(path.Base(name))
	}
	if d, ok := n.(fs.Dir); ok && (st.Mode&iofs.ModeSymlink == 0 || name == "") {
		after, _ := strconv.ParseUint(r.r.URL.Query().Get("after"), 10, 64)
		all, err := d.ReadDir(r.ctx, after, perListing)
		if err != nil {
			return err
		}
		room := pageRoom
		each := len(x.At("")) + 80 // bytes of HTML of an entry besides its names
		for _, st := range all[:min(len(all), perListing)] {
			if fs.CheckPlain(st.Name) == nil {
				x.Entries = append(x.Entries, artifact{path.Join(name, st.Name), st, visible(clip(st.Target))})
			}
			if room -= each + 3*len(name) + 3*len(st.Name) + htmlSize(st.Name) + htmlSize(clip(st.Target)); room < 0 {
				x.More = st.Cookie
				break
			}
		}
		if len(all) > 0 && x.More == 0 {
			if rest, err := d.ReadDir(r.ctx, all[len(all)-1].Cookie, 1); err == nil && len(rest) > 0 {
				x.More = all[len(all)-1].Cookie
			}
		}
		return r.render(http.StatusOK, "artifacts", title, x)
	}
	x.File = &artifact{name, st, visible(clip(st.Target))}
	if st.Mode.IsRegular() {
		if err := r.preview(n, &x); err != nil {
			return err
		}
	}
	return r.render(http.StatusOK, "artifacts", title, x)
}

// preview adds what is shown of a file: a picture, or the beginning of a text.
func (r *reading) preview(n fs.Node, x *artifactsView) error {
	head, err := readHead(r.ctx, n, maxInline)
	if err != nil {
		return err
	}
	if isPicture(x.Name, head) {
		x.Picture = x.File.Stat.Size <= maxImage
		return nil
	}
	x.Cut = int64(len(head)) < x.File.Stat.Size
	if bytes.IndexByte(head, 0) >= 0 || !utf8.Valid(head[:max(0, len(head)-utf8.UTFMax)]) {
		return nil
	}
	room := pageRoom
	for line := range bytes.Lines(head) {
		if len(x.Rows) == inlineRows || room < 0 {
			x.Cut = true
			break
		}
		x.Rows = append(x.Rows, row{Line: len(x.Rows) + 1, Text: spans(string(bytes.TrimSuffix(line, []byte("\n"))))})
		room -= x.Rows[len(x.Rows)-1].size()
	}
	return nil
}

// readHead reads the beginning of a file.
func readHead(ctx context.Context, n fs.Node, max int64) ([]byte, error) {
	f, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(fs.NewReader(ctx, f), max))
}

// isPicture reports whether a file is the picture that its name says.
func isPicture(name string, head []byte) bool {
	kind := pictures[strings.ToLower(path.Ext(name))]
	return kind != "" && http.DetectContentType(head[:min(len(head), 512)]) == kind
}

// raw sends an artifact itself. A browser keeps it as a file, unless it is a picture; it
// guesses no other kind.
func (p *Page) raw(r *reading) error {
	_, name, n, st, err := r.artifact()
	if err != nil {
		return err
	}
	if name == "" || !st.Mode.IsRegular() {
		return errNoPage
	}
	head, err := readHead(r.ctx, n, 512)
	if err != nil {
		return err
	}
	give, err := r.take(&p.limits.raw)
	if err != nil {
		return err
	}
	defer give()
	f, err := n.Open(r.r.Context(), fs.OpenRead) // for as long as the browser reads
	if err != nil {
		return err
	}
	defer f.Close()
	h := r.w.Header()
	kind, inline := "application/octet-stream", "attachment"
	if isPicture(name, head) && !r.r.URL.Query().Has("download") {
		kind, inline = pictures[strings.ToLower(path.Ext(name))], "inline"
	}
	h.Set("Content-Type", kind)
	h.Set("Content-Disposition", disposition(inline, path.Base(name)))
	h.Set("Content-Security-Policy", rawPolicy)
	http.ServeContent(patient{r.w, http.NewResponseController(r.w)}, r.r, "", st.ModTime, &seeker{ctx: r.r.Context(), f: f, size: st.Size})
	return nil
}

// disposition returns the header Content-Disposition of RFC 6266.
func disposition(kind, name string) string {
	if s := mime.FormatMediaType(kind, map[string]string{"filename": name}); s != "" {
		return s
	}
	return kind
}

// A seeker reads a file as http.ServeContent does.
type seeker struct {
	ctx  context.Context
	f    fs.File
	size int64
	off  int64
}

func (s *seeker) Read(p []byte) (int, error) {
	n, err := s.f.ReadAt(s.ctx, p, s.off)
	s.off += int64(n)
	return n, err
}

func (s *seeker) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += s.off
	case io.SeekEnd:
		off += s.size
	}
	if off < 0 {
		return 0, fmt.Errorf("seek to %d", off)
	}
	s.off = off
	return off, nil
}

// writeTime is how long a browser may take for each piece of a long answer.
const writeTime = 30 * time.Second

// A patient writer lets an answer go on for as long as the browser takes it.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (w patient) Write(b []byte) (int, error) {
	w.control.SetWriteDeadline(time.Now().Add(writeTime)) // a test's recorder has none
	return w.ResponseWriter.Write(b)
}
