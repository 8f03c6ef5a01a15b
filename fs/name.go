package fs

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// checkName reports what keeps 9P from carrying a name: it is a string of
// UTF-8 (intro(5)), and neither ".", ".." nor with a slash or a NUL in it.
func CheckName(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("%q cannot be the name of a file", name)
	case !utf8.ValidString(name):
		return fmt.Errorf("the name %q is not UTF-8: 9P cannot carry it", name)
	case len(name) > maxName:
		return fmt.Errorf("the name %.60q... is over %d bytes", name, maxName)
	}
	return nil
}

// maxName is Linux's NAME_MAX.
const maxName = 255
