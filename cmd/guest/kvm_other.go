//go:build linux && !amd64 && !arm64

package main

import "errors"

func kvmLoop([]string) error { return errors.New("no machine for this architecture") }
