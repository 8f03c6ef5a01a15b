package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/client"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// A testForge is accounts at github.com, of which all may do the same.
type testForge struct {
	mu      sync.Mutex // guards what follows
	invited []access.Pattern
	out     error                    // of accounts
	gone    bool                     // from the orchestrator's file
	may     map[string]access.Rights // by namespace
	err     error                    // of all questions
	ended   error                    // of renewals
	asked   []string                 // of which namespaces
	held    chan struct{}            // questions are answered when it is closed; nil: at once
}

func (f *testForge) set(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *testForge) Grant(string) (access.Grant, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return access.Grant{Namespaces: f.invited}, f.out
}

func (f *testForge) Host(principal string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.HasPrefix(principal, "github:") && !f.gone {
		return "github.com"
	}
	return ""
}

func (f *testForge) LoggedOut(string) {}

func (f *testForge) Renew(string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended
}

func (f *testForge) Learn(ctx context.Context, _, ns string, since time.Time) (access.Rights, error) {
	f.mu.Lock()
	f.asked = append(f.asked, ns)
	held := f.held
	f.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return access.Rights{}, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.may[ns]
	switch {
	case f.err != nil:
		return access.Rights{}, f.err
	case !ok && strings.HasPrefix(ns, private):
		return access.Rights{}, &access.AbsentError{Words: "install the app"}
	case !ok:
		return access.Rights{}, iofs.ErrNotExist
	}
	r.Asked = time.Now()
	return r, nil
}

// questions returns what has been asked since the last call.
func (f *testForge) questions() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.asked
	f.asked = nil
	return all
}

const (
	secret = "github.com/bob/secret"
	open   = "github.com/carol/open" // read

	private = "github.com/private/" // where the forge says what the person can do
)

func newTestForge() *testForge {
	return &testForge{may: map[string]access.Rights{hello: {Read: true, Publish: true}, open: {Read: true}}}
}

// A peopleMux is a mux in a bubble at which people log in.
type peopleMux struct {
	*bubbleMux
	forge *testForge
	book  *logbook
}

func withPeople(t *testing.T, f func(t *testing.T, m *peopleMux)) {
	forge := newTestForge()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := &peopleMux{&bubbleMux{testMux: &testMux{t: t, dir: filepath.Join(dir, "state"), home: dir}, l: newMemListener()}, forge, newLogbook(t)}
		m.start(m.l, Options{People: forge, Log: m.book.logger()})
		f(t, m)
		time.Sleep(access.LearnTime) // for questions that nobody waits for
	})
}

// ends fails the test unless a connection ends within a time.
func (m *peopleMux) ends(what string, l testLink, within time.Duration) {
	m.t.Helper()
	select {
	case <-l.Done():
	case <-time.After(within):
		m.t.Fatalf("%s: it has not ended within %v", what, within)
	}
}

// person connects as a person, with a certificate for a new key.
func (m *peopleMux) person(principal string) testLink {
	m.t.Helper()
	key := newSigner(m.t)
	cert, err := m.s.own.Person(principal, key.PublicKey())
	if err != nil {
		m.t.Fatal(err)
	}
	l, _ := m.loginAs(withCert(m.t, cert, key), key)
	return l
}

// exports exports a tree with a run in each of the namespaces, as executors of the
// operator's.
func (m *peopleMux) exports(name string, namespaces ...string) {
	m.t.Helper()
	for _, ns := range namespaces {
		k, _ := m.key("", name)
		l, _ := m.login(k)
		tree := newTestTree()
		tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
		if err := m.exportOn(l, wire.Announce{Name: name, Namespaces: []string{ns}}, tree.root()); err != nil {
			m.t.Fatal(err)
		}
	}
	synctest.Wait() // its index is read
}

// exec runs a command over a connection.
func (m *peopleMux) exec(l testLink, command string) (stdout, stderr string, status int) {
	m.t.Helper()
	ch, reqs, err := l.ssh.OpenChannel("session", nil)
	if err != nil {
		return "", err.Error(), -1
	}
	defer ch.Close()
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(&struct{ Command string }{command})); !ok || err != nil {
		m.t.Fatalf("exec %s: %v", command, err)
	}
	var errs []byte
	read := make(chan struct{})
	go func() {
		defer close(read)
		errs, _ = io.ReadAll(ch.Stderr())
	}()
	status = -1
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		for r := range reqs {
			var msg struct{ Status uint32 }
			if r.Type == "exit-status" && ssh.Unmarshal(r.Payload, &msg) == nil {
				status = int(msg.Status)
			}
		}
	}()
	out, _ := io.ReadAll(ch)
	<-read
	ch.Close()
	<-exited
	return string(out), string(errs), status
}

// attach attaches a namespace over a connection.
func (m *peopleMux) attach(l testLink, aname string) error {
	m.t.Helper()
	rwc, err := l.Import(m.t.Context())
	if err != nil {
		return err
	}
	// In 9P2000 an error has words.
	cl, err := ninep.Import(m.t.Context(), rwc, ninep.ImportOptions{Aname: aname, Dialect: ninep.Plan9})
	if err == nil {
		cl.Close()
	}
	return err
}

// A person sees what the forge says, through every door, and of the rest no more than if
// it were not there.
func TestPersonSees(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		m.exports("box", hello, secret, open)
		const absent = "github.com/bob/absent"
		l := m.person("github:1")
		for _, test := range []struct{ door, want string }{
			{"cat %s/ci/last/stdout", "ok 3f2a9c1d0b7e.1\n"},
			{"cat namespace=%s ci/last/stdout", "ok 3f2a9c1d0b7e.1\n"},
			{"ls -1 %s/n", "box\n"},
			{"find %s/n -maxdepth 1", "/n/box\n"},
			{"tail -n 1 %s/ci/last/stdout", "ok 3f2a9c1d0b7e.1\n"},
			{"stat %s/ci/last", "ci/last -> ../n/box/ci/3f2a9c1d0b7e.1\n"},
			{"wait %s/ci/last", "passed 0 41.250"},
			{"wait namespace=%s last", "passed 0 41.250"},
			{"cat %s/status", "executors=1\n"},
		} {
			for _, ns := range []string{hello, open} {
				if out, errs, status := m.exec(l, fmt.Sprintf(test.door, ns)); status != 0 || !strings.Contains(out, test.want) {
					t.Errorf("%s of %s: %d %q %q, want %q", test.door, ns, status, out, errs, test.want)
				}
			}
			_, want, _ := m.exec(l, fmt.Sprintf(test.door, absent))
			out, errs, status := m.exec(l, fmt.Sprintf(test.door, secret))
			if out != "" || status != 1 || strings.ReplaceAll(errs, "secret", "absent") != want || !strings.Contains(errs, "file not found") {
				t.Errorf("%s of what is forbidden: %d %q %q, want %q", test.door, status, out, errs, want)
			}
		}
		for ns, want := range map[string]error{hello: nil, open: nil, secret: iofs.ErrNotExist, absent: iofs.ErrNotExist, "local/x": iofs.ErrNotExist, "gitlab.com/a/b": iofs.ErrNotExist} {
			if err := m.attach(l, ns); !errors.Is(err, want) {
				t.Errorf("attach of %s: %v, want %v", ns, err, want)
			}
			_, release, err := l.Find(t.Context(), wire.FindMsg{Namespace: ns, Question: "commit=" + testCommit})
			if !errors.Is(err, want) {
				t.Errorf("find in %s: %v, want %v", ns, err, want)
			}
			if err == nil {
				release()
			}
			ch, err := l.Reach(t.Context(), wire.ChannelDoor, wire.ReachMsg{Namespace: ns, Name: "box"})
			if (err == nil) != (want == nil) {
				t.Errorf("the door of %s: %v, want %v", ns, err, want)
			}
			if err == nil {
				ch.Close()
			}
		}
		// By way of the root, a name at a time.
		root := m.treeOn(l, "")
		if got := read(t, root, hello+"/n/box/ci/3f2a9c1d0b7e.1/stdout"); got != "ok 3f2a9c1d0b7e.1\n" {
			t.Errorf("through the root: %q", got)
		}
		if _, err := fs.Walk(t.Context(), root, secret+"/n"); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("through the root to what is forbidden: %v", err)
		}
		for dir, want := range map[string]string{"/": "github.com status", "github.com": "alice carol", "github.com/bob": "", "github.com/alice": "hello", "github.com/nobody": ""} {
			out, errs, status := m.exec(l, "ls -1 "+dir)
			if got := strings.Fields(out); status != 0 || !slices.Equal(slices.Sorted(slices.Values(got)), strings.Fields(want)) {
				t.Errorf("ls %s: %d %q %q, want %q", dir, status, out, errs, want)
			}
		}
		out, _, _ := m.exec(l, "cat status")
		if !strings.HasSuffix(out, "namespaces=2\nexecutors=2\nnamespace="+hello+"\nnamespace="+open+"\n") {
			t.Errorf("status: %q", out)
		}
		out, _, _ = m.exec(l, "whoami")
		for _, want := range []string{"key=github:1@SHA256:", "\nprincipal=github:1\nserial=", "\nrights='read publish'\nnamespaces='" + hello + " " + open + "'\npublish=" + hello + "\nforge=github.com\nexpires="} {
			if !strings.Contains(out, want) {
				t.Errorf("whoami has no %q: %q", want, out)
			}
		}
		if out, _, _ := m.exec(m.person("passkey:1"), "whoami"); !strings.Contains(out, "\nrights=''\nnamespaces=''\npublish=''\nforge=-\n") {
			t.Errorf("whoami of a passkey: %q", out)
		}
		// What the person can do is told, whether or not there is anything.
		m.exports("box", private+"there")
		for _, ns := range []string{private + "there", private + "not"} {
			for command, want := range map[string]string{
				"cat %s/status": "cat: %s/status: file not found: install the app\n", "cat namespace=%s ci/last/stdout": "cat: ci/last/stdout: file not found: install the app\n",
				"ls %s": "ls: %s: file not found: install the app\n", "wait namespace=%s last": "wait: last: file not found: install the app\n",
			} {
				if _, errs, status := m.exec(l, strings.ReplaceAll(command, "%s", ns)); status != 1 || errs != strings.ReplaceAll(want, "%s", ns) {
					t.Errorf("%s of %s: %d %q", command, ns, status, errs)
				}
			}
			if err := m.exportOn(l, wire.Announce{Name: "mine", Namespaces: []string{ns}}, newTestTree().root()); err == nil || !strings.HasSuffix(err.Error(), ns+": install the app") {
				t.Errorf("export to %s: %v", ns, err)
			}
		}
		m.book.await("msg=refuse", "what=namespace", "namespace="+secret, "principal=github:1@", "this key may not read it")
	})
}

// The only namespace that a person may read is home.
func TestPersonHome(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		m.exports("box", hello, secret)
		for _, command := range []string{"cat ci/last/stdout", "cat n/box/ci/3f2a9c1d0b7e.1/stdout", "wait last"} {
			if out, errs, status := m.exec(m.person("github:1"), command); status != 0 {
				t.Errorf("%s: %d %q %q", command, status, out, errs)
			}
			time.Sleep(time.Hour) // nothing is known then
		}
		m.exports("cot", open)
		if _, errs, status := m.exec(m.person("github:1"), "cat ci/last/stdout"); status != 1 || !strings.Contains(errs, "in which namespace?") {
			t.Errorf("with two: %d %q", status, errs)
		}
	})
}

// Of many namespaces a listing asks about a hundred, few at once, and a walk to any other
// finds it.
func TestPersonMany(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		var all []string
		for i := range 300 {
			all = append(all, fmt.Sprintf("github.com/many/r%03d", i))
		}
		m.forge.set(func() {
			for _, ns := range all {
				m.forge.may[ns] = access.Rights{Read: true}
			}
		})
		m.exports("box", all[299], secret)
		k, _ := m.key("", "many")
		executor, _ := m.login(k)
		if err := m.exportOn(executor, wire.Announce{Name: "many", Namespaces: all[:299]}, newTestTree().root()); err != nil {
			t.Fatal(err)
		}
		l := m.person("github:1")
		if out, errs, status := m.exec(l, "ls -1 github.com/many"); status != 0 || strings.Count(out, "\n") != maxListed {
			t.Errorf("ls: %d %q, %d lines", status, errs, strings.Count(out, "\n"))
		}
		if got := m.forge.questions(); len(got) != maxListed {
			t.Errorf("ls asks %d questions, want %d", len(got), maxListed)
		}
		// The next one learns of the next hundred.
		if out, _, _ := m.exec(l, "ls -1 github.com/many"); strings.Count(out, "\n") != 2*maxListed {
			t.Errorf("the second ls has %d lines, want %d", strings.Count(out, "\n"), 2*maxListed)
		}
		m.forge.questions()
		if out, errs, _ := m.exec(m.person("github:2"), "cat github.com/many/r299/ci/last/stdout"); out != "ok 3f2a9c1d0b7e.1\n" {
			t.Errorf("cat: %q %q", out, errs)
		}
		if got := m.forge.questions(); !slices.Equal(got, []string{"github.com/many/r299"}) {
			t.Errorf("a walk asks %q", got)
		}
	})
}

// What a person has open ends within five minutes of losing it at the forge: mounts, reads
// that wait, exports. The client is told, and what is left is there when it comes back.
func TestPersonLoses(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		m.exports("box", hello, open)
		lose := func(what string, keeps testLink, gone func()) {
			t.Helper()
			time.Sleep(10 * time.Minute) // it stays as long as it may
			select {
			case <-keeps.Done():
				t.Fatalf("%s: it ends while it may", what)
			default:
			}
			m.forge.set(gone)
			m.ends(what, keeps, 5*time.Minute)
			m.forge.set(func() { m.forge.may[hello] = access.Rights{Read: true, Publish: true} })
			time.Sleep(time.Minute) // until it is asked again
		}
		noRead := func() { delete(m.forge.may, hello) }

		l := m.person("github:1")
		m.treeOn(l, hello)
		lose("an attached tree", l, noRead)

		l = m.person("github:1")
		ev := watchEvents(t, m.treeOn(l, hello))
		ev.await("/n/box")
		lose("a read that waits", l, noRead)

		l = m.person("github:1")
		waited := make(chan string, 1)
		go func() {
			_, errs, _ := m.exec(l, "wait namespace="+hello+" 7777777777")
			waited <- errs
		}()
		lose("a command that waits", l, noRead)
		if errs := <-waited; !strings.Contains(errs, "9ci: "+errChanged.Error()) {
			t.Errorf("stock ssh is told %q", errs)
		}

		l = m.person("github:1")
		if err := m.exportOn(l, wire.Announce{Name: "mine", Namespaces: []string{hello}}, newTestTree().root()); err != nil {
			t.Fatal(err)
		}
		lose("an export", l, func() { m.forge.may[hello] = access.Rights{Read: true} })
		m.book.await("msg=refuse", "what=login", errChanged.Error())
		m.book.await("msg=leave", "executor=mine")

		// What was only looked at does not end the rest.
		l = m.person("github:1")
		m.exec(l, "cat "+hello+"/status")
		m.treeOn(l, open)
		time.Sleep(10 * time.Minute)
		m.forge.set(noRead)
		time.Sleep(10 * time.Minute)
		if _, errs, status := m.exec(l, "cat "+open+"/status"); status != 0 {
			t.Errorf("what is left: %d %q", status, errs)
		}
		if _, errs, _ := m.exec(l, "cat "+hello+"/status"); !strings.Contains(errs, "file not found") {
			t.Errorf("what is lost: %q", errs)
		}
	})
}

// An edit of the account's file, or of the file of forges, ends what is open within a
// second. A file that cannot be read for a moment ends nothing.
func TestPersonEdited(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		m.exports("box", hello)
		for what, edit := range map[string]func(){
			"the account is gone": func() { m.forge.out = access.ErrNoAccount },
			"an invitation less":  func() { m.forge.invited = nil },
			"the forge is gone":   func() { m.forge.gone = true },
		} {
			m.forge.set(func() { m.forge.invited, m.forge.out, m.forge.gone = []access.Pattern{secret}, nil, false })
			l := m.person("github:1")
			m.treeOn(l, hello)
			time.Sleep(2 * watchEvery) // authorized_keys has changed: all is looked at
			m.forge.set(func() { m.forge.out = errors.New("too many open files") })
			time.Sleep(3 * watchEvery)
			m.forge.set(func() { m.forge.out = nil })
			select {
			case <-l.Done():
				t.Fatalf("%s: it ended before", what)
			default:
			}
			m.forge.set(edit)
			m.ends(what, l, time.Second)
		}
	})
}

// While the forge is down, what is known serves for five minutes; then nothing says that
// the file is not there, and the log says why.
func TestPersonForgeDown(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		m.exports("box", hello)
		l := m.person("github:1")
		m.treeOn(l, hello)
		other := m.person("github:1")
		m.forge.set(func() { m.forge.err = errors.New("dial tcp 192.0.2.1:443: connection refused") })
		time.Sleep(4*time.Minute + 30*time.Second)
		if out, errs, _ := m.exec(other, "cat "+hello+"/ci/last/stdout"); out != "ok 3f2a9c1d0b7e.1\n" {
			t.Errorf("while it is known: %q %q", out, errs)
		}
		m.ends("a tree of a forge that is down", l, time.Minute)
		const words = "github.com does not say at present what this account may do"
		for _, command := range []string{"cat %s/ci/last/stdout", "cat namespace=%s ci/last/stdout", "ls %s", "wait %s/ci/last", "wait namespace=%s last", "wait last", "find %s/n", "cat ci/last/stdout"} {
			if strings.Contains(command, "%") {
				command = fmt.Sprintf(command, hello)
			}
			if out, errs, status := m.exec(m.person("github:1"), command); out != "" || status != 75 || !strings.Contains(errs, words) || strings.Contains(errs, "192.0.2.1") {
				t.Errorf("%s: %d %q %q", command, status, out, errs)
			}
		}
		other = m.person("github:1")
		if err := m.attach(other, hello); !errors.Is(err, fs.ErrBusy) || !strings.Contains(err.Error(), words) {
			t.Errorf("attach: %v", err)
		}
		if _, err := fs.Walk(t.Context(), m.treeOn(other, ""), hello); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("walk: %v", err)
		}
		if _, _, err := other.Find(t.Context(), wire.FindMsg{Namespace: hello, Question: "commit=" + testCommit}); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("find: %v", err)
		}
		if _, err := other.Told(t.Context(), wire.ToldMsg{Namespace: hello, Commit: testCommit}); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("told: %v", err)
		}
		if _, err := other.Reach(t.Context(), wire.ChannelDoor, wire.ReachMsg{Namespace: hello, Name: "box"}); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("door: %v", err)
		}
		if err := m.exportOn(other, wire.Announce{Name: "mine", Namespaces: []string{hello}}, newTestTree().root()); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("export: %v", err)
		}
		m.book.await("msg=refuse", "what=namespace", "namespace="+hello, "192.0.2.1:443: connection refused")
		if out, _, status := m.exec(other, "ls -1 /"); status != 0 || out != "status\n" {
			t.Errorf("ls: %d %q", status, out)
		}
		if out, _, status := m.exec(other, "whoami"); status != 0 || !strings.Contains(out, "unknown='"+words) {
			t.Errorf("whoami: %d %q", status, out)
		}
		// The person has to do something: it is no use to try again.
		m.forge.set(func() {
			m.forge.err = &access.RefusedError{Words: "log in by github.com again", Err: errors.New("invalid_grant")}
		})
		time.Sleep(time.Minute)
		if _, errs, status := m.exec(other, "cat "+hello+"/status"); status != 1 || !strings.Contains(errs, "log in by github.com again") {
			t.Errorf("a forge that wants the person: %d %q", status, errs)
		}
		var refused *ssh.OpenChannelError
		if _, _, err := other.Find(t.Context(), wire.FindMsg{Namespace: hello, Question: "commit=" + testCommit}); !errors.As(err, &refused) || refused.Message != "log in by github.com again" {
			t.Errorf("find: %v", err)
		}
		if _, err := other.Told(t.Context(), wire.ToldMsg{Namespace: hello, Commit: testCommit}); err == nil || !strings.Contains(err.Error(), "log in by github.com again") {
			t.Errorf("told: %v", err)
		}
		m.forge.set(func() { m.forge.err = nil })
		time.Sleep(time.Minute)
		if out, errs, _ := m.exec(other, "cat "+hello+"/ci/last/stdout"); out != "ok 3f2a9c1d0b7e.1\n" {
			t.Errorf("when it is back: %q %q", out, errs)
		}
	})
}

// While a question is under way nobody else waits.
func TestPersonWaitsAlone(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		m.exports("box", hello)
		k, _ := m.key("", "other")
		other, _ := m.login(k)
		held := make(chan struct{})
		m.forge.set(func() { m.forge.held = held })
		l := m.person("github:1")
		began := time.Now()
		var wg sync.WaitGroup
		for _, command := range []string{"cat " + hello + "/ci/last/stdout", "ls /", "cat status", "wait namespace=" + hello + " last"} {
			wg.Go(func() { m.exec(l, command) })
		}
		synctest.Wait()
		if out, _, _ := m.exec(other, "cat "+hello+"/ci/last/stdout"); out != "ok 3f2a9c1d0b7e.1\n" || time.Since(began) > time.Second {
			t.Errorf("another waited %v: %q", time.Since(began), out)
		}
		if out, _, _ := m.exec(l, "whoami"); out == "" {
			t.Error("another session of the same connection hangs")
		}
		close(held)
		wg.Wait()
	})
}

// A person exports where the forge lets it push, by each way to export.
func TestPersonExports(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		l := m.person("github:1")
		var refused *client.RefusedError
		for ns, want := range map[string]bool{hello: true, open: false, secret: false, "gitlab.com/a/b": false, "local/x": false} {
			err := m.exportOn(l, wire.Announce{Name: "box-" + strings.ReplaceAll(ns, "/", "-"), Namespaces: []string{ns}}, newTestTree().root())
			if want != (err == nil) || err != nil && (!errors.As(err, &refused) || !refused.Forbidden()) {
				t.Errorf("export to %s: %v, want %v", ns, err, want)
			}
			ok, reason, err := l.ssh.SendRequest("streamlocal-forward@openssh.com", true, ssh.Marshal(&forwardUnixMsg{Path: "/9p/" + ns + "/n/stock"}))
			if ok != want || err != nil || !want && !strings.Contains(string(reason), wire.MayNotPublish) {
				t.Errorf("ssh -R to %s: %v %s %v, want %v", ns, ok, reason, err, want)
			}
		}
	})
}

// An executor that announces many namespaces of which one is lost is told which.
func TestPersonExportsMany(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		l := m.person("github:1")
		err := m.exportOn(l, wire.Announce{Name: "box", Namespaces: []string{hello, open}}, newTestTree().root())
		if err == nil || !strings.HasSuffix(err.Error(), wire.MayNotPublish+" "+open) {
			t.Errorf("export: %v", err)
		}
		var all []string
		for i := range 300 {
			all = append(all, fmt.Sprintf("github.com/many/r%03d", i))
		}
		m.forge.set(func() {
			for _, ns := range all {
				m.forge.may[ns] = access.Rights{Read: true, Publish: true}
			}
		})
		if err := m.exportOn(l, wire.Announce{Name: "box", Namespaces: all}, newTestTree().root()); !errors.Is(err, fs.ErrBusy) || !strings.Contains(err.Error(), "256 namespaces at once") {
			t.Errorf("export of 300: %v", err)
		}
		// What was refused holds nothing.
		if err := m.exportOn(l, wire.Announce{Name: "box", Namespaces: all[:256]}, newTestTree().root()); err != nil {
			t.Errorf("export of 256: %v", err)
		}
	})
}

// A jump to an executor asks about those namespaces alone that have one of its name.
func TestPersonJumps(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		m.exports("box", hello)
		m.exports("hidden", secret)
		var all []string
		for i := range 2 * maxListed {
			all = append(all, fmt.Sprintf("github.com/many/r%03d", i))
		}
		k, _ := m.key("", "many")
		executor, _ := m.login(k)
		if err := m.exportOn(executor, wire.Announce{Name: "many", Namespaces: all}, newTestTree().root()); err != nil {
			t.Fatal(err)
		}
		jump := func(l testLink, name string) error {
			ch, _, err := l.ssh.OpenChannel("direct-tcpip", ssh.Marshal(&directTCPMsg{Host: name, Port: 22, OriginAddr: "127.0.0.1", OriginPort: 1}))
			if err == nil {
				ch.Close()
			}
			return err
		}
		l := m.person("github:1")
		m.forge.questions()
		if err := jump(l, "box"); err != nil {
			t.Errorf("to an executor: %v", err)
		}
		if got := m.forge.questions(); !slices.Equal(got, []string{hello}) {
			t.Errorf("it asks %q", got)
		}
		absent, hidden := jump(l, "absent"), jump(l, "hidden")
		if absent == nil || hidden == nil || strings.ReplaceAll(hidden.Error(), "hidden", "absent") != absent.Error() {
			t.Errorf("to what is forbidden: %v, and to what is absent: %v", hidden, absent)
		}
		m.forge.set(func() { m.forge.err = errors.New("down") })
		var refused *ssh.OpenChannelError
		if err := jump(m.person("github:2"), "box"); !errors.As(err, &refused) || refused.Reason != ssh.ResourceShortage {
			t.Errorf("while the forge is down: %v", err)
		}
	})
}

// The root's event file shows a person what it may read, also of what joins later.
func TestPersonEvents(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		m.exports("first", hello, secret)
		ev := watchEvents(t, m.treeOn(m.person("github:1"), ""))
		ev.await("/" + hello + "/n/first join")
		m.exports("second", secret, open)
		ev.await("/" + open + "/n/second join")
		if strings.Contains(ev.text, secret) {
			t.Errorf("event tells of %s: %q", secret, ev.text)
		}
	})
}

// Everybody reads what is public, and publishes nothing there. An edit counts at once, in
// both directions, and ends nothing else.
func TestPublic(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		m.exports("box", secret, hello)
		k, _ := m.key(`namespace="gitlab.com/x/y"`, "narrow")
		token := newSigner(t)
		person := m.person("passkey:1")
		narrow, _ := m.login(k)
		tokens, _ := m.loginAs(withCert(t, m.certify(token, m.token("gitlab.com/x/y", true)), token), token)
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(m.dir, "public"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		all := map[string]testLink{"a key": narrow, "a token": tokens, "a passkey": person, "a person": m.person("github:1")}
		for who, l := range all {
			if _, errs, _ := m.exec(l, "cat "+secret+"/ci/last/stdout"); !strings.Contains(errs, "file not found") {
				t.Errorf("%s: %q", who, errs)
			}
		}
		write("github.com/Bob/*\nlocal/x\n")
		time.Sleep(watchEvery)
		for who, l := range all {
			if out, errs, _ := m.exec(l, "cat "+secret+"/ci/last/stdout"); out != "ok 3f2a9c1d0b7e.1\n" {
				t.Errorf("%s does not read what is public: %q %q", who, out, errs)
			}
			if out, _, _ := m.exec(l, "ls -1 github.com/bob"); out != "secret\n" {
				t.Errorf("%s lists %q", who, out)
			}
			if err := m.attach(l, secret); err != nil {
				t.Errorf("%s: attach: %v", who, err)
			}
			if err := m.exportOn(l, wire.Announce{Name: "mine", Namespaces: []string{secret}}, newTestTree().root()); err == nil {
				t.Errorf("%s publishes what is public", who)
			}
			if err := m.attach(l, "local/x"); !errors.Is(err, iofs.ErrNotExist) {
				t.Errorf("%s: attach of local/x: %v", who, err)
			}
		}
		m.treeOn(narrow, secret)
		m.treeOn(tokens, "gitlab.com/x/y")
		write("")
		m.ends("what is public no more", narrow, time.Second)
		for _, l := range []testLink{tokens, person} {
			if _, errs, _ := m.exec(l, "cat "+secret+"/ci/last/stdout"); !strings.Contains(errs, "file not found") {
				t.Errorf("after the edit: %q", errs)
			}
		}
	})
}
