//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"unsafe"
)

// Where the page tables are in the machine's memory.
const (
	kvmPML4 = 0x1000
	kvmPDPT = 0x2000
	kvmPD   = 0x3000
)

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

// enterLoop sets the CPU to 64-bit mode, as a kernel would have, and to the
// loop.
func enterLoop(_, cpu int) error {
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
	kvmSetRegs  = 0x4090ae82
	kvmGetSregs = 0x8138ae83
	kvmSetSregs = 0x4138ae84
	kvmLoopExit = 5 // KVM_EXIT_HLT
)

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
