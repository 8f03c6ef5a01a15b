package main

import (
	"context"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"9ci/cmd/internal/config"
)

var update = flag.Bool("update", false, "write the variables of package config into doc.go")

// The manual has every command with its arguments, every flag of run and
// every variable, and no others.
func TestManual(t *testing.T) {
	b, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	manual := string(b)
	synopsis, _, _ := strings.Cut(manual, "# Description")
	var lines []string
	for _, c := range commands() {
		lines = append(lines, "\t"+strings.Replace(c.synopsis(), "9ci run", "9ci [run]", 1)+"\n")
	}
	if want := strings.Join(lines, ""); !strings.Contains(synopsis, want) {
		t.Errorf("the synopsis is not\n%s", want)
	}

	documented := regexp.MustCompile(`(?m)^\t-(-?\w+)\b`).FindAllStringSubmatch(manual, -1)
	var o runFlags
	defined := o.flags()
	for _, m := range documented {
		if name := strings.TrimPrefix(m[1], "-"); defined.Lookup(name) == nil {
			t.Errorf("the manual has a flag -%s that run has not", name)
		}
	}
	n := 0
	defined.VisitAll(func(*flag.Flag) { n++ })
	if n != len(documented) {
		t.Errorf("run has %d flags, the manual %d", n, len(documented))
	}

	if got, want := section(manual, config.Manual()); got != want {
		if !*update {
			t.Errorf("the variables are\n%s\nand not (go test ./cmd/9ci -update writes it)\n%s", got, want)
		} else if err := os.WriteFile("doc.go", []byte(strings.Replace(manual, got, want, 1)), 0o666); err != nil {
			t.Error(err)
		}
	}
}

// section returns the part of the manual that lists the variables, and what it is to
// be.
func section(manual, want string) (string, string) {
	want = strings.TrimSuffix(want, "\n")
	first, _, _ := strings.Cut(want, "\n")
	_, rest, _ := strings.Cut(manual, first)
	rest, _, _ = strings.Cut(rest, "\n\nA file has lines")
	return first + rest, want
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"rnu"}, {"run", "-nosuch"}, {"ls", "-nosuch"}, {"cat"}, {"cp", "a"}, {"verify"}, {"image", "burn"}, {"login", "a", "b"}, {"logout", "-f"}, {"whoami", "a", "b"}, {"vouch", "a", "b"}, {"verify", "-attest", "a", "b"}, {"verify", "-attest"}} {
		code, err := dispatch(context.Background(), args)
		if code != exitError || err == nil || !strings.Contains(err.Error(), "usage: 9ci") && !strings.Contains(err.Error(), "want") {
			t.Errorf("9ci %v: status %d, %v, want 125 and the usage", args, code, err)
		}
	}
}
