//go:build !amd64

package vm_test

import "errors"

// becomeDoubled fails: the double of KVM is of amd64.
func becomeDoubled() error { return errors.ErrUnsupported }
