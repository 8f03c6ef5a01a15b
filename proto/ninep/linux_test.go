package ninep

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"9ci/fs"
	"9ci/proto/internal/testtree"
)

// linuxTree is the test tree with 10,000 files more. Its live file ends with a
// line when more is written to.
func linuxTree() fs.Dir {
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
	return root
}

// linuxScript mounts the server at $SOCK below $DIR and says what it does not
// like.
const linuxScript = `
want() {
	got=$(eval "$2" 2>&1)
	test "$got" = "$3" || echo "$1: $2: got <$got> want <$3>"
}
for cache in none mmap loose; do
	mkdir $DIR/$cache
	mount -t 9p -o trans=unix,version=9p2000.L,cache=$cache,msize=65536 $SOCK $DIR/$cache || echo $cache: no mount
	cd $DIR/$cache
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
	cd $DIR/$cache
	# A reader that waits dies at once.
	before=$(cat waiters)
	cat ci/last/live & pid=$!
	until test $(cat waiters) -gt $before; do sleep .1; done
	kill -9 $pid
	wait $pid 2>/dev/null
	test $? = 137 || echo $cache: cat ended with $?
	want $cache 'cat ci/last/status' 'passed 0 1.500 -'
	cd /
done
# tail follows a file whose end moves.
tail -f $DIR/none/grow > $DIR/tail & pid=$!
until grep -q one $DIR/tail; do sleep .1; done
(echo > $DIR/none/more) 2>/dev/null
until grep -q two $DIR/tail; do sleep .1; done
kill $pid
want live 'cat $DIR/none/ci/last/live' hello
for cache in none mmap loose; do umount $DIR/$cache || echo $cache: no umount; done
`

// The Linux kernel's client. Mounting is root's, and few hosts have 9P: cmd's
// TestKernelClient runs this test, as root, in a machine of its own.
func TestLinux(t *testing.T) {
	if os.Getenv("NINEP_LINUX") == "" {
		t.Skip("wants a kernel with 9P: TestKernelClient of 9ci/cmd boots one for it")
	}
	dir := t.TempDir()
	sock := filepath.Join(dir, "sock")
	l, err := Listen("unix!" + sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- (&Server{Root: linuxTree()}).ServeListener(ctx, l) }()
	defer func() {
		cancel()
		<-served
	}()
	cmd := exec.Command("bash", "-c", linuxScript)
	cmd.Env = append(os.Environ(), "SOCK="+sock, "DIR="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}
