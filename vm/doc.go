// Package vm runs commands in machines that are made for one purpose and
// then thrown away.
//
// A Machine is a qemu process that runs the core OS: an Image, which
// EnsureImage builds from Debian's packages and keeps in the user's
// cache. Its PID 1 is the program guest, which speaks the protocol of
// package vm/guest on a virtio-serial port: so Run runs a command in the
// machine much as os/exec runs one here.
//
// A machine has the architecture of its image, amd64 or arm64, and EnsureImage's is
// this host's unless it is told another: qemu emulates that. A board has all in
// which the two differ.
//
// A machine leaves nothing: what it writes goes to memory or to a disk
// that has no name, its sockets have none either, and qemu dies with the
// process that started it. A machine sees those directories of the host that
// it is given as Shares, by 9P, and can write none of them. It hands over the
// output of its commands, and what it writes to a disk of its own, of a fixed
// size (Config.Outbox). The user's cache keeps what is the same in every
// machine: images, and machines that were saved when they had just started,
// from which others go on (Config.Cold).
//
// The host trusts no word of a machine. What a guest sends is bounded and
// checked; a machine that floods, stalls, panics or dies ends with an error
// that says so, and never takes its host along.
package vm
