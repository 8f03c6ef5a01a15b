package disk

import (
	"errors"
	iofs "io/fs"
)

// bare returns an error without the path of this machine.
func Bare(err error) error {
	var pe *iofs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
