//go:build race

package store

// The race detector takes 8128 goroutines at most.
const readers = 5000
