package ninep

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"9ci/fs"
	"9ci/proto/internal/testtree"

	"golang.org/x/sys/unix"
)

// umlServe is the server inside the machine of TestLinux: the test tree with
// 10,000 files more. Its live file ends with a line when it is written to.
func umlServe(sock string) error {
	if err := umlModules(); err != nil {
		return err
	}
	root, log := testtree.New()
	many := testtree.NewDir("many", 100)
	for i := range 10000 {
		many.Add(testtree.NewNode(fmt.Sprintf("file%d", i), uint64(i)+1000, 0o444, "x"))
	}
	root.Add(many)
	grow := testtree.NewLog("grow", 101) // as stdout does: its end is the current one
	grow.Append("one\n", true)
	root.Add(grow)
	more := testtree.NewNode("more", 102, 0o666, "")
	more.St.Version = 0
	more.OnOpen = func(_ context.Context, m fs.OpenMode) (fs.File, error) {
		if m&fs.OpenWrite != 0 {
			grow.Append("two\n", true)
			log.Append("hello\n", true)
		}
		return nil, fs.ErrReadOnly
	}
	root.Add(more)
	arrived, _ := log.Watch()
	waiters := testtree.NewNode("waiters", 103, 0o444, "")
	waiters.St.Version = 0
	waiters.OnOpen = func(context.Context, fs.OpenMode) (fs.File, error) {
		return linkFile(fmt.Sprintln(len(arrived))), nil
	}
	root.Add(waiters)
	l, err := Listen(sock)
	if err != nil {
		return err
	}
	return (&Server{Root: root}).ServeListener(context.Background(), l)
}

// umlModules loads what the kernel needs to mount 9P.
func umlModules() error {
	for _, name := range []string{"fs/netfs/netfs", "fs/fscache/fscache", "net/9p/9pnet", "net/9p/9pnet_fd", "fs/9p/9p"} {
		files, err := filepath.Glob("/usr/lib/uml/modules/*/kernel/" + name + ".ko")
		if err != nil || len(files) == 0 {
			continue // built in, or of another kernel
		}
		f, err := os.Open(files[len(files)-1])
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// umlInit runs as init in the machine. It says what it does not like, and at
// the end says so.
const umlInit = `#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /mnt
SERVE=/mnt/sock SELF &
until test -S /mnt/sock || ! kill -0 $!; do :; done
want() {
	got=$(eval "$2" 2>&1)
	test "$got" = "$3" || echo "NINEP $1: $2: got <$got> want <$3>"
}
for cache in none mmap loose; do
	mkdir /mnt/$cache
	mount -t 9p -o trans=unix,version=9p2000.L,cache=$cache,msize=65536 /mnt/sock /mnt/$cache || echo NINEP $cache: no mount
	cd /mnt/$cache
	want $cache 'cat ci/last/status' 'passed 0 1.500 -'
	want $cache 'cat link' 'passed 0 1.500 -'
	want $cache 'readlink ci/last' 3f2a9c1d0b7e.1
	want $cache 'stat -c "%a %s %Y" ci/last/status' '444 17 1795521600'
	want $cache 'ls many | wc -l' 10000
	want $cache 'find . -type f | wc -l' 10007
	want $cache 'tar cf - ci link | tar tf - | wc -l' 6
	test $cache = loose || want $cache 'cat ctl' manual # loose believes a size of 0, and so sees no live file
	want $cache 'echo run > ctl; echo $?' 0
	want $cache '(echo x > empty) 2>/dev/null || echo refused' refused
	want $cache 'touch new 2>/dev/null || echo refused' refused
	want $cache 'rm -f empty 2>/dev/null || echo refused' refused
	want $cache 'mkdir x 2>/dev/null || echo refused' refused
	cd /
	test $cache = loose && continue
	cd /mnt/$cache
	# A reader that waits dies at once.
	before=$(cat waiters)
	cat ci/last/live & pid=$!
	until test $(cat waiters) -gt $before; do sleep .1; done
	kill -9 $pid
	wait $pid
	test $? = 137 || echo NINEP $cache: cat ended with $?
	want $cache 'cat ci/last/status' 'passed 0 1.500 -'
	cd /
done
# tail follows a file whose end moves.
tail -f /mnt/none/grow > /mnt/tail & pid=$!
until grep -q one /mnt/tail; do sleep .1; done
(echo > /mnt/none/more) 2>/dev/null
until grep -q two /mnt/tail; do sleep .1; done
kill $pid
want live 'cat /mnt/none/ci/last/live' hello
for cache in none mmap loose; do umount /mnt/$cache || echo NINEP $cache: no umount; done
echo NINEP done
echo o > /proc/sysrq-trigger
sleep 100
`

// The Linux kernel's client, in a machine that runs as a process: Debian's
// user-mode-linux.
func TestLinux(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a kernel")
	}
	if raceEnabled {
		t.Skip("the race detector does not start in user-mode-linux")
	}
	if os.Getuid() != 0 {
		t.Skip("only root's files can be the machine's root file system")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	init := filepath.Join(dir, "init")
	if err := os.WriteFile(init, []byte(strings.ReplaceAll(umlInit, "SELF", self)), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "linux.uml", "mem=256M", "rootfstype=hostfs", "rootflags=/", "ro", "init="+init,
		"con=null", "con0=null,fd:1", "umid="+filepath.Base(dir), "uml_dir="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	done := false
	for line := range strings.SplitSeq(out.String(), "\n") {
		line = strings.TrimSpace(line)
		if line == "NINEP done" {
			done = true
		} else if strings.Contains(line, "NINEP") {
			t.Error(line)
		}
	}
	if !done {
		s := out.String()
		t.Errorf("the machine ended with %v:\n%s", err, s[max(0, len(s)-3000):])
	}
}
