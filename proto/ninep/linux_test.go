package ninep

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"9ci/fs"
	"9ci/proto/internal/testtree"
	"9ci/proto/internal/wire"
)

// linuxTree is the test tree with 20,000 files more, and one for each error: it is
// what opening the file gets. The tree's live file ends with a line when more is
// written to.
func linuxTree() fs.Dir {
	root, log := testtree.New()
	many := testtree.NewDir("many", 100)
	for i := range 20000 { // of all lengths, so that what is left of a buffer differs
		many.Add(testtree.NewNode(fmt.Sprintf("file%d%s", i, strings.Repeat("x", i%101)), uint64(i)+1000, 0o444, "x"))
	}
	root.Add(many)
	errs := testtree.NewDir("errs", 99)
	for i, err := range wire.Errors() {
		n := testtree.NewNode(fmt.Sprint(i), uint64(i)+200, 0o444, "x")
		n.OnOpen = func(context.Context, fs.OpenMode) (fs.File, error) { return nil, err }
		errs.Add(n)
	}
	root.Add(errs)
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
mnt() {
	mkdir -p $DIR/$1
	mount -t 9p -o trans=unix,$2 $SOCK $DIR/$1 || echo $1: no mount
	cd $DIR/$1
}
umnt() {
	cd /
	umount $DIR/$1 || echo $1: no umount
}
# What every dialect does.
common() {
	want $1 'cat ci/last/status' 'passed 0 1.500 -'
	want $1 'stat -c "%a %s %Y" ci/last/status' '444 17 1795521600'
	want $1 'echo run > ctl; echo $?' 0
	want $1 '(echo x > empty) 2>/dev/null || echo refused' refused
	want $1 'touch new 2>/dev/null || echo refused' refused
	want $1 'rm -f empty 2>/dev/null || echo refused' refused
	want $1 'mkdir x 2>/dev/null || echo refused' refused
}
# A reader that waits dies at once.
dies() {
	before=$(cat waiters)
	cat ci/last/live & pid=$!
	until test $(cat waiters) -gt $before; do sleep .1; done
	kill -9 $pid
	wait $pid 2>/dev/null
	test $? = 137 || echo $1: cat ended with $?
	want $1 'cat ci/last/status' 'passed 0 1.500 -'
}
for version in 9p2000 9p2000.u 9p2000.L; do
	# A directory is listed whole, whatever the size of a message.
	for msize in 4096 8192 65536 1048576; do
		mnt $version version=$version,msize=$msize
		want "$version $msize" 'find many -type f | sort -u | wc -l' 20000
		umnt $version
	done
	# Each error has its number.
	mnt $version version=$version
	i=0
	while read -r text; do
		want $version "cat errs/$i" "cat: errs/$i: $text"
		i=$((i+1))
	done < $DIR/errors
	test $version = 9p2000.L || {
		common $version
		want $version 'cat link' ci/last/status
		want $version 'cat ctl' manual
		dies $version
	}
	umnt $version
done
for cache in none mmap loose; do
	mnt $cache version=9p2000.L,cache=$cache,msize=65536
	common $cache
	want $cache 'cat link' 'passed 0 1.500 -'
	want $cache 'readlink ci/last' 3f2a9c1d0b7e.1
	want $cache 'tar cf - ci link | tar tf - | wc -l' 6
	# loose believes a size of 0, and so sees no live file.
	test $cache = loose || want $cache 'cat ctl' manual
	test $cache = loose || dies $cache
	cd /
done
# tail follows a file whose end moves.
tail -f $DIR/none/grow > $DIR/tail & pid=$!
until grep -q one $DIR/tail; do sleep .1; done
(echo > $DIR/none/more) 2>/dev/null
until grep -q two $DIR/tail; do sleep .1; done
kill $pid
want live 'cat $DIR/none/ci/last/live' hello
for cache in none mmap loose; do umnt $cache; done
`

// strerror returns strerror(3) of the number that err has.
func strerror(err error) string {
	text := wire.Errno(err).Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

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
	var texts strings.Builder
	for _, err := range wire.Errors() {
		fmt.Fprintln(&texts, strerror(err))
	}
	if err := os.WriteFile(filepath.Join(dir, "errors"), []byte(texts.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-c", linuxScript)
	cmd.Env = append(os.Environ(), "SOCK="+sock, "DIR="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}
