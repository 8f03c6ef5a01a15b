package dial

import (
	"strings"
	"testing"
)

// The error of a URL does not repeat it: it may hold a password, in its place or
// by a slip.
func TestParseURL(t *testing.T) {
	for raw, want := range map[string]string{
		"ssh://h":                 "",
		"ssh://join@h:2222/a/b/c": "",
		"ssh://[::1]:22":          "",
		"ssh://u:secret@h":        "it has a password",
		"ssh://u:@h":              "it has a password",
		"ssh://u:secret@x@h":      "it has a password",
		"ssh://u:secret%@h":       "want ssh://HOST",
		"ssh://h:secret":          "want ssh://HOST",
		"ssh://h?secret":          "want ssh://HOST",
		"ssh://h/?":               "want ssh://HOST",
		"ssh://h#secret":          "want ssh://HOST",
		"ssh://h/u:secret@h/b":    "want ssh://HOST",
		"ssh:u:secret@h":          "want ssh://HOST",
		"https://u:secret@h":      "want ssh://HOST",
		"tls://h:5640/a/b/c":      "",
		"tls://[::1]:5640":        "",
		"tls://u:secret@h:1":      "no user",
		"tls://secret@h:1":        "no user",
		"tls://h":                 "no port by default",
		"tls://h:secret":          "want ssh://HOST",
		"secret":                  "want ssh://HOST",
		"":                        "want ssh://HOST",
	} {
		_, err := ParseURL(raw)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("ParseURL(%q): %v, want %q", raw, err, want)
		}
	}
}
