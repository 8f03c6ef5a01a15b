// Package wire is what the core, the client and the mux share of 9P: frames,
// their fields, and how they are queued and written.
package wire
