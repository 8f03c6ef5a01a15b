package artifacts

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A tree is the files below a directory, each with its text. A name that ends
// in / is a directory, a text that begins with -> a link.
type tree map[string]string

func (tr tree) fill(root *os.Root) error {
	for name, text := range tr {
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		var err error
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			err = root.Symlink(to, name)
		} else if strings.HasSuffix(name, "/") {
			err = root.MkdirAll(strings.TrimSuffix(name, "/"), 0o755)
		} else {
			err = root.WriteFile(name, []byte(text), 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// holds reports whether dir holds the files of tr and no other.
func (tr tree) holds(dir string) error {
	n := 0
	err := filepath.WalkDir(dir, func(name string, d iofs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		var got string
		switch d.Type() {
		case iofs.ModeDir:
			if _, ok := tr[rel+"/"]; ok {
				n++
			}
			return nil
		case iofs.ModeSymlink:
			got, err = os.Readlink(name)
			got = "-> " + got
		default:
			var b []byte
			b, err = os.ReadFile(name)
			got = string(b)
		}
		if want, ok := tr[rel]; !ok || got != want {
			return fmt.Errorf("%s is %q, want %q", rel, got, want)
		}
		n++
		return err
	})
	if err == nil && n != len(tr) {
		err = fmt.Errorf("%s has %d of the %d files", dir, n, len(tr))
	}
	return err
}

var (
	first  = tree{"a": "one", "sub/b": "two", "sub/link": "-> ../a", "empty/": "", "out": "-> /etc/passwd"}
	second = tree{"a": "other", "sub/c": "three"}
	third  = tree{"d": "four"}
)

// newDir returns a directory that does not exist in a work tree that does.
func newDir(t *testing.T) Dir {
	t.Helper()
	work := t.TempDir()
	top := filepath.Join(work, "repo")
	for _, dir := range []string{".git/objects", ".git/refs", ".git/hooks", "src"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(top, ".git/HEAD"), "ref: refs/heads/main\n")
	return Dir{Name: "out", Top: top, Records: filepath.Join(work, "state", "records")}
}

func (d Dir) path() string { return filepath.Join(d.Top, d.Name) }

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// alone wants nothing of ours beside the directory.
func alone(t *testing.T, d Dir) {
	t.Helper()
	list, err := os.ReadDir(filepath.Dir(d.path()))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), ".9ci-") {
			t.Errorf("%s is left beside %s", e.Name(), d.Name)
		}
	}
}

func TestReplace(t *testing.T) {
	for _, name := range []string{"out", "a/new/out"} {
		d := newDir(t)
		d.Name = name
		for _, tr := range []tree{first, second, second, {}, first} {
			if err := d.Check(); err != nil {
				t.Fatalf("Check = %v", err)
			}
			if err := d.Replace(tr.fill); err != nil {
				t.Fatalf("Replace = %v", err)
			}
			if err := tr.holds(d.path()); err != nil {
				t.Errorf("after Replace: %v", err)
			}
			alone(t, d)
		}
		// What is missing was not ours to keep.
		if err := os.RemoveAll(filepath.Join(d.path(), "sub")); err != nil {
			t.Fatal(err)
		}
		if err := d.Replace(third.fill); err != nil {
			t.Errorf("Replace where files are gone = %v", err)
		}
		if err := third.holds(d.path()); err != nil {
			t.Error(err)
		}
		b, err := filepath.Glob(filepath.Join(d.Records, "*.lock"))
		if err != nil || len(b) != 1 {
			t.Errorf("the records are %v, %v", b, err)
		}
	}
}

// The mode of a directory that is replaced stays, and a new one has the umask's.
func TestMode(t *testing.T) {
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	d := newDir(t)
	mode := func(want os.FileMode) {
		t.Helper()
		if fi, err := os.Stat(d.path()); err != nil || fi.Mode() != os.ModeDir|want {
			t.Errorf("the mode is %v, %v, want %v", fi.Mode(), err, want)
		}
	}
	replace := func() {
		t.Helper()
		if err := d.Replace(first.fill); err != nil {
			t.Fatal(err)
		}
	}
	replace()
	mode(0o750)
	if err := os.Chmod(d.path(), 0o705|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(d.path(), 65534, 65533); err != nil {
			t.Fatal(err)
		}
	}
	replace()
	mode(0o705 | os.ModeSetgid)
	fi, err := os.Stat(d.path())
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); os.Getuid() == 0 && (st.Uid != 65534 || st.Gid != 65533) {
		t.Errorf("its owner is %d:%d, want 65534:65533", st.Uid, st.Gid)
	}
}

// A user can replace what was made read-only, and is told where that is not
// possible.
func TestReadOnly(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("to be another user one must be root")
	}
	d := newDir(t)
	work := filepath.Dir(d.Top)
	err := errors.Join(os.Chmod(filepath.Dir(work), 0o711), os.Chown(work, 65534, 65534), os.Chown(d.Top, 65534, 65534))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and not unlocked: the thread goes
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); e != 0 {
			t.Error(e)
			return
		}
		for _, tr := range []tree{first, second} {
			if err := d.Replace(tr.fill); err != nil {
				t.Errorf("Replace = %v", err)
			}
			if err := errors.Join(tr.holds(d.path()), os.Chmod(filepath.Join(d.path(), "sub"), 0o555), os.Chmod(d.path(), 0o555)); err != nil {
				t.Error(err)
			}
		}
		if err := os.Chmod(d.Top, 0o555); err != nil {
			t.Error(err)
		}
		if err := d.Replace(third.fill); !errors.Is(err, iofs.ErrPermission) || !strings.Contains(err.Error(), "9ci fills a directory beside "+d.path()) {
			t.Errorf("Replace where nothing can be beside = %v", err)
		}
		if err := second.holds(d.path()); err != nil {
			t.Error(err)
		}
	}()
	<-done
	alone(t, d)
}

// What is no place for artifacts is refused, before anything is made.
func TestPlace(t *testing.T) {
	d := newDir(t)
	work := filepath.Dir(d.Top)
	for _, dir := range []string{"repo/.git/modules/x", "repo/x/.GIT/y", "bare/objects", "bare/refs", "home"} {
		if err := os.MkdirAll(filepath.Join(work, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(work, "bare/HEAD"), "ref: refs/heads/main\n")
	write(t, filepath.Join(d.Top, "file"), "")
	for name, to := range map[string]string{
		"repo/hooks": ".git/hooks", "repo/home": work + "/home", "repo/dangling": "nowhere", "repo/self": ".", "link": work + "/home", "repo/git": ".git",
	} {
		if err := os.Symlink(to, filepath.Join(work, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(d.Top, ".git"), filepath.Join(work, "meta")); err != nil { // --separate-git-dir
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(d.Top, ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, work)
	for _, tt := range []struct{ name, want string }{
		{".git", "is in a git directory"},
		{".git/hooks", "is in a git directory"},
		{".git/modules/x/hooks", "is in a git directory"},
		{"new/.git/hooks", "is in a git directory"},
		{"x/.GIT/hooks", "is in a git directory"},
		{".Git", "is in a git directory"},
		{"../meta", "is a git directory"},
		{"../meta/hooks", "meta is a git directory"},
		{"../bare/new/hooks", "bare is a git directory"},
		{"../bare", "is a git directory"},
		{"hooks", "is a symbolic link"},
		{"hooks/x", "is a symbolic link"},
		{"git/hooks", "is a symbolic link"},
		{"home", "is a symbolic link"},
		{"home/x", "is a symbolic link"},
		{"dangling", "is a symbolic link"},
		{"dangling/x", "is a symbolic link"},
		{"self/out", "is a symbolic link"},
		{work + "/link/x", "is a symbolic link"},
		{".", "holds the work tree"},
		{"", "holds the work tree"},
		{"..", "holds the work tree"},
		{"src/..", "holds the work tree"},
		{"../..", "holds the work tree"},
		{work, "holds the work tree"},
		{work + "/", "holds the work tree"},
		{"/", "holds the work tree"},
		{"/tmp", "holds the work tree"},
		{"file", "is not a directory"},
		{"file/x", "is not a directory"},
	} {
		d.Name = tt.name
		for what, err := range map[string]error{"Check": d.Check(), "Replace": d.Replace(first.fill)} {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s of %q = %v, want %q", what, tt.name, err, tt.want)
			}
		}
	}
	if after := snapshot(t, work); after != before {
		t.Errorf("there was\n%s\nand is\n%s", before, after)
	}
}

func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, d iofs.DirEntry, err error) error {
		if err == nil {
			fmt.Fprintln(&b, d.Type(), name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What 9ci did not put there is kept, and named.
func TestForeign(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(dir string) error
		want string
	}{
		{"a file", func(d string) error { return os.WriteFile(d+"/sub/notes", nil, 0o600) }, `holds "sub/notes", which 9ci did not put there: move it away, or name another directory`},
		{"a directory", func(d string) error { return os.Mkdir(d+"/mine", 0o700) }, `holds "mine", which 9ci did not`},
		{"a link", func(d string) error { return os.Symlink("a", d+"/mine") }, `holds "mine", which 9ci did not`},
		{"a fifo", func(d string) error { return unix.Mkfifo(d+"/mine", 0o600) }, `holds "mine", which 9ci did not`},
		{"a name", func(d string) error { return os.WriteFile(d+"/\x1b\xff\n", nil, 0o600) }, `holds "\x1b\xff\n", which 9ci did not`},
		{"a change", func(d string) error { return os.WriteFile(d+"/a", []byte("uno"), 0o600) }, `holds "a", which is not as 9ci put it there`},
		{"another end", func(d string) error { return os.WriteFile(d+"/a", []byte("one\n"), 0o600) }, `holds "a", which is not as`},
		{"another link", func(d string) error { return errors.Join(os.Remove(d+"/out"), os.Symlink("/etc/shadow", d+"/out")) }, `holds "out", which is not as`},
		{"a file for a link", func(d string) error { return errors.Join(os.Remove(d+"/out"), os.WriteFile(d+"/out", nil, 0o600)) }, `holds "out", which is not as`},
		{"a link for a directory", func(d string) error { return errors.Join(os.RemoveAll(d+"/sub"), os.Symlink("/etc", d+"/sub")) }, `holds "sub", which is not as`},
		{"a fifo for a file", func(d string) error { return errors.Join(os.Remove(d+"/a"), unix.Mkfifo(d+"/a", 0o600)) }, `holds "a", which is not as`},
	} {
		d := newDir(t)
		if err := d.Replace(first.fill); err != nil {
			t.Fatal(err)
		}
		if err := tt.do(d.path()); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, d.Top)
		for what, err := range map[string]error{"Check": d.Check(), "Replace": d.Replace(second.fill)} {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %s = %v, want %q", tt.name, what, err, tt.want)
			}
		}
		if after := snapshot(t, d.Top); after != before {
			t.Errorf("%s: there was\n%s\nand is\n%s", tt.name, before, after)
		}
	}

	// A record that lies in the repository is none.
	d := newDir(t)
	if err := second.fill(openRoot(t, d.Top, "out")); err != nil {
		t.Fatal(err)
	}
	forger := d
	forger.Records = filepath.Join(d.Top, ".9ci")
	if err := os.Rename(d.path(), d.path()+".real"); err != nil {
		t.Fatal(err)
	}
	if err := forger.Replace(second.fill); err != nil {
		t.Fatal(err)
	}
	if err := d.Replace(first.fill); err == nil || !strings.Contains(err.Error(), "which 9ci did not put there") {
		t.Errorf("Replace of what only a forged record names = %v", err)
	}
	if err := second.holds(d.path()); err != nil {
		t.Error(err)
	}
}

func openRoot(t *testing.T, dir, name string) *os.Root {
	t.Helper()
	name = filepath.Join(dir, name)
	if err := os.MkdirAll(name, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// Something comes in between the check and the exchange: it is kept.
func TestLate(t *testing.T) {
	defer func(f func(string)) { reached = f }(reached)
	for _, can := range []bool{true, false} {
		if !can {
			withoutExchange(t)
		}
		d := newDir(t)
		if err := d.Replace(first.fill); err != nil {
			t.Fatal(err)
		}
		reached = func(point string) {
			if point == "listed" {
				write(t, filepath.Join(d.path(), "late"), "precious")
			}
		}
		err := d.Replace(second.fill)
		reached = func(string) {}
		if err == nil || !strings.Contains(err.Error(), `holds "late", which 9ci did not put there`) {
			t.Errorf("Replace = %v", err)
		}
		alone(t, d)
		if err := os.Rename(filepath.Join(d.path(), "late"), filepath.Join(d.Top, "late")); err != nil {
			t.Error(err)
		}
		if err := first.holds(d.path()); err != nil {
			t.Error(err)
		}
		if err := d.Replace(second.fill); err != nil {
			t.Errorf("Replace afterwards = %v", err)
		}
	}
}

func withoutExchange(t *testing.T) {
	f := exchange
	exchange = func(int, string, string) error { return unix.EINVAL }
	t.Cleanup(func() { exchange = f })
}

// What cannot be filled leaves the old one.
func TestFill(t *testing.T) {
	d := newDir(t)
	if err := d.Replace(first.fill); err != nil {
		t.Fatal(err)
	}
	bad := errors.New("the peer is gone")
	for _, tt := range []struct {
		fill func(*os.Root) error
		want string
	}{
		{func(root *os.Root) error { second.fill(root); return bad }, bad.Error()},
		{func(root *os.Root) error { return root.WriteFile("../escape", nil, 0o644) }, "escapes from parent"},
		{func(root *os.Root) error {
			return errors.Join(root.Symlink("../.git/hooks", "x"), root.WriteFile("x/post-commit", nil, 0o755))
		}, "escapes from parent"},
		{tree{"a": "", ".git/config": "[core]\n"}.fill, `".git" among the artifacts is a git repository`},
		{tree{"x/.Git": "gitdir: /x\n"}.fill, `"x/.Git" among the artifacts`},
		{tree{"x/.git": "-> ../y"}.fill, `"x/.git" among the artifacts`},
		{tree{"x/HEAD": "", "x/objects/": "", "x/refs/y": ""}.fill, `"x" among the artifacts`},
		{tree{"HEAD": "", "objects/": "", "refs/": ""}.fill, `"." among the artifacts`},
	} {
		if err := d.Replace(tt.fill); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Replace = %v, want %q", err, tt.want)
		}
		if err := first.holds(d.path()); err != nil {
			t.Error(err)
		}
		alone(t, d)
	}
	if list, err := os.ReadDir(filepath.Join(d.Top, ".git/hooks")); err != nil || len(list) > 0 {
		t.Errorf("the hooks are %v, %v", list, err)
	}
	// Names that are harmless where they are.
	odd := tree{".bashrc": "evil", ".ssh/authorized_keys": "key", "post-commit": "#!", "HEAD": "x", ".gitignore": "*", "x.git/y": "z", "-rf": "", " ": ""}
	if err := d.Replace(odd.fill); err != nil {
		t.Error(err)
	}
	if err := odd.holds(d.path()); err != nil {
		t.Error(err)
	}
}

// Where the disk is full the old one stays, and the next one comes.
func TestFullDisk(t *testing.T) {
	d := newDir(t)
	mount(t, d.Top, "size=1m")
	d.Records = filepath.Join(d.Top, "records")
	if err := d.Replace(first.fill); err != nil {
		t.Fatal(err)
	}
	big := tree{"a": strings.Repeat("x", 2<<20)}
	if err := d.Replace(big.fill); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Replace = %v, want %v", err, unix.ENOSPC)
	}
	alone(t, d)
	if err := first.holds(d.path()); err != nil {
		t.Error(err)
	}
	if err := d.Replace(second.fill); err != nil {
		t.Errorf("Replace afterwards = %v", err)
	}
	if err := second.holds(d.path()); err != nil {
		t.Error(err)
	}
}

// A directory that cannot be renamed is told to be none for this.
func TestMounted(t *testing.T) {
	d := newDir(t)
	if err := os.Mkdir(d.path(), 0o755); err != nil {
		t.Fatal(err)
	}
	mount(t, d.path(), "size=1m")
	if err := d.Replace(first.fill); err == nil || !strings.Contains(err.Error(), "something is mounted on it") || !strings.Contains(err.Error(), "name a directory in it") {
		t.Errorf("Replace of a mount point = %v", err)
	}
	alone(t, d)
	d.Name = "out/in"
	if err := d.Replace(first.fill); err != nil {
		t.Errorf("Replace in a mount point = %v", err)
	}
}

func mount(t *testing.T, dir, options string) {
	t.Helper()
	if err := unix.Mount("9ci-test", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("a file system needs the right to mount one: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// Of several at once each wins wholly, in turn.
func TestAtOnce(t *testing.T) {
	d := newDir(t)
	var trees []tree
	var wg sync.WaitGroup
	for i := range 8 {
		tr := make(tree)
		for j := range 20 {
			tr[fmt.Sprintf("%d/%d", j%3, j)] = fmt.Sprint(i)
		}
		trees = append(trees, tr)
		wg.Go(func() {
			if err := d.Replace(tr.fill); err != nil {
				t.Errorf("Replace = %v", err)
			}
			if err := d.Check(); err != nil {
				t.Errorf("Check = %v", err)
			}
		})
	}
	wg.Wait()
	alone(t, d)
	for _, tr := range trees {
		if tr.holds(d.path()) == nil {
			return
		}
	}
	t.Errorf("%s holds none of what was put there:\n%s", d.path(), snapshot(t, d.path()))
}

// TestMain is also the process that the next test kills.
func TestMain(m *testing.M) {
	if point := os.Getenv("ARTIFACTS_TEST_POINT"); point != "" {
		die := func() {
			unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
		if os.Getenv("ARTIFACTS_TEST_EXCHANGE") == "" {
			exchange = func(int, string, string) error { return unix.ENOSYS }
		}
		reached = func(p string) {
			if p == point {
				die()
			}
		}
		d := Dir{Name: "out", Top: os.Getenv("ARTIFACTS_TEST_TOP"), Records: os.Getenv("ARTIFACTS_TEST_RECORDS")}
		err := d.Replace(func(root *os.Root) error {
			err := second.fill(root)
			reached("filling")
			return err
		})
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// A process is killed on its way: the directory holds the old files or the new
// ones, and the next process leaves nothing of it.
func TestKilled(t *testing.T) {
	for _, can := range []string{"", "1"} {
		for _, point := range []string{"recorded", "made", "filling", "filled", "listed", "aside", "swapped", "removed"} {
			if point == "aside" && can != "" {
				continue // it is not reached
			}
			t.Run(point+can, func(t *testing.T) {
				die := func(d Dir) {
					t.Helper()
					cmd := exec.Command(os.Args[0])
					cmd.Env = append(os.Environ(), "ARTIFACTS_TEST_POINT="+point, "ARTIFACTS_TEST_EXCHANGE="+can, "ARTIFACTS_TEST_TOP="+d.Top, "ARTIFACTS_TEST_RECORDS="+d.Records)
					out, err := cmd.CombinedOutput()
					if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || st.Signal() != unix.SIGKILL {
						t.Fatalf("the process was to be killed: %v: %s", err, out)
					}
				}
				d := newDir(t)
				if err := d.Replace(first.fill); err != nil {
					t.Fatal(err)
				}
				die(d)
				want := first
				if point == "swapped" || point == "removed" {
					want = second
				}
				if point == "aside" {
					if err := d.Check(); err != nil {
						t.Errorf("Check = %v", err)
					}
				} else if err := want.holds(d.path()); err != nil {
					t.Errorf("after the kill: %v", err)
				}

				// The user's own file is kept, wherever it is, and the next but
				// one process does as if there had been one kill.
				die(d)
				if point != "aside" {
					if err := d.Check(); err != nil {
						t.Errorf("Check = %v", err)
					}
					mine := filepath.Join(d.path(), "mine")
					write(t, mine, "precious")
					if err := d.Replace(third.fill); err == nil || !strings.Contains(err.Error(), `holds "mine", which 9ci did not put there`) {
						t.Errorf("Replace = %v", err)
					}
					if err := os.Remove(mine); err != nil {
						t.Error(err)
					}
				}
				if err := d.Replace(third.fill); err != nil {
					t.Fatalf("Replace after the kill = %v", err)
				}
				if err := third.holds(d.path()); err != nil {
					t.Error(err)
				}
				alone(t, d)
				if b, err := os.ReadFile(filepath.Join(d.Records, recordOf(t, d))); err != nil || strings.Contains(string(b), "beside") || strings.Contains(string(b), `"a"`) {
					t.Errorf("the record is %q, %v", b, err)
				}
			})
		}
	}
}

func recordOf(t *testing.T, d Dir) string {
	t.Helper()
	p, err := d.open(false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	return filepath.Base(p.record)
}

// The user's files that were in the old one when the process was killed are not
// thrown away with it.
func TestKilledLate(t *testing.T) {
	d := newDir(t)
	p, err := d.open(true)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := os.MkdirAll(d.Records, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (&record{path: p.name, beside: ".9ci-X", files: files{"a": {"dir"}}}).write(p.record); err != nil {
		t.Fatal(err)
	}
	beside := filepath.Join(d.Top, ".9ci-X")
	if err := os.MkdirAll(filepath.Join(beside, "mine"), 0o700); err != nil {
		t.Fatal(err)
	}
	err = d.Replace(first.fill)
	if err == nil || !strings.Contains(err.Error(), "9ci was killed when it replaced "+d.path()+": "+beside+` holds "mine", which 9ci did not put there: move it away`) {
		t.Errorf("Replace = %v", err)
	}
	if err := os.Remove(filepath.Join(beside, "mine")); err != nil {
		t.Fatal(err)
	}
	if err := d.Replace(first.fill); err != nil {
		t.Errorf("Replace afterwards = %v", err)
	}
	alone(t, d)
}

func TestRecord(t *testing.T) {
	name := filepath.Join(t.TempDir(), "record")
	want := record{path: "/a b\n\x1b\xff\"", beside: ".9ci-X", filling: true, files: files{"a b\n\"\xff": {"link \"\\n\"", "dir"}, "for": {"file 0 00"}}}
	if err := want.write(name); err != nil {
		t.Fatal(err)
	}
	got, err := readRecord(name)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("readRecord = %v, %v, want %v", got, err, want)
	}
	for _, text := range []string{"\n", "x\n", "\"a\"\n", "\"a\" \n", "beside \"../x\"\n", "beside x\n", "other \"x\"\n", "\"a", " \"a\"\n"} {
		write(t, name, text)
		if _, err := readRecord(name); err == nil || !strings.Contains(err.Error(), "remove the file") {
			t.Errorf("readRecord of %q = %v", text, err)
		}
	}
}
