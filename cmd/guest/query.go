package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"9ci/mk"
)

// errSaid is the error of a command that has said on standard error what is wrong.
var errSaid = errors.New("said")

// query answers the executor's questions about the mkfile in the current
// directory: args are how many bytes the answer may have, and the names of
// variables. Backquotes run here, in the machine. What is wrong with the mkfile is on
// standard error, in mk's words.
func query(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: guest mkquery MAX [VARIABLE...]")
	}
	most, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	return list(os.Stdout, os.Stderr, most, args[1:])
}

// list prints, as JSON, the targets of a mkfile, the patterns of its meta-rules and
// the words of the variables.
func list(stdout, stderr io.Writer, most int, variables []string) error {
	m, err := mk.Parse(context.Background(), mk.Config{Exec: true, Stderr: stderr})
	if err != nil {
		return errSaid
	}
	answer := struct {
		Targets   []string
		Patterns  []string
		Variables map[string][]string
	}{Targets: m.Targets(), Variables: make(map[string][]string)}
	for _, r := range m.Rules() {
		if r.Meta {
			answer.Patterns = append(answer.Patterns, r.Target)
		}
	}
	for _, name := range variables {
		answer.Variables[name], _ = m.Var(name)
	}
	b, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	if len(b) > most {
		words := 0
		for _, v := range answer.Variables {
			words += len(v)
		}
		fmt.Fprintf(stderr, "mk: mkfile: %d targets and the %d words of $%s are %d bytes, and 9ci takes %d: make them fewer or shorter\n",
			len(answer.Targets)+len(answer.Patterns), words, strings.Join(variables, " $"), len(b), most)
		return errSaid
	}
	_, err = stdout.Write(b)
	return err
}
