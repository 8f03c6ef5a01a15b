//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"unsafe"
)

// writeLoop writes the loop, which ends with a store to an address that has no memory.
func writeLoop(mem []byte) {
	for i, instruction := range []uint32{
		0x52800000 | kvmLoops&0xffff<<5, // movz w0, #kvmLoops
		0x72a00000 | kvmLoops>>16<<5,    // movk w0, #kvmLoops>>16, lsl #16
		0x71000400,                      // subs w0, w0, #1
		0x54ffffe1,                      // b.ne -4
		0xd2a20001,                      // movz x1, #0x1000, lsl #16
		0xb9000020,                      // str w0, [x1]
	} {
		binary.LittleEndian.PutUint32(mem[kvmCode+4*i:], instruction)
	}
}

// enterLoop makes the CPU one like the host's, without an MMU, and sets it to the loop.
func enterLoop(machine, cpu int) error {
	var target kvmTarget
	if _, err := ioctl(machine, kvmPreferredTarget, unsafe.Pointer(&target)); err != nil {
		return fmt.Errorf("KVM_ARM_PREFERRED_TARGET: %w", err)
	}
	if _, err := ioctl(cpu, kvmInit, unsafe.Pointer(&target)); err != nil {
		return fmt.Errorf("KVM_ARM_VCPU_INIT: %w", err)
	}
	pc := new(uint64)
	*pc = kvmCode
	var pin runtime.Pinner // the kernel finds it by a number
	defer pin.Unpin()
	pin.Pin(pc)
	reg := kvmReg{kvmPC, uint64(uintptr(unsafe.Pointer(pc)))}
	if _, err := ioctl(cpu, kvmSetReg, unsafe.Pointer(&reg)); err != nil {
		return fmt.Errorf("KVM_SET_ONE_REG: %w", err)
	}
	return nil
}

// Of <linux/kvm.h> and arm64's <asm/kvm.h>.
const (
	kvmPreferredTarget = 0x8020aeaf
	kvmInit            = 0x4020aeae
	kvmSetReg          = 0x4010aeac
	kvmPC              = 0x6030_0000_0010_0040 // arm64, 64 bits, core, regs.pc
	kvmLoopExit        = 6                     // KVM_EXIT_MMIO
)

type kvmTarget struct {
	target   uint32
	features [7]uint32
}

type kvmReg struct{ id, addr uint64 }
