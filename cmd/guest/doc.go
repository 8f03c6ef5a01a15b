// Guest is PID 1 of 9ci's machines.
//
//	guest
//	guest serve
//	guest kvmloop
//	guest mkquery [VARIABLE...]
//	guest env PROGRAM [ARG...]
//
// As PID 1 it loads the modules of its initramfs, waits for a host on the
// virtio-serial port ci.agent, makes the core OS its root as that host
// asks, and then runs commands for it: the protocol is that of package
// 9ci/vm/guest. What it has to say goes to the console.
//
// Guest serve speaks the same protocol on its standard input, a socket,
// as an ordinary process of an ordinary system: a machine for tests.
//
// Guest kvmloop runs a long loop in a KVM machine of its own making, and
// says how long that took. It is for package vm, which kills it where
// /dev/kvm opens and does not work.
//
// Guest mkquery prints, as JSON, the targets, the patterns and the variables
// named of the mkfile in the current directory. It runs its backquotes.
//
// Guest env reads variables from descriptor 3, NAME=VALUE each ended by a NUL,
// and becomes PROGRAM with these in its environment: so secrets get into a
// container, and into no file of podman's.
//
// # Files
//
//	/layer                        in the initramfs: goes over the core OS
//	/modules                      those of the core OS's kernel that a root needs, and what needs what (load)
//	/usr/lib/plan9/bin/mk         9ci's, of that layer
//	/usr/lib/9ci/guest            guest itself, for its other commands
//	/src /var/lib/containers      on the guest's own disk
//
// # Exit status
//
// As PID 1, none: the kernel panics. Else 0, or 1 with a message on
// standard error.
package main
