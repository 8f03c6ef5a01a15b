package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/show"
)

// initFS holds the texts that init writes. In their templates an action is in [[ ]]: the
// braces are those of the forges.
//
//go:embed init
var initFS embed.FS

// An initFile is a file that init writes if it is not there.
type initFile struct {
	name    string
	mode    iofs.FileMode
	text    string
	instead string // what the user is told to do if it is there and another; or ""
}

// initCommand writes the files that a repository needs to be run, and leaves those
// that exist; or, with -hooks, it writes the hooks of this clone.
func initCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("init")
	withHooks := f.Bool("hooks", false, "")
	if err := parseFlags(f, args, 0, 0); err != nil {
		return exitError, err
	}
	rp, err := repo.Open(ctx, ".")
	if err != nil {
		return exitError, err
	}
	if rp.Bare {
		return exitError, fmt.Errorf("%s is a bare repository: init wants a work tree to write to", rp.Top)
	}
	if *withHooks {
		return installHooks(ctx, rp)
	}
	// A symbolic link in the repository must not lead a write out of it.
	top, err := os.OpenRoot(rp.Top)
	if err != nil {
		return exitError, err
	}
	defer top.Close()
	mkfile, known := mkfileFor(top.FS())
	files := []initFile{
		{name: "mkfile", mode: 0o666, text: mkfile},
		{name: ".env", mode: 0o600, text: config.Example()},
	}
	shims, err := shimFiles(ctx, rp)
	if err != nil {
		return exitError, err
	}
	for _, f := range append(files, shims...) {
		switch err := writeNew(top, f.name, f.mode, f.text); {
		case errors.Is(err, iofs.ErrExist):
			tellWritten(f.name, false)
			if there, err := top.ReadFile(f.name); f.instead != "" && (err != nil || string(there) != f.text) {
				say("%s is there already: %s", f.name, f.instead)
			}
		case err != nil:
			return exitError, err
		default:
			tellWritten(f.name, true)
			if f.name == "mkfile" && !known {
				say("no file at the top of this repository says how it is tested, so the mkfile's test does nothing yet: write there what it does")
			}
		}
	}
	return 0, nil
}

// tellWritten prints the name of a file that init has written, or that was there.
func tellWritten(name string, wrote bool) {
	if wrote {
		show.Out.Printf("%s\n", name)
	} else {
		show.Out.Printf("%s is there already\n", name)
	}
}

// writeNew makes a file and the directories on the way to it. If the name is taken,
// the error is iofs.ErrExist.
func writeNew(root *os.Root, name string, mode iofs.FileMode, text string) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return err
	}
	w, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = w.WriteString(text)
	return errors.Join(err, w.Close())
}

// initText returns a file of initFS.
func initText(name string) string {
	text, err := initFS.ReadFile("init/" + name)
	if err != nil {
		panic(err) // it is not in the program
	}
	return string(text)
}

// fill returns a file of initFS as a template filled with data.
func fill(name string, data any) string {
	t := template.Must(template.New(name).Delims("[[", "]]").Funcs(template.FuncMap{
		"quote": func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" },
		"indent": func(s string) string {
			return "        " + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n        ")
		},
	}).Parse(initText(name)))
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		panic(err)
	}
	return b.String()
}
