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
// a live file (one whose qid.vers is 0) waits on a goroutine of its own. If any
// other operation takes longer than patience (10 ms), a fresh goroutine goes on
// with the connection, and only what follows on the same fids waits for the
// operation. So no operation of a tree stalls its client.
//
// Tflush cancels a request's context. The flushed request is never answered,
// unless it has had its effect: then its reply goes before Rflush. A hangup or a
// Tversion cancels all requests.
//
// What the core has checked before it calls a tree: the file was walked to from
// a root that Attach allowed; each name walked to is not empty, "." or "..", has
// no slash or NUL and at most 255 bytes; the user may search the directories on
// the way and open the file as the mode bits say (fs.Access); a read or a write
// is of a file that is open for it, at an offset below 2^63. A tree that is
// stricter answers iofs.ErrPermission itself. Its errors reach the client as
// enames or as Linux's numbers.
//
// 9fans.net/go/plan9 gives the words of 9P2000 (types, Qid, Perm, Dir), and
// its codec is the judge of ours in tests. It decodes no frame of a peer, since
// it prints to standard error what it cannot read. github.com/hugelgupf/p9 gives
// the numbers of 9P2000.L, a conformance test, and a client to test against.
// Import is not made of its Client, which has no Tflush, so that a read of a
// live file could not be cancelled, and waits for each answer, so that a file
// costs four round trips.
package ninep
