//go:build race

package fs

// The race detector takes 8128 goroutines at most.
const readers = 5000
