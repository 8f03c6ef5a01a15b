// Guest is PID 1 of 9ci's machines.
//
//	guest
//	guest serve
//	guest kvmloop
//	guest mkquery MAX [VARIABLE...]
//	guest env PROGRAM [ARG...]
//	guest service NAME PROGRAM [ARG...]
//
// As PID 1 it loads the modules of its initramfs, waits for the host on the
// virtio-serial port ci.agent, makes the core OS its root when the host says
// so, and then runs commands for the host. The protocol is that of package
// 9ci/vm/guest. Messages go to the console.
//
// Guest serve speaks the same protocol on its standard input, a socket,
// as an ordinary process of an ordinary system: a machine for tests.
//
// Guest kvmloop runs a long loop in a KVM machine of its own making, and
// prints how long that took. Package vm runs it, and kills it if /dev/kvm opens
// and does not work.
//
// Guest mkquery prints, as JSON, the targets and patterns of the mkfile in the
// current directory and the words of its variables that are named. It runs the
// backquotes of the mkfile. If the answer has more than MAX bytes, guest says so in
// mk's name and fails.
//
// Guest env reads variables from descriptor 3, NAME=VALUE each ended by a NUL,
// and becomes PROGRAM with these added to its environment. In this way secrets
// get into a container and not into a file of podman's.
//
// Guest service runs PROGRAM in a cgroup of its own, service.NAME, until the last
// process in it has ended: a daemon that leaves PROGRAM behind is still the service. If
// PROGRAM fails, or on a SIGTERM, all processes in the cgroup get a SIGTERM, and after
// ten seconds a SIGKILL.
//
// # Limits
//
// A process of the core OS may open 65536 files, and as root raise that to 1048576. By
// containers.conf(5) podman's containers may too, and have a /dev/shm of the size that
// the core OS has, and as many processes as the machine.
//
// # Files
//
//	/layer                        in the initramfs: goes over the core OS
//	/modules                      in the initramfs: the modules that a root needs, and the list of what each needs (load)
//	/usr/lib/plan9/bin/mk         9ci's mk, of /layer
//	/usr/lib/9ci/guest            guest itself, for its other commands
//	/src /tmp /var/lib/containers /var/lib/ci/artifacts
//	                              on the guest's own disk
//	/run/netns/loopback           a network namespace with nothing but a loopback
//	/etc/containers/containers.conf.d/9ci.conf
//	                              what containers have as the core OS has it
//	/etc/gitconfig                any directory is safe
//
// # Exit status
//
// As PID 1 guest has none: if it fails the kernel panics. Else it is 0, or 1 with
// a message on standard error. Guest env has that of PROGRAM, and so has guest
// service: 128 and the signal's number where a signal ended PROGRAM.
package main
