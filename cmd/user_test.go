package cmd_test

import (
	"bytes"
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"9ci/vm"
)

// usersStories are those that a plain user's rights may change: they touch files of
// more than one owner, the machine's container or sockets. mk check plays all as a
// plain user, but for those that rootsStories has.
var usersStories = []string{
	"doctor_fixes", "host_artifacts", "host_clones", "host_git", "host_home", "host_namespace", "host_shares",
	"mount", "orchestrator_ssh", "replay_sealed_elsewhere", "run_dry", "run_held", "run_passes", "serve_activated", "serve_adopts", "serve_root", "verify_copies",
}

// rootsStories build all that there is, from caches of go that a plain user does not have.
var rootsStories = []string{"dist_debian"}

// plainUser is one that every Debian has, for a process that is to have no rights. It
// is not nobody, which is the other user of some stories.
const plainUser = "daemon"

// asUser runs a program as a user. Udev lets every user open /dev/fuse, but some machines
// have no udev, so there is another one in a mount namespace.
const asUser = `
dir=$1 uid=$2 gid=$3
shift 3
mkdir $dir/dev
mount -t tmpfs dev $dir/dev
mknod -m 666 $dir/dev/fuse c 10 229
chmod 666 $dir/dev/fuse
mount --bind $dir/dev/fuse /dev/fuse
exec setpriv --reuid=$uid --regid=$gid --clear-groups -- "$@"
`

// doneBin names where the programs under test are, if another process has built them. (A
// shell drops a name that starts with a digit.)
const doneBin = "TEST_BIN_9CI"

// TestPlainUser plays stories once more as a plain user, whose home, core OS, programs
// and clone of the project are copies that they can read.
func TestPlainUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("TestScripts played them as a plain user")
	}
	u, err := osuser.Lookup(plainUser)
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "9ci-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe := filepath.Join(dir, "cmd.test")
	project := filepath.Join(dir, "project")
	if out, err := exec.Command("git", "clone", "-q", "--no-hardlinks", "..", project).CombinedOutput(); err != nil {
		t.Fatalf("git clone: %v: %s", err, out)
	}
	testdata := filepath.Join(project, "cmd", "testdata")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(testdata), os.Chmod(dir, 0o755), os.Chmod(bin, 0o755), copyFile(exe, self), os.Chmod(exe, 0o755),
		os.CopyFS(testdata, os.DirFS("testdata")), lendImage(t, dir), chownAll(dir, uid, gid)); err != nil {
		t.Fatal(err)
	}
	names := usersStories
	for _, name := range names {
		if _, err := os.Stat(filepath.Join("testdata", name+".txt")); err != nil {
			t.Error(err) // a pattern says nothing of a story that is not there
		}
	}
	if os.Getenv("CHECK") != "" {
		names = nil
		all, err := filepath.Glob("testdata/*.txt")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range all {
			if name := strings.TrimSuffix(filepath.Base(name), ".txt"); !slices.Contains(rootsStories, name) {
				names = append(names, name)
			}
		}
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-euc", asUser, "as", dir, u.Uid, u.Gid, exe, "-test.run=^TestScripts$/^("+strings.Join(names, "|")+")$", "-test.timeout=60m")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if testing.Verbose() {
		cmd.Args = append(cmd.Args, "-test.v")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	}
	cmd.Dir = filepath.Dir(testdata)
	cmd.Env = []string{"HOME=" + dir, "TMPDIR=" + dir, "XDG_CACHE_HOME=" + filepath.Join(dir, "cache"), "USER=" + plainUser, "LOGNAME=" + plainUser, doneBin + "=" + bin}
	for _, name := range []string{"PATH", "LANG", "CHECK", "FORGES", "http_proxy", "https_proxy", "no_proxy"} {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	if err := cmd.Run(); err != nil {
		t.Errorf("as %s: %v\n%s", plainUser, err, &said)
	}
}

// lendImage gives the cache below dir the core OS of this user.
func lendImage(t *testing.T, dir string) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	cache = filepath.Join(cache, "9ci")
	img, err := vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: cache, Progress: os.Stderr})
	if err != nil {
		return err
	}
	from, err := filepath.Rel(cache, img.Dir)
	if err != nil {
		return err
	}
	to := filepath.Join(dir, "cache", "9ci", from)
	if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.CopyFS(to, os.DirFS(img.Dir))); err != nil {
		return err
	}
	return os.Symlink(img.Digest, filepath.Join(filepath.Dir(to), "current"))
}

func copyFile(to, from string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

func chownAll(dir string, uid, gid int) error {
	return filepath.WalkDir(dir, func(name string, _ iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, uid, gid)
	})
}
