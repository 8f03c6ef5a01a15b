// Package guest is the protocol between a host and PID 1 of its machine:
// commands run in the machine as if they were the host's children.
//
// It is spoken over one reliable byte stream, in qemu a virtio-serial
// port. A message is
//
//	size[4] type[1] id[4] data[size-9]
//
// with integers little-endian, as in 9P; size counts itself. T-messages
// go to the guest, R-messages to the host:
//
//	Rhello  id=0 version[s]              the guest is there; sent once, first
//	Tprep   id=0 json                    do what all machines of a kind do: type Prepare
//	Rprep   id=0                         done; a machine may be saved now, and resumed many times
//	Tboot   id=0 json                    what this machine is to be: type Boot
//	Rboot   id=0                         it is that
//	Rerror  id errno[4] text             the Tprep, Tboot or Trun of that id failed
//	Trun    id json                      start a command: type Command
//	Rrun    id pid[4]                    it started
//	Tinput  id bytes                     its standard input; no bytes: end of file
//	Rtaken  id count[4]                  it has consumed count of those
//	Rstdout id bytes                     its standard output, or its terminal's
//	Rstderr id bytes                     its standard error
//	Ttaken  id count[4]                  the host has consumed count of the two
//	Tsignal id signal[4]                 to its process group
//	Tresize id rows[2] cols[2]           its terminal's new size
//	Rexit   id code[4] signal[4]         it ended, and all its output was sent; no message of it follows
//	Tping   id                           are you there?
//	Rping   id                           yes
//	Thalt   id=0                         sync, unmount, power off
//
// The host chooses the ids of commands. An id is free again after the
// command's Rexit or Rerror, which is the last message of it to the host;
// the host's own may still be under way, and the guest drops them. In either
// direction a command may have messages of at most Window bytes, headers
// included, that were sent and not yet taken; the counts are of these bytes.
// So a slow reader of one command holds up no other, and neither side holds
// much more than Window for a command.
//
// Neither side trusts the other: a message that breaks these rules, or the
// limits below, ends the connection with an error that says which.
package guest

import "time"

// Version is the text of Rhello. A guest of another version is refused.
const Version = "9ci.guest.1"

// Loopback is a network namespace of the guest in which there is nothing but a
// loopback.
const Loopback = "/run/netns/loopback"

// Limits on what a peer may send.
const (
	MaxSize     = 1 << 20             // of a message, its header included
	MaxData     = 32<<10 - headerSize // bytes in a Tinput, Rstdout or Rstderr: the kernel takes such a message in one write to a port
	Window      = 512 << 10           // bytes of a command's messages sent and not yet taken, in each direction
	MaxCommands = 64                  // commands at once
)

// maxText is the longest error text taken from a guest.
const maxText = 4 << 10

// Message types.
const (
	rHello = iota + 1
	tPrep
	rPrep
	tBoot
	rBoot
	rError
	tRun
	rRun
	tInput
	rTaken
	rStdout
	rStderr
	tTaken
	tSignal
	tResize
	rExit
	tPing
	rPing
	tHalt
)

// Prepare says what is the same in all machines that go on from a saved one.
type Prepare struct {
	Disk bool // the guest writes to its second disk, an ext4, from Boot on; else to memory
}

// Boot says what a machine is to be when it is ready.
type Boot struct {
	Time     time.Time // the host's clock, for the guest's
	Seed     []byte    // secret and new, for the guest's randomness
	Hostname string    // of the machine
	Mounts   []Mount   // made before the first command
	Files    []File    // written before the first command, with mode 0644; missing parents are made
	Env      []string  // NAME=VALUE, for every command; the command's own win
}

// A Mount is a directory of the host, exported read-only under a virtio-9p tag.
type Mount struct {
	Tag    string
	Target string // where it is mounted; made if it is missing
}

// A File comes from the host at boot. All files and the environment together
// must fit into one message.
type File struct {
	Name string // absolute
	Data []byte
}

// A Command says what to run.
type Command struct {
	Args  []string // Args[0] is looked up in the command's PATH
	Dir   string   // "" is /
	Env   []string // added to the guest's; the last of a name wins
	TTY   bool     // run on a terminal of its own
	Rows  uint16   // of the terminal; 0: the kernel's default
	Cols  uint16   // likewise
	Input bool     // Tinput will follow; else standard input is empty
}
