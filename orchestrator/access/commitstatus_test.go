package access

import (
	"strings"
	"testing"

	"9ci/fs/ci"
)

// What an executor says is kept within what forges take.
func TestStatusContext(t *testing.T) {
	for text, want := range map[string]string{
		"arch=amd64\ntarget=test\n":            "9ci/amd64",
		"arch=''\ntarget=''\n":                 "9ci",
		"":                                     "9ci",
		"arch=amd64\ntarget='a b'\n":           "9ci/amd64 a b",
		"arch='a\x1b[31m'\ntarget='é\u202e'\n": "9ci/a?[31m é?",
		"target='" + strings.Repeat("é", 100) + "'\n":             "9ci " + strings.Repeat("é", 46) + "…",
		"arch=amd64\ntarget='" + strings.Repeat("x", 500) + "'\n": "9ci/amd64 " + strings.Repeat("x", 87) + "…",
	} {
		k, err := ci.ParseAttrs([]byte(text))
		if got := StatusContext(k); err != nil || got != want || len(got) > maxContext {
			t.Errorf("StatusContext(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
}
