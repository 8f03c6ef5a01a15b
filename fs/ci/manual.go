package ci

import _ "embed"

// Manual is the source of this package's documentation, which has ci(4), for programs
// that show it.
//
//go:embed doc.go
var Manual string
