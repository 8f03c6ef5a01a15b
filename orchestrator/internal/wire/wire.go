// Package wire is what both sides of a connection to an orchestrator share: the
// names and messages that 9ci adds to SSH, and the limits that each side holds
// the other to. doc.go of the package orchestrator describes the wire.
package wire

import (
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"

	"9ci/fs"
)

// What 9ci adds to SSH (RFC 4250 §4.6.1: private names have an @).
const (
	// A client announces what it exports, and withdraws it by name. The payload
	// of the first is an Announce as text, the reply a Joined as text; the payload
	// of a refusal is the reason.
	RequestAnnounce = "announce@9ci"
	RequestWithdraw = "withdraw@9ci"

	// The orchestrator tells all clients so, without a payload and wanting no
	// answer, that it is about to end their connections.
	RequestStopping = "stopping@9ci"

	// The orchestrator tells a client that another executor of the same key has
	// announced the name of an export. The payload is a Second as text.
	RequestSecond = "second@9ci"

	// The orchestrator opens these to an executor: a 9P connection to its tree,
	// and a connection to its own SSH server. Both carry an ExportMsg.
	ChannelExport = "9p-export@9ci"
	ChannelSSH    = "ssh@9ci"

	// ChannelDoor asks an executor for the way in to its own SSH server. The
	// executor answers with a Door as text, and ends its side. As long as the
	// channel is open, the requester's key may enter at the Door's address. The
	// orchestrator opens the channel with an ExportMsg.
	ChannelDoor = "door@9ci"

	// A client opens this for a 9P connection to the mux's tree where there are no
	// SSH sessions: over TLS.
	ChannelImport = "9p@9ci"

	// A client opens this to ask find of a namespace, in one round trip. It
	// carries a FindMsg, and the orchestrator sends the answer down the channel,
	// and AnswerEnd: without it the answer is not whole. An intent lives as long
	// as the channel.
	ChannelFind = "find@9ci"

	// A client opens this to ask what the forge was told of how the runs of a commit
	// ended. It carries a ToldMsg, and the orchestrator sends the answer, a report.Answer
	// as text, as it does that of find. It refuses a client that asks of something else
	// than a commit as SSH_OPEN_ADMINISTRATIVELY_PROHIBITED, with words for people.
	ChannelTold = "told@9ci"
)

// A ReachMsg is what a client opens a ChannelSSH or ChannelDoor with, for the
// orchestrator to open the same to an executor.
type ReachMsg struct {
	Namespace string
	Name      string // of the executor, below n
}

// A FindMsg is what is asked of find.
type FindMsg struct {
	Namespace string
	Question  string // as it is written to the file find
}

// A ToldMsg asks what the forge was told of a commit.
type ToldMsg struct {
	Namespace string
	Commit    string // its whole name
}

// AnswerEnd follows an answer on a ChannelFind or a ChannelTold, and MaxAnswer is how many
// bytes of both a client reads.
const (
	AnswerEnd = "\n"
	MaxAnswer = 1 << 20
)

// An ExportMsg says on whose behalf the orchestrator opens a channel.
type ExportMsg struct {
	Name       string // as it was announced
	Aname      string // the namespace that will be attached, or ""
	Requester  string // the Name of the fs.User: see access.Identity
	Key        string // the requester's key or certificate in wire form, or "" for the orchestrator itself
	Generation uint64 // of the announcement it is meant for
	Millis     uint32 // after which the orchestrator gives up waiting for the channel
}

// MaxChannels is how many channels a side may open on one connection: unread
// data can hold 2 MiB in each.
const MaxChannels = 64

// MaxDoors is how many of them besides may be of type ChannelDoor, which carries
// one message.
const MaxDoors = 256

// ErrBusy is the error of a channel over the limit. It is fs.ErrBusy too.
var ErrBusy = fmt.Errorf("too many channels on this connection: %w", fs.ErrBusy)

// Refuse refuses a channel because of err. The reason tells a limit that is
// reached from all else (RFC 4254 §5.1), so that OpenChannel can.
func Refuse(nc ssh.NewChannel, err error) {
	reason := ssh.ConnectionFailed
	if errors.Is(err, fs.ErrBusy) {
		reason = ssh.ResourceShortage
	}
	nc.Reject(reason, err.Error())
}

// Version is what either side calls itself (RFC 4253 §4.2).
const Version = "SSH-2.0-9ci"

// Ciphers returns the ciphers to offer, best first. AES in counter mode is for
// clients without GCM, such as libssh2 before 1.11. The client's order decides,
// and OpenSSH puts chacha20 first, which costs Go two to three times the CPU of
// AES. So chacha20 is offered only where AES would be slow.
func Ciphers() []string {
	c := []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherAES256CTR, ssh.CipherAES128CTR}
	if !(cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL || cpu.S390X.HasAESGCM) {
		c = append(c, ssh.CipherChaCha20Poly1305)
	}
	return c
}
