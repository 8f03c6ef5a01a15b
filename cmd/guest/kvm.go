//go:build linux && (amd64 || arm64)

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

// The machine's memory in bytes, all of it one large page, and where its code is.
const (
	kvmSize = 2 << 20
	kvmCode = 0x4000
)

// kvmLoop runs a loop in a KVM machine of one page of code and prints how
// long that took. If it hangs, its parent must kill it.
func kvmLoop([]string) error {
	machine, cpu, mem, run, err := newKVM()
	if err != nil {
		return err
	}
	writeLoop(mem)
	if err := enterLoop(machine, cpu); err != nil {
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
	if reason := binary.LittleEndian.Uint32(run[8:]); reason != kvmLoopExit {
		return fmt.Errorf("KVM_RUN: exit reason %d, want %d", reason, kvmLoopExit)
	}
	fmt.Println(time.Since(start))
	return nil
}

// newKVM makes a machine: it, its CPU, its memory, and what the CPU shares with
// this process. All of it lasts as long as the process.
func newKVM() (machine, cpu int, mem, run []byte, err error) {
	kvm, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, nil, nil, &os.PathError{Op: "open", Path: "/dev/kvm", Err: err}
	}
	machine, err = ioctl(kvm, kvmCreateVM, nil)
	if err != nil {
		return 0, 0, nil, nil, fmt.Errorf("KVM_CREATE_VM: %w", err)
	}
	mem, err = unix.Mmap(-1, 0, kvmSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, 0, nil, nil, fmt.Errorf("mmap: %w", err)
	}
	region := kvmRegion{size: kvmSize, addr: uint64(uintptr(unsafe.Pointer(&mem[0])))}
	if _, err := ioctl(machine, kvmSetMemory, unsafe.Pointer(&region)); err != nil {
		return 0, 0, nil, nil, fmt.Errorf("KVM_SET_USER_MEMORY_REGION: %w", err)
	}
	cpu, err = ioctl(machine, kvmCreateCPU, nil)
	if err != nil {
		return 0, 0, nil, nil, fmt.Errorf("KVM_CREATE_VCPU: %w", err)
	}
	n, err := ioctl(kvm, kvmRunSize, nil)
	if err != nil {
		return 0, 0, nil, nil, fmt.Errorf("KVM_GET_VCPU_MMAP_SIZE: %w", err)
	}
	run, err = unix.Mmap(cpu, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return 0, 0, nil, nil, fmt.Errorf("mmap: %w", err)
	}
	return machine, cpu, mem, run, nil
}

// Of <linux/kvm.h>.
const (
	kvmCreateVM  = 0xae01
	kvmRunSize   = 0xae04
	kvmCreateCPU = 0xae41
	kvmSetMemory = 0x4020ae46
	kvmRun       = 0xae80
)

type kvmRegion struct {
	slot, flags      uint32
	phys, size, addr uint64
}

func ioctl(fd int, req uint, arg unsafe.Pointer) (int, error) {
	r, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg))
	if e != 0 {
		return 0, e
	}
	return int(r), nil
}
