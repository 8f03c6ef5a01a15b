package orchestrator

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/wire"
)

// A hundred executors asked for one revision make one run: the orchestrator
// orders the askers, and each finds the same first one.
func TestIntents(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		const n = 20
		type asker struct {
			tree *testTree
			root fs.Dir
			file fs.File
		}
		askers := make([]asker, n)
		for i := range askers {
			a := &askers[i]
			a.tree = newTestTree()
			l, _ := m.login(k)
			if err := m.exportOn(l, wire.Announce{Name: fmt.Sprintf("box.%d", i), Namespaces: []string{hello}}, a.tree.root()); err != nil {
				t.Fatal(err)
			}
			a.root = m.treeOn(l, hello)
		}
		question := string(testKey(testCommit).Text()) + "intent=3f2a9c1d0b7e.1\n"
		firsts := make([]string, n)
		var wg sync.WaitGroup
		for i := range askers {
			wg.Go(func() {
				answer, f := find(t, askers[i].root, question)
				askers[i].file = f
				firsts[i], _, _ = strings.Cut(answer, "\n")
				if !strings.Contains(answer, fmt.Sprintf("/n/box.%d/ci/3f2a9c1d0b7e.1 queued - - ", i)) {
					t.Errorf("asker %d does not see itself: %q", i, answer)
				}
			})
		}
		wg.Wait()
		own := -1
		for i, first := range firsts {
			if first != firsts[0] {
				t.Fatalf("asker %d sees %q first, asker 0 %q", i, first, firsts[0])
			}
			if strings.HasPrefix(first, fmt.Sprintf("/n/box.%d/", i)) {
				own = i
			}
		}
		if own < 0 {
			t.Fatalf("nobody is first: %q", firsts[0])
		}
		// The first one runs: the others see it go on, and then what came out.
		run := askers[own]
		run.tree.add("3f2a9c1d0b7e.1", testCommit, "test")
		synctest.Wait()
		other := askers[(own+1)%n]
		answer, _ := find(t, other.root, "commit="+testCommit)
		if want := fmt.Sprintf("/n/box.%d/ci/3f2a9c1d0b7e.1 test ", own); !strings.HasPrefix(answer, want) {
			t.Errorf("find = %.200q, want %q first", answer, want)
		}
		run.tree.add("3f2a9c1d0b7e.1", testCommit, "failed")
		run.file.Close()
		synctest.Wait()
		// It failed, so the next in order is first now, not the one that asked last.
		answer, _ = find(t, other.root, "commit="+testCommit)
		first, rest, _ := strings.Cut(answer, "\n")
		if !strings.Contains(first, " queued ") || strings.Contains(first, fmt.Sprintf("box.%d/", own)) || !strings.HasSuffix(rest, " failed 41.250 "+testScore+" 'alice 1' -\n") && !strings.Contains(rest, " failed ") {
			t.Errorf("after the first failed: %q", answer)
		}
		// An intent goes with its file.
		for i := range askers {
			askers[i].file.Close()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		answer, _ = find(t, other.root, "commit="+testCommit)
		if strings.Contains(answer, "queued") {
			t.Errorf("after all have closed find: %q", answer)
		}
	})
}

// A run that is adopted or forgotten elsewhere is not lost or kept by the mux.
func TestFindFollowsTheExecutor(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		l, _ := m.login(k)
		tree := newTestTree()
		for i := range 200 {
			tree.add(fmt.Sprintf("3f2a9c1d0b7e.%d", i+1), testCommit, "passed")
		}
		if err := m.exportOn(l, wire.Announce{Name: "box", Namespaces: []string{hello}}, tree.root()); err != nil {
			t.Fatal(err)
		}
		root := m.treeOn(l, hello)
		synctest.Wait()
		answer, _ := find(t, root, string(testKey(testCommit).Text()))
		if n := strings.Count(answer, "\n"); n != 200 {
			t.Errorf("%d runs, want 200", n)
		}
		// It forgot one, whose key the mux had not read: asking again finds out.
		tree.mu.Lock()
		for f := range tree.files {
			if strings.HasPrefix(f, "ci/3f2a9c1d0b7e.200/") {
				delete(tree.files, f)
			}
		}
		tree.mu.Unlock()
		if _, err := fs.Walk(t.Context(), root, "ci/"+testScore+"/stdout"); err != nil {
			t.Errorf("ci/<score>: %v", err)
		}
	})
}

// However many runs one key's executors claim to have, those of another's are in
// the answer, and an asker that names signers gets theirs alone.
func TestFindSigners(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		join := func(user, name string, runs int, signer string) testLink {
			k, _ := m.key("", user)
			l, _ := m.login(k)
			tree := newTestTree()
			for i := range runs {
				tree.add(fmt.Sprintf("3f2a9c1d0b7e.%d", i+1), testCommit, "passed")
			}
			tree.files["index"] = strings.ReplaceAll(tree.files["index"], "'alice 1'", signer)
			if err := m.exportOn(l, wire.Announce{Name: name, Namespaces: []string{hello}}, tree.root()); err != nil {
				t.Fatal(err)
			}
			return l
		}
		l := join("alice", "honest", 1, "SHA256:alice")
		join("bob", "other", 1, "SHA256:bob")
		join("mallory", "forger", 2*maxAnswers, "SHA256:alice")
		root := m.treeOn(l, hello)
		synctest.Wait()
		question := "commit=" + testCommit
		// The keys are read in several questions' time.
		answer, _ := find(t, root, question)
		for range 3 {
			answer, _ = find(t, root, question)
		}
		if n := strings.Count(answer, "\n"); n != maxAnswers || !strings.Contains(answer, "/n/honest/") || !strings.Contains(answer, "/n/other/") {
			t.Errorf("%d lines, honest: %v, other: %v", n, strings.Contains(answer, "/n/honest/"), strings.Contains(answer, "/n/other/"))
		}
		answer, _ = find(t, root, question+" signer=SHA256:bob signer=SHA256:carol")
		if !strings.HasPrefix(answer, "/n/other/") || strings.Count(answer, "\n") != 1 {
			t.Errorf("of bob alone: %.200q", answer)
		}
		// The asker's own run is there, whoever vouches for it.
		answer, f := find(t, root, question+" signer=SHA256:bob intent=3f2a9c1d0b7e.9")
		defer f.Close()
		if strings.Count(answer, "\n") != 2 || !strings.Contains(answer, "/n/honest/ci/3f2a9c1d0b7e.9 queued") {
			t.Errorf("of bob and the asker: %.200q", answer)
		}
		if answer, _ = find(t, root, question+" signer="); !strings.HasPrefix(answer, "find: signer= names nobody") {
			t.Errorf("of nobody: %.200q", answer)
		}
	})
}

// An executor announces no end of runs.
func TestTooManyIntents(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		l, _ := m.login(k)
		if err := m.exportOn(l, wire.Announce{Name: "box", Namespaces: []string{hello}}, newTestTree().root()); err != nil {
			t.Fatal(err)
		}
		root := m.treeOn(l, hello)
		ask := func(n int) (string, fs.File) {
			return find(t, root, fmt.Sprintf("commit=%s intent=3f2a9c1d0b7e.%d", testCommit, n+1))
		}
		var open []fs.File
		for i := range maxIntents {
			answer, f := ask(i)
			if !strings.HasPrefix(answer, "/") {
				t.Fatalf("intent %d: %q", i, answer)
			}
			open = append(open, f)
		}
		one := []byte(fmt.Sprintf("commit=%s intent=3f2a9c1d0b7e.%d", testCommit, maxIntents+1))
		n, err := fs.Walk(t.Context(), root, "find")
		if err != nil {
			t.Fatal(err)
		}
		f, err := n.Open(t.Context(), fs.OpenRead|fs.OpenWrite)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteAt(t.Context(), one, 0)
		if _, err := f.ReadAt(t.Context(), make([]byte, 100), 0); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("one more: %v, want %v", err, fs.ErrBusy)
		}
		if _, _, err := l.Find(t.Context(), wire.FindMsg{Namespace: hello, Question: string(one)}); !errors.Is(err, fs.ErrBusy) || !strings.Contains(err.Error(), "intents at most") {
			t.Errorf("one more, by a channel: %v, want %v", err, fs.ErrBusy)
		}
		open[0].Close()
		synctest.Wait()
		if answer, _ := ask(maxIntents); !strings.HasPrefix(answer, "/") {
			t.Errorf("after one was closed: %.100q", answer)
		}
	})
}

// What is asked by a channel is answered as the file find answers it. An intent
// lives as long as the channel.
func TestFindChannel(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		reader, _ := m.key(`read,namespace="github.com/bob/*"`, "bob")
		l, _ := m.login(k)
		if err := m.exportOn(l, wire.Announce{Name: "box", Namespaces: []string{hello}}, newTestTree().root()); err != nil {
			t.Fatal(err)
		}
		other, _ := m.login(k)
		ask := func(question string) string {
			t.Helper()
			answer, release, err := other.Find(t.Context(), wire.FindMsg{Namespace: hello, Question: question})
			if err != nil {
				t.Fatal(err)
			}
			release()
			return string(answer)
		}
		if got := ask(""); got != findManual {
			t.Errorf("no question: %q, want the manual", got)
		}
		if got, want := ask("nonsense"), "find: \"nonsense\": want attr=value\n"; got != want {
			t.Errorf("nonsense: %q, want %q", got, want)
		}
		_, release, err := l.Find(t.Context(), wire.FindMsg{Namespace: hello, Question: "commit=" + testCommit + " intent=3f2a9c1d0b7e.1"})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := ask("commit="+testCommit), "/n/box/ci/3f2a9c1d0b7e.1 queued - - "; !strings.HasPrefix(got, want) {
			t.Errorf("find = %q, want %q", got, want)
		}
		release()
		synctest.Wait()
		if got := ask("commit=" + testCommit); got != "" {
			t.Errorf("after the release: %q", got)
		}
		// It counts against the channels of its connection only while it lives.
		for range 3 * wire.MaxChannels {
			ask("commit=" + testCommit)
		}
		_, _, err = other.Find(t.Context(), wire.FindMsg{Namespace: hello, Question: "commit=" + strings.Repeat("x", maxQuestion)})
		if err == nil {
			t.Error("a question without an end is taken")
		}
		bob, _ := m.login(reader)
		for _, ns := range []string{hello, "github.com/nobody/here", "", "../x"} {
			if _, _, err := bob.Find(t.Context(), wire.FindMsg{Namespace: ns, Question: "commit=" + testCommit}); !errors.Is(err, iofs.ErrNotExist) {
				t.Errorf("Find in %q: %v, want %v", ns, err, iofs.ErrNotExist)
			}
		}
	})
}

// An executor that does not answer holds up the first that asks, for a moment, and
// nobody after that. One that is slow is waited for again.
func TestFindSilentExecutor(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		good, _ := m.login(k)
		tree := newTestTree()
		if err := m.exportOn(good, wire.Announce{Name: "good", Namespaces: []string{hello}}, tree.root()); err != nil {
			t.Fatal(err)
		}
		bad, nc := m.login(k)
		stopped := newTestTree()
		for i := range keysAtJoin + 10 { // the keys of ten are not read at the join
			stopped.add(fmt.Sprintf("3f2a9c1d0b7e.%d", i+1), testCommit, "passed")
		}
		if err := m.exportOn(bad, wire.Announce{Name: "bad", Namespaces: []string{hello}}, stopped.root()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		nc.freeze(true)
		tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
		synctest.Wait()
		l, _ := m.login(k)
		ask := func() (string, time.Duration) {
			began := time.Now()
			answer, release, err := l.Find(t.Context(), wire.FindMsg{Namespace: hello, Question: string(testKey(testCommit).Text())})
			if err != nil {
				t.Fatal(err)
			}
			release()
			return string(answer), time.Since(began)
		}
		if _, took := ask(); took != findTimeout {
			t.Errorf("the first answer took %v, want %v", took, findTimeout)
		}
		for range 3 {
			answer, took := ask()
			if took != 0 {
				t.Errorf("a later answer took %v", took)
			}
			if n := strings.Count(answer, "\n"); n != keysAtJoin+1 || !strings.HasPrefix(answer, "/n/good/") {
				t.Errorf("%d offers, %.40q first; want %d, those of the silent executor last", n, answer, keysAtJoin+1)
			}
		}
	})
}

func TestParseQuestion(t *testing.T) {
	good := string(testKey(testCommit).Text())
	pairs := func(n int) string { // of a key
		text := "commit=x"
		for i := range n - 1 {
			text += fmt.Sprintf(" a%d=b", i)
		}
		return text
	}
	for _, test := range []struct{ text, err string }{
		{good, ""},
		{good + "intent=3f2a9c1d0b7e.1", ""},
		{"commit=x target='a b'\n", ""},
		{"tree=x", ""},
		{"", "a key has a commit or a tree"},
		{"arch=amd64", "a key has a commit or a tree"},
		{"commit=x commit=y", "given twice"},
		{"commit", "want attr=value"},
		{"commit='x", "quote"},
		{"commit=x intent=../../x", "no run's id"},
		{"commit=x wait=/n/box/ci/3f2a9c1d0b7e.1", ""},
		{"commit=x wait=n/box/ci/3f2a9c1d0b7e.1", "not /n/EXECUTOR/ci/ID"},
		{"commit=x wait=/n/box/ci/../../x", "not /n/EXECUTOR/ci/ID"},
		{"commit=x wait=/n/box/ci/3f2a9c1d0b7e.1/wait", "not /n/EXECUTOR/ci/ID"},
		{"commit=x a b=c", "want attr=value"},
		{"commit=x\xff", "not UTF-8"},
		{pairs(maxPairs), ""},
		{pairs(maxPairs + 1), "a key of over 64 pairs"},
		{pairs(1) + strings.Repeat(" signer=x", 1000), ""},
	} {
		_, err := parseQuestion([]byte(test.text))
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("parseQuestion(%q) = %v, want %q", test.text, err, test.err)
		}
	}
}

// Find reads as its manual, answers at whatever offset, keeps its error until it
// is asked something else, and takes a question in pieces.
func TestFindFile(t *testing.T) {
	m := startMux(t)
	k, _ := m.key("", "alice")
	root := m.tree(m.dial(k), hello)
	n, err := fs.Walk(t.Context(), root, "find")
	if err != nil {
		t.Fatal(err)
	}
	f, err := n.Open(t.Context(), fs.OpenRead|fs.OpenWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := readFind(t, f, 0); got != findManual {
		t.Errorf("find reads as %q", got)
	}
	write := func(s string) error { _, err := f.WriteAt(t.Context(), []byte(s), 0); return err }
	for _, test := range []struct {
		parts []string
		off   int64
		want  string
	}{
		{[]string{"nonsense"}, 8, `find: "nonsense": want attr=value` + "\n"},
		{[]string{"commit=" + testCommit[:10], testCommit[10:] + " intent=3f2a9c1d0b7e.1"}, 0, "find: an intent comes from a connection that exports the namespace\n"},
		{[]string{"commit=" + testCommit}, 1000, ""},
	} {
		for _, p := range test.parts {
			if err := write(p); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if got := readFind(t, f, test.off); got != test.want {
				t.Errorf("answer to %q = %q, want %q", test.parts, got, test.want)
			}
		}
	}
	for range 20 {
		err = write(strings.Repeat("x", 10000))
	}
	if err == nil {
		t.Error("a question without an end is taken")
	}
}

func FuzzParseQuestion(f *testing.F) {
	f.Add(testKey(testCommit).Text())
	f.Add([]byte("commit=x intent=3f2a9c1d0b7e.1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseQuestion(b)
		if err != nil {
			return
		}
		if q.key.Check() != nil || q.intent != "" && !ci.IsID(q.intent) {
			t.Errorf("parseQuestion(%q) = %+v", b, q)
		}
		r := run{key: q.key}
		if !r.answers(q.key) {
			t.Errorf("a key does not answer itself: %q", b)
		}
	})
}

func FuzzParseRun(f *testing.F) {
	f.Add("3f2a9c1d0b7e.1 passed 0 41.250 2026-11-24T21:00:00Z " + testHash + " " + testCommit + " 'alice 1' " + testScore)
	f.Add("3f2a9c1d0b7e.1 test - 1.000 - - - - -")
	f.Fuzz(func(t *testing.T, line string) {
		if id, st, err := ci.ParseEvent(line); err == nil && (!ci.IsID(id) || st.State == "") {
			t.Errorf("ci.ParseEvent(%q) = %q %v", line, id, st)
		}
		r, err := parseRun(line)
		if err != nil {
			return
		}
		if !ci.IsID(r.id) || strings.ContainsAny(r.signer+r.score+r.commit+r.tree, "\n\x1b") {
			t.Errorf("parseRun(%q) = %+v", line, r)
		}
		for _, rev := range []string{"3f2a9c1", "", "last", testScore} {
			r.named(rev)
		}
	})
}

func FuzzExportPath(f *testing.F) {
	f.Add("9p/" + hello + "/n/box")
	f.Add("9p")
	c := &conn{}
	c.login = &access.Login{Identity: access.Identity{Name: "alice@laptop"}, Grant: access.Grant{Namespaces: []access.Pattern{hello}}}
	f.Fuzz(func(t *testing.T, path string) {
		a, err := c.exportPath(path)
		if err == nil && a.Check() != nil {
			t.Errorf("exportPath(%q) = %+v", path, a)
		}
	})
}
