//go:build !race

package fs

const readers = 10000
