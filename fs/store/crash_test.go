package store

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"9ci/fs/ci"
)

// The test binary is also the writer that the tests kill, and a user other than root.
func TestMain(m *testing.M) {
	if dir := os.Getenv("FS_TEST_NOBODY"); dir != "" {
		keepAsNobody(dir)
		return
	}
	if dir := os.Getenv("FS_TEST_WRITER"); dir != "" {
		if name := os.Getenv("FS_TEST_TAR"); name != "" {
			adopter(dir, name)
		}
		writer(dir, os.Getenv("FS_TEST_STOP"))
		return
	}
	os.Exit(m.Run())
}

// writer makes runs in a store, one after the other, and prints each id when
// its run is sealed. It stops in the step stop of its first run, and then
// prints "stopped ID".
func writer(dir, stop string) {
	check := func(err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	s, err := Open(dir)
	check(err)
	var artifacts bytes.Buffer
	w := tar.NewWriter(&artifacts)
	for i := range 3 {
		check(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint("file", i), Mode: 0o644, Size: int64(10000 * i)}))
		w.Write(make([]byte, 10000*i))
	}
	check(w.Close())
	for {
		r, err := s.Create(commitA)
		check(err)
		check(r.SetKey(ci.Attrs{{Name: "commit", Value: commitA}, {Name: "target", Value: "test"}}))
		for _, step := range ci.Steps {
			check(r.Enter(step))
			for i := range 20 {
				fmt.Fprintf(r.Stdout(), "line %d of %s\n", i, step)
			}
			fmt.Fprint(r.Stderr(), "a part")
			if step == "test" {
				svc, err := r.AddService("db")
				check(err)
				fmt.Fprintln(svc.Stdout(), "ready")
				if step != stop {
					check(svc.Close())
				}
			}
			if step == stop {
				for log := ""; !strings.HasSuffix(log, "P a part\n"); {
					b, err := os.ReadFile(filepath.Join(r.Dir(), "step", step, "log"))
					check(err)
					log = string(b)
				}
				fmt.Println("stopped", r.ID())
				for { // a select without cases would be a deadlock, of which Go dies without cgo
					check(syscall.Kill(os.Getpid(), syscall.SIGSTOP))
				}
			}
			if step == "artifacts" {
				check(r.AddArtifacts(context.Background(), bytes.NewReader(artifacts.Bytes())))
			}
			check(r.Leave(step, "passed", 0))
		}
		check(r.Seal(context.Background(), "passed", 0, testSign))
		fmt.Println(r.ID())
	}
}

// adopter adopts a tar and forgets the run, again and again.
func adopter(dir, name string) {
	fail := func(err error) {
		fmt.Println("error", err)
		os.Exit(1)
	}
	s, err := Open(dir)
	if err != nil {
		fail(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		fail(err)
	}
	for {
		e, err := s.Adopt(context.Background(), bytes.NewReader(b), nil)
		if err != nil {
			fail(err)
		}
		fmt.Println(e.ID)
		if err := s.Forget(e.ID); err != nil {
			fail(err)
		}
	}
}

func testSign([]byte) ([]byte, error) {
	return []byte("-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQAAAANrZXk=\n-----END SSH SIGNATURE-----\n"), nil
}

func startWriter(t *testing.T, dir, stop string, env ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FS_TEST_WRITER="+dir, "FS_TEST_STOP="+stop, "TMPDIR="+t.TempDir())
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// A writer is killed at many points of many runs. No run that it had sealed is
// lost, none that it had not sealed is visible, and the process that recovers
// the store seals what it left.
func TestKillLosesNoSealedRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	t.Cleanup(func() { removeAll(dir) })
	told := make(map[string]bool)
	kills := 40
	if testing.Short() {
		kills = 8
	}
	for i := range kills {
		cmd, lines := startWriter(t, dir, "")
		if i%2 == 0 {
			lines.Scan() // let it get through one at least
			told[lines.Text()] = true
		}
		timer := time.AfterFunc(rand.N(60*time.Millisecond), func() { cmd.Process.Kill() })
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "error") {
				t.Fatal(lines.Text())
			}
			if told[lines.Text()] {
				t.Errorf("the id %s was given twice", lines.Text())
			}
			told[lines.Text()] = true
		}
		cmd.Wait()
		timer.Stop()
		checkStore(t, dir, told)
	}
	if len(told) < kills/2 {
		t.Errorf("only %d runs were sealed", len(told))
	}
}

// A process is killed while it adopts and removes a run: the next finds it
// whole or not at all, and nothing else.
func TestKillAdopter(t *testing.T) {
	id, good := goodTar(t)
	name := filepath.Join(t.TempDir(), "run.tar")
	if err := os.WriteFile(name, good, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "store")
	t.Cleanup(func() { removeAll(dir) })
	for range 15 {
		cmd, lines := startWriter(t, dir, "", "FS_TEST_TAR="+name)
		lines.Scan()
		timer := time.AfterFunc(rand.N(60*time.Millisecond), func() { cmd.Process.Kill() })
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "error") {
				t.Fatal(lines.Text())
			}
		}
		cmd.Wait()
		timer.Stop()
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(id); err == nil {
			wantRuns(t, s, id)
			verifyRun(t, s, id)
		} else {
			wantRuns(t, s)
		}
		s.Close()
	}
}

// checkStore opens a store after its writer was killed, looks at what there
// is, and recovers the rest.
func checkStore(t *testing.T, dir string, told map[string]bool) {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before := make(map[string]bool)
	for e := range s.Runs() {
		before[e.ID] = true
	}
	for id := range told {
		if !before[id] {
			t.Errorf("the sealed run %s is lost", id)
		}
	}
	ids, err := s.Recover(t.Context(), testSign)
	if err != nil {
		t.Errorf("Recover: %v", err)
	}
	for _, id := range ids {
		if before[id] {
			t.Errorf("%s was to be seen before it was sealed", id)
		}
		e, err := s.Get(id)
		if err != nil {
			t.Errorf("Get(%s): %v", id, err)
		}
		if e.State != "error" && e.State != "passed" {
			t.Errorf("%s was recovered in state %s", id, e.State)
		}
		before[id], told[id] = true, true
	}
	names, err := os.ReadDir(s.RunDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if n.Name() == "last" {
			continue
		}
		if !before[n.Name()] {
			t.Errorf("%s is left in the store", n.Name())
			continue
		}
		if _, ok := verified.LoadOrStore(s.runPath(n.Name()), true); ok {
			continue
		}
		rep, err := ci.VerifyDir(s.runPath(n.Name()))
		if err != nil || len(rep.Content)+len(rep.Metadata) > 0 {
			t.Errorf("VerifyDir(%s) = %q, %q, %v", n.Name(), rep.Content, rep.Metadata, err)
		}
	}
	if work, _ := os.ReadDir(s.path("work")); len(work) > 0 {
		t.Errorf("%d runs are still in work", len(work))
	}
}

// A process is killed in each step. Only in post-test does the run pass, with
// that step in error.
func TestKillInStep(t *testing.T) {
	for i, step := range ci.Steps {
		t.Run(step, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			t.Cleanup(func() { removeAll(dir) })
			cmd, lines := startWriter(t, dir, step)
			lines.Scan()
			id, ok := strings.CutPrefix(lines.Text(), "stopped ")
			if !ok {
				t.Fatal(lines.Text())
			}
			s, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if ids, err := s.Recover(t.Context(), testSign); len(ids) > 0 || err != nil {
				t.Errorf("Recover while the process lives = %q, %v", ids, err)
			}
			cmd.Process.Kill()
			io.Copy(io.Discard, readerOf(lines))
			cmd.Wait()
			service := filepath.Join(s.workPath(id), ci.ServiceLog("db"))
			if step == "test" { // the kill came in the middle of a line
				f, err := os.OpenFile(service, os.O_WRONLY|os.O_APPEND, 0)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprint(f, "2026-11-24T21:04:05.000000000Z std")
				f.Close()
			}
			died := time.Now().Add(-time.Hour).Truncate(time.Second)
			filepath.WalkDir(s.workPath(id), func(name string, _ iofs.DirEntry, _ error) error { return os.Chtimes(name, died, died) })
			if ids, err := s.Recover(t.Context(), testSign); !slices.Equal(ids, []string{id}) || err != nil {
				t.Fatalf("Recover = %q, %v, want %q", ids, err, id)
			}
			e, err := s.Get(id)
			if err != nil {
				t.Fatal(err)
			}
			want := "error"
			if step == "post-test" {
				want = "passed"
			}
			if e.State != want || e.Signer == "" || !e.Time.Equal(died) {
				t.Errorf("state = %s, signer %q at %v, want %s, a signer and %v", e.State, e.Signer, e.Time, want, died)
			}
			for j, name := range ci.Steps {
				st, err := readStatus(filepath.Join(e.Dir, "step", name, "status"))
				want := "passed"
				switch {
				case j == i:
					want = "error"
				case j > i:
					want = "skipped"
				}
				if err != nil || st.State != want {
					t.Errorf("step %s is %s, %v, want %s", name, st.State, err, want)
				}
				if j == i && !st.Time.Equal(died) { // and not when somebody came to see
					t.Errorf("step %s ended at %v, want %v", name, st.Time, died)
				}
			}
			log, err := os.ReadFile(filepath.Join(e.Dir, "step", step, "log"))
			if !strings.Contains(string(log), "stdout F line 19 of "+step) || !strings.Contains(string(log), "stderr P a part") || !strings.HasSuffix(string(log), "stderr F 9ci: its executor was killed\n") {
				t.Errorf("the log of %s is %q, %v", step, log, err)
			}
			if step == "test" {
				log, err := os.ReadFile(filepath.Join(e.Dir, ci.ServiceLog("db")))
				if !strings.HasSuffix(string(log), "stdout F ready\n") {
					t.Errorf("the log of the service is %q, %v", log, err)
				}
			}
			verifyRun(t, s, id)
		})
	}
}

// readerOf reads on behind a scanner until the writer's end.
func readerOf(s *bufio.Scanner) io.Reader {
	for s.Scan() {
	}
	return strings.NewReader("")
}

// What a daemon had queued when it was killed is taken over by the next.
func TestResume(t *testing.T) {
	s := newStore(t)
	a, b := mustCreate(t, s), mustCreate(t, s)
	if err := errors.Join(a.SetKey(ci.Attrs{{Name: "target", Value: "lint"}}), a.SetAsked(ci.Attrs{{Name: "timeout", Value: "2h"}})); err != nil {
		t.Fatal(err)
	}
	if err := a.SetAsked(ci.Attrs{{Name: "env", Value: "A=\n"}}); err == nil {
		t.Error("SetAsked took a newline")
	}
	if err := b.Enter("boot"); err != nil {
		t.Fatal(err)
	}
	s.Close() // as after a kill: both are left
	s, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	runs, err := s.Resume()
	if err != nil || len(runs) != 1 || runs[0].ID() != a.ID() || runs[0].Key().Get("target") != "lint" {
		t.Fatalf("Resume = %v, %v, want %s", runs, err, a.ID())
	}
	if asked, err := runs[0].Asked(); err != nil || asked.Get("timeout") != "2h" {
		t.Errorf("Asked = %v, %v, want timeout=2h", asked, err)
	}
	if ids, err := s.Recover(t.Context(), nil); err != nil || !slices.Equal(ids, []string{b.ID()}) {
		t.Errorf("Recover = %q, %v, want %q", ids, err, b.ID())
	}
	r := runs[0]
	for _, step := range ci.Steps {
		if err := r.Enter(step); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(r.Stdout(), step)
		if err := r.Leave(step, "passed", 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Seal(t.Context(), "passed", 0, testSign); err != nil {
		t.Fatal(err)
	}
	verifyRun(t, s, a.ID())
	verifyRun(t, s, b.ID())
}

func mustCreate(t *testing.T, s *Store) *Run {
	t.Helper()
	r, err := s.Create(commitA)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A process dies when all of a run is sealed but its name: it is sealed again.
func TestKillBeforeRename(t *testing.T) {
	s := newStore(t)
	r := mustCreate(t, s)
	for _, step := range ci.Steps {
		r.Enter(step)
		fmt.Fprintln(r.Stdout(), step)
		r.Leave(step, "passed", 0)
	}
	r.mu.Lock()
	final := r.finish("passed", 0)
	r.mu.Unlock()
	if _, _, err := r.writeSealed(t.Context(), final, testSign); err != nil {
		t.Fatal(err)
	}
	want := ids(s)
	s.Close()
	s, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := ids(s); len(got) != 0 {
		t.Errorf("%q is to be seen before it is sealed", got)
	}
	got, err := s.Recover(t.Context(), testSign)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("Recover = %q, %v, want %q", got, err, want)
	}
	e, err := s.Get(r.ID())
	if err != nil || e.State != "passed" || e.Signer == "" {
		t.Errorf("Get = %v, %v, want passed and signed", e, err)
	}
	verifyRun(t, s, r.ID())
}
