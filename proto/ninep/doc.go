// Package ninep speaks 9P: a server core for 9P2000 and 9P2000.L on one
// listener, and a client that turns a connection into an fs.Dir again.
//
// The words are those of the Plan 9 manual, section 5: a client sends
// T-messages and gets R-messages; a fid is the client's number for a file,
// a tag its number for a request, a qid the server's name for a file.
//
// The core answers requests in the order they arrive, on one goroutine a
// connection, and sends the replies of a burst in one write; so a client may
// send walk, open, read and clunk on a fid of its choice in one go. A read of
// a live file (one whose qid.vers is 0) waits on a goroutine of its own. Any
// other operation that takes longer than patience loses the connection to a
// fresh goroutine and goes on by itself, and what follows on its fids waits
// for it; so no operation of a tree stalls its client.
//
// Tflush cancels a request's context, and the flushed request is never
// answered, unless its effect had happened: then its reply goes before
// Rflush. A hangup or a Tversion cancels everything.
//
// 9fans.net/go/plan9 gives the words of 9P2000 (types, Qid, Perm, Dir), and
// its codec is the judge of ours in tests. It decodes no frame of a peer: it
// prints to standard error what it cannot read. github.com/hugelgupf/p9 gives
// a conformance test and a client to test against. Its Client is not what
// Import is made of: it has no Tflush, so a read of a live file through it
// could not be cancelled, and it waits for each answer, so a file costs four
// round trips.
package ninep
