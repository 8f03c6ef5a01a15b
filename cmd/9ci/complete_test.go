package main

import (
	"slices"
	"strings"
	"testing"
)

// What a word is follows from the synopsis of its command.
func TestSyntaxKind(t *testing.T) {
	for _, test := range []struct{ syntax, args, kind, addr string }{
		{"[-f] [--raw] [rev [target...]]", "", "rev", ""},
		{"[-f] [--raw] [rev [target...]]", "-f,", "rev", ""},
		{"[-f] [--raw] [rev [target...]]", "-", "flag", ""},
		{"[-f] [--raw] [rev [target...]]", "--raw,--r", "flag", ""},
		{"[-f] [--raw] [rev [target...]]", "main,", "target", ""},
		{"[-f] [--raw] [rev [target...]]", "main,a,b,", "target", ""},
		{"[-f] [--raw] [rev [target...]]", "main,-f", "target", ""},
		{"[-l] [-a ADDR] [PATH...]", "-a,", "ADDR", ""},
		{"[-l] [-a ADDR] [PATH...]", "-a,unix!x,", "PATH", "unix!x"},
		{"[-l] [-a ADDR] [PATH...]", "-a=unix!x,", "PATH", "unix!x"},
		{"[-l] [-a ADDR] [PATH...]", "-a,unix!x,-l,a,b,", "PATH", "unix!x"},
		{"[-l] [-a ADDR] [PATH...]", "-nosuch,", "PATH", ""},
		{"[-a ADDR]... [-adopt] [-j N]", "-a,x,-a,", "ADDR", "x"},
		{"[-a ADDR]... [-adopt] [-j N]", "-j,", "N", ""},
		{"[-a ADDR]... [-adopt] [-j N]", "", "", ""},
		{"[-a ADDR] PATH DIR", "", "PATH", ""},
		{"[-a ADDR] PATH DIR", "x,", "DIR", ""},
		{"[-a ADDR] PATH DIR", "x,y,", "", ""},
		{"[-attest] REV|DIR", "", "REV|DIR", ""},
		{"[-fix]", "", "", ""},
		{"", "", "", ""},
	} {
		kind, addr := parseSyntax(test.syntax).kind(strings.Split(test.args, ","))
		if kind != test.kind || addr != test.addr {
			t.Errorf("the last of %q of %q is %q at %q, want %q at %q", test.args, test.syntax, kind, addr, test.kind, test.addr)
		}
	}
}

// Each command is completed with its own flags: the synopsis, from which they come, has
// them all by TestManual.
func TestCandidates(t *testing.T) {
	for _, test := range []struct {
		words string
		want  []string
		files bool
	}{
		{"ver", []string{"verify", "version"}, false},
		{"nosuch,", nil, false},
		{"-", []string{"-f", "-n", "-q", "-v", "-x", "-r", "-R", "-b", "--raw", "-D"}, false},
		{"cat,--", []string{"--raw"}, false},
		{"cat,-", []string{"-a", "--raw"}, false},
		{"image,", []string{"build", "ls", "gc"}, false},
		{"help,-completion,", []string{"bash", "zsh", "fish"}, false},
		{"help,9ci", []string{"9ci", "9ci-tutorial"}, false},
		{"mount,", nil, true},
		{"cp,x,", nil, true},
		{"verify,./", nil, true},
	} {
		t.Chdir(t.TempDir())
		t.Setenv("NAMESPACE", t.TempDir())
		list, files := candidates(t.Context(), strings.Split(test.words, ","))
		if !slices.Equal(list, test.want) || files != test.files {
			t.Errorf("for the last of %q: %q, files %v, want %q, %v", test.words, list, files, test.want, test.files)
		}
	}
}
