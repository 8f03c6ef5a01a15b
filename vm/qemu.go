package vm

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"9ci/vm/network"
)

// A qemu is what is needed to start one. It gets everything as an open file, so
// nothing of it has a name.
type qemu struct {
	path  string
	args  []string
	files []*os.File // from descriptor 3 on

	agent, monitor socket
	network        socket // carries the frames of the guest's card
	incoming       socket // carries a saved machine's state; only where one is resumed
	in             int    // the descriptor of its other end

	outbox *os.File // our descriptor of that disk, or nil
}

// A socket is our end of a pair.
type socket struct{ conn net.Conn }

// take gives the connection to another owner.
func (s *socket) take() net.Conn {
	c := s.conn
	s.conn = nil
	return c
}

// lent closes our copies of what qemu has now. A copy of its end of a socket would
// hide its hangup.
func (q *qemu) lent() {
	for _, f := range q.files {
		f.Close()
	}
	q.files = nil
}

// close closes what was not lent, and the sockets that have no other owner.
func (q *qemu) close() {
	q.lent()
	if q.outbox != nil {
		q.outbox.Close()
	}
	for _, s := range []*socket{&q.agent, &q.monitor, &q.network, &q.incoming} {
		if s.conn != nil {
			s.conn.Close()
		}
	}
}

// memory is where a guest's RAM is when it is not simply qemu's own.
type memory struct {
	file   *os.File
	shared bool // what the guest writes is seen in the file: it is to be saved
}

// prepare makes a qemu for c, which is complete. With memory that is not
// shared, it waits for the state that goes with it.
func prepare(ctx context.Context, c Config, mem *memory) (_ *qemu, err error) {
	q := &qemu{}
	defer func() {
		if err != nil {
			q.close()
		}
	}()
	if q.path, err = c.board().emulator().Find(); err != nil {
		return nil, err
	}
	if err := q.addBase(c, mem != nil); err != nil {
		return nil, err
	}
	if mem != nil {
		if err := q.addMemory(c, mem); err != nil {
			return nil, err
		}
	}
	if err := q.addDisks(ctx, c); err != nil {
		return nil, err
	}
	if err := q.addOutside(c); err != nil {
		return nil, err
	}
	if c.board().bus != "" {
		q.place(c.board().bus)
	}
	return q, nil
}

// place puts each virtio device on a bus of its own, in their order, by which the guest
// knows its disks.
func (q *qemu) place(bus string) {
	n := 0
	for i, arg := range q.args {
		if i > 0 && q.args[i-1] == "-device" && strings.HasPrefix(arg, "virtio-") {
			q.args[i] += fmt.Sprintf(",bus=%s.%d", bus, n)
			n++
		}
	}
}

// addBase gives the guest its board, its kernel and core OS, its console,
// and the ways to its agent and to qemu's monitor. backed says that addMemory
// comes next.
func (q *qemu) addBase(c Config, backed bool) error {
	agent, err := q.socket(&q.agent)
	if err != nil {
		return err
	}
	mon, err := q.socket(&q.monitor)
	if err != nil {
		return err
	}
	f, err := initramfs(c)
	if err != nil {
		return err
	}
	initrd := q.lend(f)
	machine, cpu := c.board().machine(c.Accel)
	if backed {
		machine += ",memory-backend=ram"
	}
	q.args = []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-name", "9ci",
		"-M", machine, "-cpu", cpu,
		"-m", strconv.FormatInt(c.Memory>>20, 10), "-smp", strconv.Itoa(c.CPUs),
		"-kernel", c.Image.Kernel, "-initrd", openFile(initrd),
		"-append", commandLine(c),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", mon), "-mon", "chardev=monitor,mode=control",
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", agent),
		"-device", "virtio-serial-device,id=serial",
		"-device", "virtserialport,bus=serial.0,nr=1,chardev=agent,name=ci.agent",
		"-drive", "id=root,if=none,format=raw,readonly=on,file=" + escape(c.Image.Root),
		"-device", "virtio-blk-device,drive=root",
	}
	q.args = append(q.args, here.sandbox...)
	q.args = append(q.args, c.board().args...)
	return nil
}

// commandLine returns what the guest's kernel is told.
func commandLine(c Config) string {
	line := "quiet console=" + c.board().console + " cryptomgr.notests panic=-1 rdinit=/layer" + GuestPath
	if c.Accel != "tcg" {
		return line
	}
	line += " rodata=off" // a tenth of the kernel's start; nothing that we throw away needs it
	if khz := tscKHz(); khz > 0 && c.Image.Arch == "amd64" {
		// The counter that a TCG guest reads is the host's. A kernel that
		// is not told its rate hangs now and then as it calibrates; one
		// that is not told that the counter is reliable falls back to
		// jiffies on a busy host.
		line += fmt.Sprintf(" tsc_early_khz=%d tsc=reliable", khz)
	}
	return line
}

// addMemory puts the guest's RAM into a file.
func (q *qemu) addMemory(c Config, mem *memory) (err error) {
	q.args = append(q.args, "-object", fmt.Sprintf("memory-backend-file,id=ram,size=%d,share=%s,mem-path=%s",
		c.Memory, onOff(mem.shared), openFile(q.lend(mem.file))))
	if mem.shared {
		return nil
	}
	q.in, err = q.socket(&q.incoming)
	q.args = append(q.args, "-incoming", "defer")
	return err
}

// addDisks gives the guest the disk for what it writes, and the one by which
// it hands over.
func (q *qemu) addDisks(ctx context.Context, c Config) (err error) {
	if c.Disk > 0 {
		f, err := scratch(ctx, c)
		if err != nil {
			return err
		}
		q.disk("disk", f)
	}
	if c.Outbox > 0 {
		if q.outbox, err = unnamed(c.Dir, c.Outbox); err != nil {
			return err
		}
		fd, err := unix.FcntlInt(q.outbox.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("dup", err)
		}
		q.disk("outbox", os.NewFile(uintptr(fd), "outbox"))
	}
	return nil
}

// addOutside gives the guest a network card and the directories of the host
// that it may read.
func (q *qemu) addOutside(c Config) error {
	card, err := q.socket(&q.network)
	if err != nil {
		return err
	}
	q.args = append(q.args,
		"-netdev", fmt.Sprintf("stream,id=net,server=off,addr.type=fd,addr.str=%d", card),
		"-device", fmt.Sprintf("virtio-net-device,netdev=net,mac=%s,host_mtu=%d", network.GuestMAC, network.MTU))
	for i, s := range c.Shares {
		q.args = append(q.args,
			"-fsdev", fmt.Sprintf("local,id=share%d,security_model=none,readonly=on,path=%s", i, escape(s.Dir)),
			"-device", fmt.Sprintf("virtio-9p-device,fsdev=share%d,mount_tag=%s", i, escape(s.Tag)))
	}
	return nil
}

// disk gives the guest one more disk. It is not synced, since nothing of it
// outlives the machine.
func (q *qemu) disk(name string, f *os.File) {
	q.args = append(q.args,
		"-drive", fmt.Sprintf("id=%s,if=none,format=raw,cache=unsafe,discard=unmap,file=%s", name, openFile(q.lend(f))),
		"-device", "virtio-blk-device,drive="+name)
}

// outboxDevice returns the guest's name of the outbox, which follows from the
// number of disks before it.
func outboxDevice(c Config) string {
	if c.Disk > 0 {
		return "/dev/vdc"
	}
	return "/dev/vdb"
}

// lend adds a file to those that qemu gets, and returns its descriptor there.
func (q *qemu) lend(f *os.File) int {
	q.files = append(q.files, f)
	return 2 + len(q.files)
}

// openFile returns the name that a process can open its descriptor fd by.
func openFile(fd int) string { return fmt.Sprintf("%s/%d", here.files, fd) }

// socket makes a pair: one end is lent, the other ours.
func (q *qemu) socket(ours *socket) (int, error) {
	fds, err := socketpair()
	if err != nil {
		return 0, os.NewSyscallError("socketpair", err)
	}
	f := os.NewFile(uintptr(fds[0]), "socket")
	defer f.Close()
	n := q.lend(os.NewFile(uintptr(fds[1]), "socket"))
	ours.conn, err = net.FileConn(f)
	return n, err
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// escape makes s a value of one of qemu's options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// initramfs returns an archive of the modules, PID 1 and mk, in memory. Its
// directory layer is one of the layers of the guest's root, so nothing needs to be
// copied.
func initramfs(c Config) (*os.File, error) {
	f, err := memoryFile("initramfs")
	if err != nil {
		return nil, err
	}
	err = writeInitramfs(f, c)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart) // some systems read on from where we are
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	return f, nil
}

func writeInitramfs(w io.Writer, c Config) error {
	modules, err := os.Open(c.Image.Modules)
	if err != nil {
		return err
	}
	defer modules.Close()
	if _, err := io.Copy(w, modules); err != nil {
		return err
	}
	archive := newCPIO(w)
	for _, f := range []struct{ name, from string }{{"layer" + GuestPath, c.Guest}, {"layer/usr/lib/plan9/bin/mk", c.Mk}} {
		b, err := os.ReadFile(f.from)
		if err != nil {
			return err
		}
		archive.file(f.name, 0o755, b)
	}
	return archive.close()
}

// scratch makes a disk with an empty file system and no name. Two of a size are
// equal, since a machine may be saved with one and go on with another.
func scratch(ctx context.Context, c Config) (*os.File, error) {
	maker, err := mkfs.Find()
	if err != nil {
		return nil, err
	}
	f, err := unnamed(c.Dir, c.Disk)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, maker, "-q", "-F", "-m0", "-O", "^has_journal,^resize_inode",
		"-U", rootUUID, "-E", "lazy_itable_init=1,nodiscard,hash_seed="+rootUUID, openFile(3))
	cmd.Env = append(os.Environ(), fmt.Sprint("E2FSPROGS_FAKE_TIME=", epoch))
	cmd.ExtraFiles = []*os.File{f}
	if out, err := cmd.CombinedOutput(); err != nil {
		f.Close()
		return nil, fmt.Errorf("disk: mkfs.ext4: %w: %s", err, out)
	}
	return f, nil
}

// unnamed makes a sparse file of a size, whose name is gone.
func unnamed(dir string, size int64) (*os.File, error) {
	f, err := os.CreateTemp(dir, "9ci-disk")
	if err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	os.Remove(f.Name())
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, fmt.Errorf("disk: %w", err)
	}
	return f, nil
}
