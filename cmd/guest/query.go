package main

import (
	"context"
	"encoding/json"
	"os"

	"9ci/mk"
)

// query answers the executor's questions about the mkfile in the current
// directory: it prints, as JSON, its targets, the patterns of its meta-rules
// and the words of the variables named. Backquotes run here, in the machine.
// Where mk cannot read the mkfile its own message is on standard error.
func query(variables []string) error {
	m, err := mk.Parse(context.Background(), mk.Config{Exec: true, Stderr: os.Stderr})
	if err != nil {
		return err
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
	return json.NewEncoder(os.Stdout).Encode(answer)
}
