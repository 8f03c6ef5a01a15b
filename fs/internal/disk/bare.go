package disk

import (
	"errors"
	iofs "io/fs"
)

// Bare returns err without the path of this machine that it may name.
func Bare(err error) error {
	var pe *iofs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
