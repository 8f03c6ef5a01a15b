package orchestrator

// What 9ci adds to SSH (RFC 4250 §4.6.1: names of our own have an @).
const (
	// A client announces what it exports, and withdraws it by name. The payload
	// of the first is an Announce as text, the reply "generation=N"; a refusal's
	// payload is the reason.
	requestAnnounce = "announce@9ci"
	requestWithdraw = "withdraw@9ci"

	// The orchestrator opens these to an executor: a 9P connection to its tree,
	// and a connection to its own SSH server. Both carry an exportMsg.
	channelExport = "9p-export@9ci"
	channelSSH    = "ssh@9ci"
)

// An exportMsg says for whom the orchestrator opens a channel.
type exportMsg struct {
	Name       string // that was announced
	Aname      string // the namespace that will be attached, or ""
	Requester  string // fs.User's Name: the key's fingerprint, or principal and authority
	Key        string // for channelSSH, the key itself, in wire form
	Generation uint64 // of the announcement it is meant for
	Millis     uint32 // after which the orchestrator gives up waiting for the channel
}

// Payloads of OpenSSH's (RFC 4254 §7 and PROTOCOL).
type (
	forwardTCPMsg struct {
		Addr string
		Port uint32
	}
	forwardUnixMsg struct {
		Path string
	}
	forwardedTCPMsg struct {
		Addr       string
		Port       uint32
		OriginAddr string
		OriginPort uint32
	}
	forwardedUnixMsg struct {
		Path     string
		Reserved string
	}
	directTCPMsg struct {
		Host       string
		Port       uint32
		OriginAddr string
		OriginPort uint32
	}
	exitStatusMsg struct{ Status uint32 }
)
