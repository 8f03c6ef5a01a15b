package ci_test

import (
	"strings"
	"testing"

	"9ci/fs/ci"
)

func TestCleanNamespace(t *testing.T) {
	for ns, want := range map[string]string{
		"github.com/alice/hello":              "github.com/alice/hello",
		"GitHub.com/Alice/Hello":              "github.com/alice/hello",
		"Git.Example.org/Alice/Hello":         "git.example.org/Alice/Hello",
		"gitlab.com/a/b/c/d":                  "gitlab.com/a/b/c/d",
		"git.sr.ht/~alice/c++":                "git.sr.ht/~alice/c++",
		"dev.azure.com/o/My%20P/_git/r":       "dev.azure.com/o/my%20p/_git/r",
		"host/srv/größe":                      "host/srv/größe",
		"github.com/alice/.github":            "github.com/alice/.github",
		"local/hello-1a2b3c4d":                "local/hello-1a2b3c4d",
		"example.org/alice/ci":                "example.org/alice/ci",
		"2001:DB8::1/a/b":                     "2001:db8::1/a/b",
		"::1/a/b":                             "::1/a/b",
		"[::1]/a/b":                           "",
		"0::1/a/b":                            "", // another spelling
		"fe80::1%25eth0/a/b":                  "",
		"":                                    "",
		"github.com":                          "",
		"github.com/a":                        "",
		"github.com//b":                       "",
		"github.com/../b":                     "",
		"/github.com/a/b":                     "",
		"github.com/a/b/":                     "",
		"github.com/a/*":                      "",
		"a/b/c d":                             "",
		"a/b/c\n":                             "",
		"a/b/\xff":                            "",
		"a/b/c\u202e":                         "", // turns the direction of what follows
		"a/b/c?token=x":                       "",
		"a/b/c#x":                             "",
		"a/b@x/c":                             "",
		"a:22/b/c":                            "",
		"a/b:x/c":                             "",
		"a/b/c%3Ftoken":                       "",
		"a/b/c%00":                            "",
		"a/b/c%zz":                            "",
		"höst/a/b":                            "",
		"LOCAL/a/b":                           "",
		"ctl/a/b":                             "", // a file of a daemon's root
		"ci/a/b":                              "",
		".artifacts/a/b":                      "", // not a namespace's, beside the stores
		"-x/a/b":                              "",
		"local/a/b":                           "", // would lie in the store of local/a
		"example.org/alice/hello/ci":          "", // in that of example.org/alice/hello
		"example.org/alice/hello/.store":      "",
		"x/" + strings.Repeat("a/", 20) + "b": "",
		"x/y/" + strings.Repeat("a", 256):     "",
	} {
		if got, err := ci.CleanNamespace(ns); got != want || (err == nil) != (want != "") {
			t.Errorf("CleanNamespace(%q) = %q, %v, want %q", ns, got, err, want)
		}
	}
	for name, want := range map[string]string{"hello": "hello", "my work": "my-work", "a@b:c?%41": "a-b-c--41", "": "-", "..": "-", "x\xff": "x-", "ö": "ö"} {
		if got := ci.NamespaceElement(name); got != want {
			t.Errorf("NamespaceElement(%q) = %q, want %q", name, got, want)
		}
	}
	if got := ci.NamespaceElement(strings.Repeat("ö", 200)); len(got) > 200 {
		t.Errorf("NamespaceElement of a long name has %d bytes", len(got))
	}
}
