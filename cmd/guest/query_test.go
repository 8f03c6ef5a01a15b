package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// What a mkfile has is listed up to the limit; past it, and where mk cannot read the
// mkfile, mk says what is wrong.
func TestList(t *testing.T) {
	for _, c := range []struct{ mkfile, stdout, stderr string }{
		{"ARTIFACTS=a b\ntest:V: x\n\ttrue\n%.o: %.c\n\ttrue\n", `{"Targets":["test"],"Patterns":["%.o"],"Variables":{"ARTIFACTS":["a","b"]}}`, ""},
		{"ARTIFACTS=`{seq 100}\ntest:V:\n\ttrue\n", "", "mk: mkfile: 1 targets and the 100 words of $ARTIFACTS are 556 bytes, and 9ci takes 100: make them fewer or shorter\n"},
		{"`{seq 100}:V:\n\ttrue\n", "", "mk: mkfile: 100 targets and the 0 words of $ARTIFACTS are 552 bytes, and 9ci takes 100: make them fewer or shorter\n"},
		{"test\n", "", "syntax error; expected one of :<="},
	} {
		t.Chdir(t.TempDir())
		if err := os.WriteFile("mkfile", []byte(c.mkfile), 0o666); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		err := list(&stdout, &stderr, 100, []string{"ARTIFACTS"})
		if (err == errSaid) != (c.stderr != "") || stdout.String() != c.stdout || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%q: %v\nstdout %q, want %q\nstderr %q, want %q", c.mkfile, err, &stdout, c.stdout, &stderr, c.stderr)
		}
	}
}
