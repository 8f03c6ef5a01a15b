package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/fs/ci"
)

// What the page of a run has of the log of a step.
const (
	tailRows = 120      // of the step that matters
	tailRoom = 22 << 10 // bytes of HTML of these
	keyRoom  = 5 << 10  // bytes of HTML of the key
)

// A stepView is a step of a run.
type stepView struct {
	Name   string
	Status ci.Status
	Open   bool
	Rows   []row // the end of its log, if it is open
	Next   pos   // behind these
}

// First returns the line that the rows begin with.
func (s stepView) First() int {
	if len(s.Rows) == 0 {
		return 1
	}
	return s.Rows[0].Line
}

// A runView is the page of a run.
type runView struct {
	Place        place
	Status       ci.Status
	Info         ci.Attrs
	Key          ci.Attrs
	MoreKey      bool // Key is not all
	Steps        []stepView
	Tests        *testsView // nil: none are known
	Services     []serviceView
	MoreServices bool
	Manifest     int    // lines; 0: the run is not sealed
	Score        string // SHA-256 of the manifest
	Signer       string // the key of manifest.sig, whose signature nobody has checked; "": no key has signed the run
	SSH          sshServer
	At           string // of the live log, if the run goes on
}

// Commands returns the commands that check the run with no tool of ours. The tar of a run
// unpacks to a directory of its maker's id.
func (x runView) Commands() string {
	id := x.Info.Get("id")
	if !ci.IsID(id) {
		id = x.Place.ID
	}
	return x.SSH.command("ssh") + " " + x.SSH.host + " cat " + shellWord(x.Place.Path()+".tar") + " | tar -xp\n" +
		"cd " + id + "\n" +
		"sha256sum -c manifest\n" +
		"sha256sum manifest   # " + x.Score + "\n" +
		"ssh-keygen -Y find-principals -f ~/.config/9ci/allowed_signers -s manifest.sig\n" +
		"ssh-keygen -Y verify -n run@9ci -f ~/.config/9ci/allowed_signers -I PRINCIPAL -s manifest.sig <manifest"
}

// Mount returns the command that mounts the run with no tool of ours.
func (x runView) Mount() string {
	host := x.SSH.host
	if strings.Contains(host, ":") { // an IPv6 address
		host = "[" + host + "]"
	}
	return x.SSH.command("sshfs") + " " + shellWord(host+":/"+x.Place.Path()) + " DIR"
}

// An sshServer is where the orchestrator is reached by ssh.
type sshServer struct {
	host string
	port int
}

// command returns a program, ssh or sshfs, with the option that says the port.
func (s sshServer) command(program string) string {
	if s.port != 22 {
		program += fmt.Sprintf(" -p %d", s.port)
	}
	return program
}

// shellWord quotes a word for sh(1). No path of a run has a quote that the orchestrator would
// read too.
func shellWord(s string) string {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("/._-+:%@=", c)
	}
	if s != "" && !strings.ContainsFunc(s, func(c rune) bool { return !plain(c) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// run shows a run.
func (p *Page) run(r *reading) error {
	at, err := r.place()
	if err != nil {
		return err
	}
	x := runView{Place: at, SSH: p.ssh}
	if x.Status, err = r.status(at.Path()); err != nil {
		return err
	}
	for name, to := range map[string]*ci.Attrs{"info": &x.Info, "key": &x.Key} {
		if *to, err = r.attrs(at.Path() + "/" + name); err != nil {
			return err
		}
	}
	x.Info, _ = fit(x.Info, keyRoom)
	x.Key, x.MoreKey = fit(x.Key, keyRoom)
	if err := r.sealed(at, &x); err != nil {
		return err
	}
	for _, name := range ci.Steps {
		s := stepView{Name: name}
		if s.Status, err = r.status(at.Path() + "/step/" + name); errors.Is(err, iofs.ErrNotExist) {
			s.Status = ci.Status{State: "queued", Code: -1, Took: -1}
		} else if err != nil {
			return err
		}
		x.Steps = append(x.Steps, s)
	}
	if x.Tests, err = r.failed(at); err != nil {
		return err
	}
	if x.Services, x.MoreServices, err = r.services(at); err != nil {
		return err
	}
	open := x.matters()
	x.Steps[open].Open = true
	if err := r.tail(at, open, &x.Steps[open]); err != nil {
		return err
	}
	if !x.Status.Finished() {
		x.At = x.Steps[open].Next.String()
	}
	r.reads = true
	return r.render(http.StatusOK, "run", "Run "+at.ID, x)
}

// matters returns the step whose log is shown: the one that goes on, the one that failed,
// or the test.
func (x *runView) matters() int {
	for _, states := range [][]string{{"running"}, {"failed", "error", "cancelled"}} {
		if i := slices.IndexFunc(x.Steps, func(s stepView) bool { return slices.Contains(states, s.Status.State) }); i >= 0 {
			return i
		}
	}
	if !x.Status.Finished() {
		return max(0, slices.IndexFunc(x.Steps, func(s stepView) bool { return s.Status.State == "queued" }))
	}
	return ci.TestStep
}

// maxState is how many bytes of a state are shown: an executor may say what it likes.
const maxState = 30

// status reads the status file of a run or a step.
func (r *reading) status(dir string) (ci.Status, error) {
	text, err := r.text(dir+"/status", maxText)
	if err != nil {
		return ci.Status{}, err
	}
	s, err := ci.ParseStatus(string(text))
	if len(s.State) > maxState {
		s.State = s.State[:maxState]
	}
	s.State = visible(s.State)
	return s, err
}

// attrs reads a file of attr=value lines. A file that is not there has none.
func (r *reading) attrs(path string) (ci.Attrs, error) {
	text, err := r.text(path, maxText)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return ci.ParseAttrs(text)
}

// fit returns the first attributes that a page has room for, as they may be shown.
func fit(all ci.Attrs, room int) (some ci.Attrs, more bool) {
	for _, a := range all {
		a = ci.Attr{Name: visible(clip(a.Name)), Value: visible(clip(a.Value))}
		if room -= htmlSize(a.Name) + htmlSize(a.Value) + 40; room < 0 {
			return some, true
		}
		some = append(some, a)
	}
	return some, false
}

// A lineCount counts the newlines that are written to it.
type lineCount int

func (n *lineCount) Write(p []byte) (int, error) {
	*n += lineCount(bytes.Count(p, []byte("\n")))
	return len(p), nil
}

// sealed adds what a sealed run has.
func (r *reading) sealed(at place, x *runView) error {
	n, err := r.node(at.Path() + "/manifest")
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := n.Open(r.ctx, fs.OpenRead)
	if err != nil {
		return err
	}
	defer f.Close()
	score, lines := sha256.New(), lineCount(0)
	size, err := io.Copy(io.MultiWriter(score, &lines), io.LimitReader(fs.NewReader(r.ctx, f), maxManifest+1))
	if err == nil && size > maxManifest {
		err = fmt.Errorf("manifest: %w: over %d bytes", errTooLong, maxManifest)
	}
	if err != nil {
		return err
	}
	x.Score, x.Manifest = hex.EncodeToString(score.Sum(nil)), int(lines)
	text, err := r.text(at.Path()+"/manifest.sig", maxText)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if sig, err := sshsig.Unarmor(text); err == nil {
		x.Signer = ssh.FingerprintSHA256(sig.PublicKey)
	}
	return nil
}

// tail adds the last rows of the log of a step.
func (r *reading) tail(at place, step int, s *stepView) error {
	s.Next = pos{step, 1, 0}
	path, _ := stepLog(at, s.Name)
	l, err := r.openLog(path)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Close()
	n, err := l.lines(r.ctx)
	if err != nil && !errors.Is(err, errFar) {
		return err
	}
	each := len(at.URL("log", s.Name)) + 30                     // bytes of HTML, for the link of a row
	for most := min(tailRows, tailRoom/2/each+1); ; most /= 2 { // the last rows count: fewer of them, if they are long
		lr, line, err := l.seek(r.ctx, max(1, n-most+1))
		if err != nil {
			return err
		}
		rows, next, err := l.rows(lr, line, most, tailRoom-most*each)
		if err != nil {
			return err
		}
		if s.Rows, s.Next = rows, (pos{step, next, lr.off}); next > n || most <= 1 {
			return nil
		}
	}
}

// String returns a pos as parsePos reads it.
func (p pos) String() string {
	return strconv.Itoa(p.Step) + "." + strconv.Itoa(p.Line) + "." + strconv.FormatInt(p.Off, 10)
}

// parsePos reads a pos that a browser sends. What is no pos is the beginning.
func parsePos(s string) pos {
	f := strings.Split(s, ".")
	if len(f) == 3 {
		step, err1 := strconv.Atoi(f[0])
		line, err2 := strconv.Atoi(f[1])
		off, err3 := strconv.ParseInt(f[2], 10, 64)
		if err1 == nil && err2 == nil && err3 == nil && step >= 0 && step <= len(ci.Steps) && line >= 1 && off >= 0 && line <= 1<<40 {
			return pos{step, line, off}
		}
	}
	return pos{0, 1, 0}
}
