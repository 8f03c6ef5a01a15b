package main

import (
	"context"
	"errors"
	"io"
	"strings"

	"9ci/cmd/internal/manual"
	"9ci/cmd/internal/show"
	"9ci/cmd/internal/version"
)

// helpCommand prints what the manual says of a topic, or writes manuals and completions
// for other programs.
func helpCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("help")
	man := f.String("man", "", "")
	shell := f.String("completion", "", "")
	words := f.Bool("complete", false, "")
	if err := parseFlags(f, args, 0, -1); err != nil {
		return exitError, err
	}
	if (*man != "" || *shell != "") && (f.NFlag() > 1 || f.NArg() > 0) {
		return exitError, errors.New("-man and -completion stand alone")
	}
	switch {
	case *man != "":
		t, err := version.Time()
		if err != nil {
			return exitError, err
		}
		return 0, manual.Write(*man, t, version.String())
	case *shell != "":
		return 0, printCompletion(*shell)
	case *words:
		return complete(ctx, f.Args()), nil
	}
	text, err := manual.Help("9ci", strings.Join(f.Args(), " "))
	if err != nil {
		return exitError, err
	}
	_, err = io.WriteString(show.Out.Words(), text)
	return 0, err
}

// versionCommand prints the revision of the sources.
func versionCommand(_ context.Context, args []string) (int, error) {
	if err := parseFlags(newFlags("version"), args, 0, 0); err != nil {
		return exitError, err
	}
	_, err := show.Out.Printf("9ci %s\n", version.String())
	return 0, err
}
