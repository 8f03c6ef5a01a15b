//go:build !amd64

package vm

func tscKHz() int { return 0 }
