package orchestrator

import (
	"errors"
	iofs "io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/door"
	"9ci/orchestrator/internal/wire"
)

// Runs of other commits than testCommit: one of another id, and one that claims an id of
// testCommit.
const (
	strangeCommit = "77777777777777777777777777777777deadbeef"
	likeCommit    = "3f2a9c1d0b7e0000000000000000000000000000"
)

// An executor on the login of a CI job shows others the runs of the job's commit and no
// others, by every way in: find, revisions, index, event, status, wait, sftp, and below n.
// Its owner sees all.
func TestBoundToCommit(t *testing.T) {
	jobs := &oneJob{job: testJob}
	m := &testMux{t: t, dir: filepath.Join(t.TempDir(), "state"), home: t.TempDir()}
	book := newLogbook(t)
	m.start(listen(t), Options{Jobs: jobs, URL: "https://ci", Log: book.logger()})
	reader, readerFile := m.key(`namespace="`+hello+`",read`, "reader")
	key, file := m.joined("a.b.c")
	const mine, alien, liar, byKey, byTree = "3f2a9c1d0b7e.1", "777777777777.1", "3f2a9c1d0b7e.7", "3f2a9c1d0b7e.8", "3f2a9c1d0b7e.9"
	tree := newTestTree()
	tree.add(mine, testCommit, "passed")
	tree.add(alien, strangeCommit, "passed")
	tree.add(liar, likeCommit, "passed")
	tree.add(byKey, testCommit, "passed") // what their keys say, their index does not
	tree.files["ci/"+byKey+"/key"] = string(testKey(strangeCommit).Text())
	tree.add(byTree, testCommit, "passed")
	tree.files["ci/"+byTree+"/key"] = string(testKey(testCommit).Text()) + "tree=" + testHash + "\n"
	for _, id := range []string{mine, alien, liar} {
		tree.files["ci/"+id+".tar"] = "tar of " + id
	}
	root := m.tree(m.dial(reader), hello)
	ev := watchEvents(t, root)
	conn := m.dialWith(certified(t, key, file), key)
	m.export(conn, dial.Announce{Name: "job", Namespaces: []string{hello}, Adopts: true}, tree.root())
	ev.await("/n/job/ci/"+mine, "passed")

	answer := func(root fs.Dir, question string) string {
		t.Helper()
		text, f := find(t, root, question)
		f.Close()
		return text
	}
	if text := answer(root, string(testKey(testCommit).Text())); strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "/n/job/ci/"+mine+" passed ") {
		t.Errorf("find = %q", text)
	}
	for _, question := range []string{"commit=" + strangeCommit, "commit=" + likeCommit, "commit=" + strangeCommit + " wait=/n/job/ci/" + alien, "tree=" + testHash} {
		if text := answer(root, question); text != "" {
			t.Errorf("find %s = %q, want nothing", question, text)
		}
	}

	// New runs, by events.
	tree.add("777777777777.2", strangeCommit, "test")
	tree.add("777777777777.2", strangeCommit, "passed")
	tree.add("3f2a9c1d0b7e.6", likeCommit, "test")
	tree.add("3f2a9c1d0b7e.6", likeCommit, "passed")
	tree.add("3f2a9c1d0b7e.2", testCommit, "test")
	tree.add("3f2a9c1d0b7e.2", testCommit, "failed")
	ev.await("/n/job/ci/3f2a9c1d0b7e.2", "failed")
	for _, id := range []string{"777777777777", liar + " passed", "3f2a9c1d0b7e.6 passed"} {
		if strings.Contains(ev.text, id) {
			t.Errorf("event tells of %s: %q", id, ev.text)
		}
	}
	if text := read(t, root, "status"); !strings.Contains(text, "'job - 4 0 ") || strings.Contains(text, "adopts") {
		t.Errorf("status: %q", text)
	}
	book.await("msg=adopt", "run=3f2a9c1d0b7e.2 ")
	for _, id := range []string{alien, liar, "777777777777.2", "3f2a9c1d0b7e.6"} {
		if found, _ := book.lines("msg=adopt", "run="+id+" "); len(found) > 0 {
			t.Errorf("the audit tells of %s: %q", id, found)
		}
	}

	for _, path := range []string{"ci/" + strangeCommit, "ci/777777777777", "ci/" + likeCommit, "artifacts/" + strangeCommit, "ci/" + testHash, "ci/" + strangeCommit + ".tar",
		"n/job/ci/" + alien, "n/job/ci/" + alien + "/stdout", "n/job/ci/" + alien + ".tar", "n/job/artifacts/" + alien, "n/job/event", "n/job/ci/last", "n/job/ci/" + testCommit} {
		if n, err := door.Walk(t.Context(), root, path); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("walk %s = %v, %v, want not found", path, n, err)
		}
		if out, _, status := m.run(readerFile, "cat "+path); status != 1 || out != "" {
			t.Errorf("cat %s: %d %q", path, status, out)
		}
	}
	for path, want := range map[string]string{
		"ci/" + testCommit + "/stdout": "ok 3f2a9c1d0b7e.", "n/job/ci/" + mine + "/stdout": "ok " + mine + "\n", "n/job/ci/" + mine + ".tar": "tar of " + mine, "n/job/status": "mode=run\n",
	} {
		if text := read(t, root, path); !strings.HasPrefix(text, want) {
			t.Errorf("%s = %q, want %q", path, text, want)
		}
	}
	index := read(t, root, "n/job/index")
	if strings.Count(index, "\n") != 4 || strings.Contains(index, "7777777") || strings.Contains(index, likeCommit) {
		t.Errorf("n/job/index = %q", index)
	}
	if out, errs, status := m.run(readerFile, "ls n/job/ci"); status != 0 || strings.Contains(out, "7777777") || !strings.Contains(out, mine) {
		t.Errorf("ls n/job/ci: %d %q %q", status, out, errs)
	}
	if out, _, status := m.run(readerFile, "wait "+testCommit); !strings.HasPrefix(out, "passed 0") || status != 0 {
		t.Errorf("wait: %q %d", out, status)
	}
	// The executor's tree as a root of its own hides the same.
	executor := m.tree(m.dial(reader), hello+"/n/job")
	if text := read(t, executor, "ci/"+mine+"/stdout"); text != "ok "+mine+"\n" {
		t.Errorf("ci/%s/stdout of the executor's root = %q", mine, text)
	}
	for _, path := range []string{"ci/" + alien, "ci/" + mine + "/../" + alien + "/stdout", "ci/" + alien + ".tar", "artifacts/" + alien, "event"} {
		if n, err := door.Walk(t.Context(), executor, path); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("walk %s of the executor's root = %v, %v, want not found", path, n, err)
		}
	}
	// Its owner sees all of it.
	owner := m.tree(conn, hello)
	if text := read(t, owner, "n/job/ci/"+alien+"/stdout"); text != "ok "+alien+"\n" {
		t.Errorf("the owner reads %q", text)
	}

	// An intent is for the job's commit.
	for question, want := range map[string]string{
		"commit=" + strangeCommit + " intent=777777777777.3": "find: this login may claim a run of the commit " + testCommit,
		"commit=" + testCommit + " intent=777777777777.3":    "find: this login may claim",
		"tree=" + testHash + " intent=3f2a9c1d0b7e.3":        "find: this login may claim",
	} {
		if text := answer(owner, question); !strings.HasPrefix(text, want) {
			t.Errorf("find %s = %q, want %q", question, text, want)
		}
	}
	text, f := find(t, owner, string(testKey(testCommit).Text())+"intent=3f2a9c1d0b7e.3\n")
	defer f.Close()
	if !strings.Contains(text, "/n/job/ci/3f2a9c1d0b7e.3 queued - - "+ssh.FingerprintSHA256(key.PublicKey())) {
		t.Errorf("find with an intent = %q", text)
	}
}

// The next job of a repository that takes the name of one whose connection was lost does
// not get its runs too, which are of another commit.
func TestBoundAfterLost(t *testing.T) {
	jobs := &oneJob{job: testJob}
	inBubbleOf(t, Options{Jobs: jobs, URL: "https://ci"}, func(t *testing.T, m *bubbleMux) {
		reader, _ := m.key("", "reader")
		r, _ := m.login(reader)
		root := m.treeOn(r, hello)
		connect := func(commit string, tree *testTree) (testLink, *memConn) {
			jobs.job.Commit = commit
			key := newSigner(t)
			l, nc := m.loginAs(withCert(t, m.certify(key, "a.b.c"), key), key)
			if err := m.exportOn(l, wire.Announce{Name: "runner", Namespaces: []string{hello}}, tree.root()); err != nil {
				t.Fatal(err)
			}
			return l, nc
		}
		ask := func() string {
			t.Helper()
			text, f := find(t, root, string(testKey(testCommit).Text()))
			f.Close()
			return text
		}
		l, nc := connect(testCommit, newTestTree())
		if text, _ := find(t, m.treeOn(l, hello), string(testKey(testCommit).Text())+"intent=3f2a9c1d0b7e.1\n"); !strings.HasPrefix(text, "/n/runner/ci/3f2a9c1d0b7e.1 queued") {
			t.Fatalf("find with an intent = %q", text)
		}
		nc.Close()
		<-l.Done()
		synctest.Wait()
		if text := ask(); !strings.HasPrefix(text, "/n/runner/ci/3f2a9c1d0b7e.1 queued") {
			t.Errorf("find after it was lost = %q", text)
		}
		silent := newTestTree()
		silent.feed("index") // it tells of no runs, and of none that are gone
		connect(strangeCommit, silent)
		if text := ask(); text != "" {
			t.Errorf("find once a job of another commit has its name = %q", text)
		}
	})
}
