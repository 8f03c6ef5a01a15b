// Package wire is what the server, the client and the mux share of 9P: frames
// and their fields, the errors of the protocol and how they travel, the fids of
// a client, and the queue of what is to be written.
package wire
