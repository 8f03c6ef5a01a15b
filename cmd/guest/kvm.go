//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kvmLoops is how often the loop goes round: about 1 ms on hardware. Some
// emulations of KVM run only a few instructions at full speed.
const kvmLoops = 1_000_000

// Where things are in the machine's memory, all of it one large page.
const (
	kvmPML4 = 0x1000
	kvmPDPT = 0x2000
	kvmPD   = 0x3000
	kvmCode = 0x4000
	kvmSize = 2 << 20
)

// kvmLoop runs a loop in a KVM machine of one page of code and prints how
// long that took. If it hangs, its parent must kill it.
func kvmLoop([]string) error {
	cpu, mem, run, err := newKVM()
	if err != nil {
		return err
	}
	writeLoop(mem)
	if err := enterLong(cpu); err != nil {
		return err
	}
	start := time.Now()
	for {
		_, err := ioctl(cpu, kvmRun, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("KVM_RUN: %w", err)
		}
		break
	}
	if reason := binary.LittleEndian.Uint32(run[8:]); reason != kvmExitHlt {
		return fmt.Errorf("KVM_RUN: exit reason %d, want %d", reason, kvmExitHlt)
	}
	fmt.Println(time.Since(start))
	return nil
}

// newKVM makes a machine: its CPU, its memory, and what the CPU shares with
// this process. All of it lasts as long as the process.
func newKVM() (cpu int, mem, run []byte, err error) {
	kvm, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, nil, nil, &os.PathError{Op: "open", Path: "/dev/kvm", Err: err}
	}
	machine, err := ioctl(kvm, kvmCreateVM, nil)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("KVM_CREATE_VM: %w", err)
	}
	mem, err = unix.Mmap(-1, 0, kvmSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("mmap: %w", err)
	}
	region := kvmRegion{size: kvmSize, addr: uint64(uintptr(unsafe.Pointer(&mem[0])))}
	if _, err := ioctl(machine, kvmSetMemory, unsafe.Pointer(&region)); err != nil {
		return 0, nil, nil, fmt.Errorf("KVM_SET_USER_MEMORY_REGION: %w", err)
	}
	cpu, err = ioctl(machine, kvmCreateCPU, nil)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("KVM_CREATE_VCPU: %w", err)
	}
	n, err := ioctl(kvm, kvmRunSize, nil)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("KVM_GET_VCPU_MMAP_SIZE: %w", err)
	}
	run, err = unix.Mmap(cpu, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("mmap: %w", err)
	}
	return cpu, mem, run, nil
}

// writeLoop writes page tables and the loop.
func writeLoop(mem []byte) {
	const present, large = 3, 1 << 7
	le := binary.LittleEndian
	le.PutUint64(mem[kvmPML4:], kvmPDPT|present)
	le.PutUint64(mem[kvmPDPT:], kvmPD|present)
	le.PutUint64(mem[kvmPD:], 0|present|large)
	copy(mem[kvmCode:], []byte{
		0xb9, 0, 0, 0, 0, // mov ecx, kvmLoops
		0xff, 0xc9, // dec ecx
		0x75, 0xfc, // jnz -2
		0xf4, // hlt
	})
	le.PutUint32(mem[kvmCode+1:], kvmLoops)
}

// enterLong sets the CPU to 64-bit mode, as a kernel would have, and to the
// loop.
func enterLong(cpu int) error {
	var s kvmSregs
	if _, err := ioctl(cpu, kvmGetSregs, unsafe.Pointer(&s)); err != nil {
		return fmt.Errorf("KVM_GET_SREGS: %w", err)
	}
	s.cs = kvmSegment{limit: 0xffffffff, selector: 8, kind: 11, present: 1, s: 1, l: 1, g: 1}
	data := kvmSegment{limit: 0xffffffff, selector: 16, kind: 3, present: 1, db: 1, s: 1, g: 1}
	s.ds, s.es, s.fs, s.gs, s.ss = data, data, data, data, data
	s.cr3, s.cr4, s.cr0, s.efer = kvmPML4, 1<<5, 1<<31|1, 1<<8|1<<10 // PAE; PG, PE; LME, LMA
	if _, err := ioctl(cpu, kvmSetSregs, unsafe.Pointer(&s)); err != nil {
		return fmt.Errorf("KVM_SET_SREGS: %w", err)
	}
	regs := kvmRegs{rip: kvmCode, rflags: 2}
	if _, err := ioctl(cpu, kvmSetRegs, unsafe.Pointer(&regs)); err != nil {
		return fmt.Errorf("KVM_SET_REGS: %w", err)
	}
	return nil
}

// Of <linux/kvm.h>.
const (
	kvmCreateVM  = 0xae01
	kvmRunSize   = 0xae04
	kvmCreateCPU = 0xae41
	kvmSetMemory = 0x4020ae46
	kvmRun       = 0xae80
	kvmSetRegs   = 0x4090ae82
	kvmGetSregs  = 0x8138ae83
	kvmSetSregs  = 0x4138ae84
	kvmExitHlt   = 5
)

type kvmRegion struct {
	slot, flags      uint32
	phys, size, addr uint64
}

type kvmSegment struct {
	base                                 uint64
	limit                                uint32
	selector                             uint16
	kind, present, dpl, db, s, l, g, avl uint8
	unusable, _                          uint8
}

type kvmSregs struct {
	cs, ds, es, fs, gs, ss, tr, ldt kvmSegment
	gdt, idt                        [2]uint64
	cr0, cr2, cr3, cr4, cr8         uint64
	efer, apicBase                  uint64
	interrupts                      [4]uint64
}

type kvmRegs struct {
	general     [16]uint64
	rip, rflags uint64
}

func ioctl(fd int, req uint, arg unsafe.Pointer) (int, error) {
	r, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg))
	if e != 0 {
		return 0, e
	}
	return int(r), nil
}
