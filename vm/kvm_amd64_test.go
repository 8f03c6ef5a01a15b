package vm_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"9ci/vm"
)

// A kvmDouble answers what a process and its children ask of /dev/kvm and of
// /proc/cpuinfo, in the place of the kernel: by seccomp_unotify(2). It has one
// machine, whose CPU knows the four instructions of guest's loop.
type kvmDouble struct {
	mode     string
	listener int
	cpuinfo  string

	opened int // machines that were made
	mem    uint64
	rip    uint64
	sregs  []byte
	run    int // the memory that the CPU shares with its process
}

const kvmFlags = "flags\t\t: fpu vme de pse tsc msr vmx\n"

// becomeDoubled gives this process's questions to the double at the other end of the
// socket 3, and becomes its arguments.
func becomeDoubled() error {
	runtime.LockOSThread()
	os.Unsetenv(kvmDoubled)
	const ioctl, nr, request = 16, 0, 24 // the number of the call, and offsets in struct seccomp_data
	jump := func(k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: yes, Jf: no, K: k}
	}
	load := func(k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: k}
	}
	filter := []unix.SockFilter{
		load(nr),
		jump(unix.SYS_OPENAT, 5, 0),
		jump(ioctl, 0, 3),
		load(request),
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xff00},
		jump(0xae00, 1, 0), // KVMIO
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	listener, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return os.NewSyscallError("seccomp", e)
	}
	if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(listener)), nil, 0); err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	unix.CloseOnExec(int(listener))
	unix.CloseOnExec(3)
	return unix.Exec("/proc/self/exe", os.Args, os.Environ())
}

// test starts a test of this binary under d, and returns what it printed.
func (d *kvmDouble) test(t *testing.T, name string, env ...string) string {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "double"), os.NewFile(uintptr(fds[1]), "doubled")
	defer ours.Close()
	var out bytes.Buffer
	cmd := exec.Command(os.Args[0], "-test.run=^"+name+"$", "-test.v")
	cmd.Env = append(append(os.Environ(), kvmDoubled+"=1"), env...)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(ours.Fd()), make([]byte, 1), oob, 0)
	if err != nil || n == 0 {
		cmd.Wait()
		t.Fatalf("no listener: %v\n%s", err, &out)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		t.Fatal(err)
	}
	rights, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	d.listener = rights[0]
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := d.serve(); err != nil {
			t.Errorf("double of KVM: %v", err)
		}
	})
	err = cmd.Wait()
	wg.Wait()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, &out)
	}
	return out.String()
}

// Of <linux/seccomp.h>.
type (
	notification struct {
		id         uint64
		pid, flags uint32
		nr         int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	response struct {
		id    uint64
		val   int64
		err   int32
		flags uint32
	}
	addFD struct {
		id                       uint64
		flags, from, to, toFlags uint32
	}
)

// serve answers until the last process that asks has ended.
func (d *kvmDouble) serve() error {
	defer unix.Close(d.listener)
	for {
		fds := []unix.PollFd{{Fd: int32(d.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return err
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			return nil
		}
		var n notification
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(d.listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); e != 0 {
			continue // it was killed meanwhile
		}
		if err := d.answer(n); err != nil && err != unix.ENOENT {
			return err
		}
	}
}

func (d *kvmDouble) answer(n notification) error {
	r := response{id: n.id}
	if n.nr == unix.SYS_OPENAT {
		switch name := d.text(n, n.args[1]); name {
		case "/proc/cpuinfo":
			return d.give(n, []byte(d.cpuinfo))
		case "/dev/kvm":
			if d.mode == "forbidden" {
				r.err = -int32(unix.EACCES)
				return d.send(r)
			}
			return d.give(n, nil)
		}
		r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		return d.send(r)
	}
	switch uint32(n.args[1]) {
	case 0xae01: // KVM_CREATE_VM
		if d.mode == "full" {
			r.err = -int32(unix.ENOMEM)
			return d.send(r)
		}
		d.opened++
		return d.give(n, nil)
	case 0x4020ae46: // KVM_SET_USER_MEMORY_REGION
		d.mem = binary.LittleEndian.Uint64(d.read(n, n.args[2]+24, 8))
	case 0xae41: // KVM_CREATE_VCPU
		return d.give(n, make([]byte, 4096))
	case 0xae04: // KVM_GET_VCPU_MMAP_SIZE
		r.val = 4096
	case 0x8138ae83: // KVM_GET_SREGS
	case 0x4138ae84: // KVM_SET_SREGS
		d.sregs = d.read(n, n.args[2], 312)
	case 0x4090ae82: // KVM_SET_REGS
		d.rip = binary.LittleEndian.Uint64(d.read(n, n.args[2]+128, 8))
	case 0xae80: // KVM_RUN
		if d.mode == "hangs" {
			return nil
		}
		var reason [4]byte
		binary.LittleEndian.PutUint32(reason[:], d.execute(n))
		if _, err := unix.Pwrite(d.run, reason[:], 8); err != nil {
			return err
		}
	default:
		r.err = -int32(unix.ENOTTY)
	}
	return d.send(r)
}

// execute does what a CPU does with guest's loop, and returns why it stopped.
func (d *kvmDouble) execute(n notification) uint32 {
	const hlt, shutdown = 5, 8
	le := binary.LittleEndian
	cr3, cr4 := le.Uint64(d.sregs[240:]), le.Uint64(d.sregs[248:])
	cr0, efer := le.Uint64(d.sregs[224:]), le.Uint64(d.sregs[264:])
	if cr0&(1<<31|1) != 1<<31|1 || cr4&(1<<5) == 0 || efer&(1<<8|1<<10) != 1<<8|1<<10 {
		return shutdown // not in long mode
	}
	entry := func(table uint64) uint64 { return le.Uint64(d.read(n, d.mem+table, 8)) }
	page := entry(entry(entry(cr3)&^0xfff) &^ 0xfff)
	if page&(1<<7|1) != 1<<7|1 {
		return shutdown // no large page at 0
	}
	code := d.read(n, d.mem+page&^0x1fffff+d.rip, 64)
	ecx, zero := uint32(0), false
	for at := 0; at < len(code)-5; {
		switch {
		case code[at] == 0xb9: // mov ecx
			ecx = le.Uint32(code[at+1:])
			at += 5
		case code[at] == 0xff && code[at+1] == 0xc9: // dec ecx
			ecx--
			zero = ecx == 0
			at += 2
		case code[at] == 0x75: // jnz
			to := int8(code[at+1])
			if at += 2; !zero {
				at += int(to)
			}
		case code[at] == 0xf4:
			if d.mode == "triple fault" {
				return shutdown
			}
			return hlt
		default:
			return shutdown
		}
	}
	return shutdown
}

// read reads memory of the process that asks.
func (d *kvmDouble) read(n notification, at uint64, size int) []byte {
	b := make([]byte, size)
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", n.pid))
	if err != nil {
		return b // it has ended
	}
	defer f.Close()
	f.ReadAt(b, int64(at))
	return b
}

// text reads a file name of the process that asks.
func (d *kvmDouble) text(n notification, at uint64) string {
	var name []byte
	for len(name) < unix.PathMax {
		b := d.read(n, at+uint64(len(name)), 1)
		if b[0] == 0 {
			break
		}
		name = append(name, b[0])
	}
	return string(name)
}

// give answers with a file that has contents.
func (d *kvmDouble) give(n notification, contents []byte) error {
	fd, err := unix.MemfdCreate("double", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	if _, err := unix.Pwrite(fd, contents, 0); err != nil {
		return err
	}
	if uint32(n.args[1]) == 0xae41 {
		d.run = fd
	} else {
		defer unix.Close(fd)
	}
	a := addFD{n.id, unix.SECCOMP_ADDFD_FLAG_SEND, uint32(fd), 0, unix.O_CLOEXEC}
	return d.tell(unix.SECCOMP_IOCTL_NOTIF_ADDFD, unsafe.Pointer(&a))
}

func (d *kvmDouble) send(r response) error {
	return d.tell(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r))
}

func (d *kvmDouble) tell(request uintptr, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(d.listener), request, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

// What /dev/kvm answers, and what becomes of a machine.
func TestKVM(t *testing.T) {
	const loop = "loop under KVM: exit status 1: guest: kvmloop: "
	for _, test := range []struct {
		name, cpuinfo, qemu string
		want                string // of the first probe
		opened              int
	}{
		{"works", kvmFlags, "", "true ", 1},
		{"hangs", kvmFlags, "", "false a loop under KVM did not end in ", 1},
		{"triple fault", kvmFlags, "", "false a " + loop + "KVM_RUN: exit reason 8, want 5", 1},
		{"full", kvmFlags, "", "false a " + loop + "KVM_CREATE_VM: cannot allocate memory", 0},
		{"forbidden", kvmFlags, "", "false open /dev/kvm: permission denied", 0},
		{"emulated", "flags\t\t: fpu\n", "", "false the CPU has neither svm nor vmx", 0},
		{"no boot", kvmFlags, "dies", "false a kernel under KVM: exit status 1: cannot set up guest memory", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			double(t, test.qemu)
			d := &kvmDouble{mode: test.name, cpuinfo: test.cpuinfo}
			out := d.test(t, "TestUnderKVM", underKVM+"="+test.name, "GUEST="+programs.guest)
			first := regexp.MustCompile(`(?m)^probe (.*)$`).FindStringSubmatch(out)
			if first == nil || !strings.HasPrefix(first[1], test.want) {
				t.Errorf("the probe says %q, want %q\n%s", first, test.want, out)
			}
			if d.opened != test.opened {
				t.Errorf("%d machines were made in /dev/kvm, want %d", d.opened, test.opened)
			}
			accel := "tcg"
			if test.name == "works" {
				accel = "kvm"
			}
			if want := "machine " + accel + "\n"; test.qemu == "" && !strings.Contains(out, want) {
				t.Errorf("%s\nwant %q", out, want)
			}
			// A machine under KVM goes its own way in qemu's arguments.
			for _, word := range []string{"accel=kvm", "-cpu host"} {
				if test.qemu == "" && strings.Contains(out, word) != (accel == "kvm") {
					t.Errorf("%q in qemu's arguments, machine is %s\n%s", word, accel, out)
				}
			}
			for _, word := range []string{"accel=tcg", "rodata=off", "tsc=reliable"} {
				if accel == "kvm" && strings.Contains(out, word) {
					t.Errorf("qemu has %q under KVM\n%s", word, out)
				}
			}
		})
	}
}

// TestUnderKVM is TestKVM's process: it asks twice, and starts a machine.
func TestUnderKVM(t *testing.T) {
	mode := os.Getenv(underKVM)
	if mode == "" {
		t.Skip("it is TestKVM's")
	}
	if mode != "hangs" {
		vm.SetProbeTime(t, time.Minute) // by a double, and on a busy host
	}
	c := double(t, "")
	os.Setenv("PATH", strings.SplitN(os.Getenv("PATH"), ":", 2)[1]) // the qemu of TestKVM
	c.Guest, c.Cache, c.Accel = os.Getenv("GUEST"), t.TempDir(), ""
	ok, why := vm.ProbeKVM(t.Context(), c)
	fmt.Printf("\nprobe %v %s\n", ok, why)
	if again, then := vm.ProbeKVM(t.Context(), c); again != ok || then != why {
		t.Errorf("ProbeKVM = %v, %q, and then %v, %q", ok, why, again, then)
	}
	m, err := vm.Start(t.Context(), c)
	if err != nil {
		return // TestStartFails
	}
	args, err := os.ReadFile("/proc/" + strconv.Itoa(m.Process()) + "/cmdline")
	if err != nil {
		t.Error(err)
	}
	fmt.Printf("machine %s\nqemu %s\n", m.Accel(), bytes.ReplaceAll(args, []byte{0}, []byte(" ")))
	if err := m.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
