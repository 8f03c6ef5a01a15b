//go:build !race

package store

const readers = 10000
