package fs

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckName reports what keeps a tree from having an entry of that name, as 9P
// cannot carry it: a name is 1 to 255 bytes of UTF-8 (intro(5)), neither "."
// nor "..", with no slash and no NUL in it. A door or a format may take fewer
// names.
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

// CheckPlain is CheckName for a name that ends up in text, on a terminal or in another
// file system: it has no control characters either.
func CheckPlain(name string) error {
	err := CheckName(name)
	if err == nil && strings.ContainsFunc(name, unicode.IsControl) {
		err = fmt.Errorf("the name %.200q has a control character in it: not every door can carry it", name)
	}
	return err
}

// maxName is Linux's NAME_MAX.
const maxName = 255
