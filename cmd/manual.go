// Package cmd is the sources of the manuals of the programs below, for programs that
// show them: package manual.
package cmd

import "embed"

// Manuals has the manual of each program by its name here. That of a program is its
// package's documentation.
//
//go:embed 9ci/doc.go 9ci/tutorial.md mk/doc.go orchestrator/doc.go
var Manuals embed.FS
