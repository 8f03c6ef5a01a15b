// Package orchestrator is an SSH-authenticated 9P mux over the trees of the
// executors connected to it.
//
// An executor dials out, announces a name and the namespaces it holds, and
// serves its tree on channels that the orchestrator opens back to it. A client
// that may read a namespace sees one tree: every executor's whole tree below n,
// the best run of a revision below ci, and find, which answers which executors
// have a run with a given key.
//
//   - A key is one line of authorized_keys or a certificate of a trusted
//     authority. Its grant says which namespaces it may read and publish:
//     package access. Of a person that is learned of its forge, where a client
//     enters a namespace.
//   - A member is one connected export. Its generation number tells it from an
//     earlier connection of the same name. A name belongs, within a namespace,
//     to the key that announced it, and for a minute after: another key is
//     refused, and of those that were refused and still ask, the first gets it
//     then. A second executor of that name and key is NAME+2, the next NAME+3:
//     so cloned machines all show.
//   - A share is what one member shows in one namespace: the runs that its
//     index and event files tell of, or of a member whose login is bound to a
//     commit, as a CI job's is, those of that commit.
//
// A connection (conn) is a client, an executor, or both. Each of its sessions
// has a view of the tree, which package door serves. The client's side is
// package dial.
//
// The orchestrator believes nothing that an executor says of itself: it checks
// names in both directions, every request has an end, and an executor that
// replays a run verifies it. What is absent and what is forbidden answer alike.
//
// State is a directory of plain files: host keys, authorized_keys, revoked keys, rules
// for addresses, and the files of package access: those of the orchestrator's own
// authority and its tokens, what is public, and those for TLS. All else is rebuilt from the executors
// that are connected.
//
// # Wire
//
// SSH (RFC 4251 to 4254) with what OpenSSH adds, and names of 9ci's own. A client
// announces an export by the global request announce@9ci, whose payload is
// attr=value lines (name, namespaces, address, proof; adopts=1 if it adopts the
// passed runs of others; instance, boot and had), and withdraws it by withdraw@9ci
// with the name. The answer has generation and name, the name below n. The status
// of a namespace names those that adopt: an executor that is to leave waits until
// find has the score of its run at one of them. The proof is an SSHSIG (namespace
// announce@9ci), in base64, by the key that signs the executor's runs, of
// attr=value lines: session, the identifier of the connection in hexadecimal; host,
// the fingerprint of the orchestrator's host key; namespaces, sorted; and name.
// What logs in may be another key, or a certificate.
//
// Instance is a random word that a process keeps when it connects again, boot one of
// this start of the machine, and had the name by which the process was shown last. The
// same instance takes its old connection's place at once. Another one takes the name
// of an executor that does not answer within 5 s and, within 45 s after a connection
// broke, that of one of the same boot; later, any that is free. Else it gets a number,
// and the executor that has the name is told by the request second@9ci, whose payload
// is attr=value lines: name, and second, the name of the other. Stock ssh says neither.
//
// An orchestrator that is about to end sends all clients the global request
// stopping@9ci, and from then on refuses channels and announcements as busy; what is
// under way goes on for a while. An executor connects again once its connection has
// ended.
//
// The orchestrator opens channels of type 9p-export@9ci, each a 9P connection to
// the export; ssh@9ci, to the executor's own SSH server; and door@9ci, which asks
// for the way in there. All carry the name, the namespace that will be attached (""
// for any of the export's), the requester (the fingerprint of a key, or a principal
// and the fingerprint of its authority), the announcement's generation, how many
// milliseconds the orchestrator waits for the answer, and the key or certificate
// that logged in, by which an executor knows its owner. On one connection there are
// 64 channels, and 256 of type door@9ci besides. The owner and the first few
// requesters have 9p-export channels of their own; all others share some, whose
// requester is "orchestrator".
//
// A client opens ssh@9ci and door@9ci too, with the namespace and the name of an
// executor. If the client may read the namespace, the orchestrator opens the same to
// the executor on the client's behalf, and splices the two. The answer on door@9ci is
// attr=value lines, to the end of the executor's side: key, the host key of the
// executor's SSH server, and if that has an address of its own, address and user. As
// long as the channel is open, the requester's key may log in there as that user, and
// sees that namespace alone. When the client, its right to read, the executor or the
// orchestrator goes, the channel is closed, and so are the connections that it let
// in. On either way the client proves its key to the executor itself, and only the
// executor's own key is the owner's: what the orchestrator says of the requester
// makes nobody the owner there.
//
// A client opens a channel find@9ci, which carries a namespace and a question as it
// is written to the file find, and reads the answer from it up to the end of file.
// An empty line ends the answer: without it the connection was lost before all had
// come. So an answer is one round trip away, and eight from a start without a
// connection. An intent lives until the client ends its side of the channel, which
// a client that waits no more does too. A namespace that is absent or forbidden is
// refused as SSH_OPEN_CONNECT_FAILED. Any channel over a limit is refused as
// SSH_OPEN_RESOURCE_SHORTAGE, and is to be asked for again.
//
// A client asks what the forge was told of how the runs of a commit ended by a channel
// told@9ci, which carries a namespace and the whole name of the commit. The answer has the
// lines of the command told (package report), and ends as that of find does. It is no
// global request: what a person may read may have to be asked of a forge first, and until
// then a connection answers no other request. A namespace is refused as by find, and what
// is no commit as SSH_OPEN_ADMINISTRATIVELY_PROHIBITED, with words for people. An
// orchestrator that is older than the channel refuses it as SSH_OPEN_UNKNOWN_CHANNEL_TYPE.
//
// A client with a token, of a repository or of a CI job, gets a certificate for its key:
// it logs in as the user join, by any key of its own, executes login, and writes the
// token to the standard input of that, and its end. On standard output comes the
// certificate, a line as in authorized_keys, and on standard error a line for people.
// Exit status 1 is of a token that lets the key in nowhere, and 75 of one that may be
// tried again. The token of a CI job is made out to the audience HOST:FINGERPRINT, with
// the name of the orchestrator and the SHA256 fingerprint of the key.
//
// A person has no token. If standard input ends with nothing, or nothing comes for two
// seconds, login prints a URL and a code on standard error, waits until a person has
// approved the key on the page, for ten minutes at most, and then prints the certificate.
// The command page, without arguments, prints the URL of the page. With PORT and STATE it
// prints a URL for a browser on the client's machine, which is sent to
// http://127.0.0.1:PORT/?code=CODE&state=STATE when the key is approved (error= in the
// place of code= when it is refused); on the same connection the client then executes
// login, and writes code_CODE where others have a token.
//
// The user join may do nothing else, and counts as half-open until its token is known or
// it waits for a person; any other user's name means nothing.
//
// A connection ends with its certificate, unless the client has renewed that: by the
// global request renew@9ci, whose payload is the next certificate as it travels, of the
// same key, authority and principal, which may do the same. Nothing that is open notices.
// A person's connection may send it empty: the orchestrator then makes the next certificate,
// and its answer's payload is that, unless the account's session has ended.
// Of a connection that is ended, because a certificate has or because an operator has
// changed what a key may do, the client is told by ended@9ci, whose payload is the reason,
// and stock ssh on the standard error of its sessions.
//
// After a login the orchestrator sends hostkeys-00@openssh.com, and answers
// hostkeys-prove-00@openssh.com, so that stock ssh learns of all its host keys.
//
// # Wire over TLS
//
// TLS 1.3 (RFC 8446) with a certificate of the client's, whose only URI, ci:NAME or
// spiffe://..., is its identity (package access). What flows is told by the protocol
// that the client names (RFC 7301):
//
//   - 9p, or none: one 9P connection to the mux's tree.
//   - 9p-export, or 9p-export/NAMESPACE[/n/NAME]: the client is the 9P server of an
//     executor. All requesters share this connection.
//   - 9ci, for clients of ours: the server sends one message, which is why it refuses
//     the client, or empty. Then the streams of yamux carry the channels and global
//     requests above (package tlsmux). A stream begins with a message of SSH's form
//     (RFC 4251 §5): string type, and the rest is what the channel is opened with. The
//     answer is uint32 reason, string message; reason 0 opens the channel, any other
//     is of RFC 4254 §5.1. Data follows as it is. The stream of type requests@9ci has
//     the global requests of one side, each string name, boolean want reply, and the
//     rest its payload; the replies are boolean success, and the rest. A message has
//     its length before it, in four bytes, and 256 KiB at most. The channel 9p@9ci is
//     a 9P connection to the mux's tree, in the place of a session with the subsystem.
//     Neither side sends pings of yamux: a peer that does is hung up on.
//
// In the proof of an announcement, session is the tls-exporter value of the connection
// (RFC 9266), and host is empty. The requester of a channel is the identity, with no
// key: that identity is the owner of what it has announced, besides the key of the
// proof. So ssh@9ci and door@9ci are refused to a client over TLS.
//
// All else is stock: the subsystems 9p, sftp and 9p-export, the commands, forwardings
// with -R and jumps with -J.
package orchestrator
