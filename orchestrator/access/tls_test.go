package access

import (
	"testing"

	"9ci/orchestrator/internal/wire"
)

// A pattern matches identities and nothing else, and options may hold commas.
func TestParseNameLine(t *testing.T) {
	for _, test := range []struct {
		line, uri string
		match, ok bool
	}{
		{`ci:box`, "ci:box", true, true},
		{`namespace="github.com/a/b,github.com/c/d",read ci:box-*`, "ci:box-1", true, true},
		{`read, ci:box`, "ci:box", true, false},
		{`ci:*`, "ci:a/b", false, true},
		{`ci:a/...`, "ci:a/b/c", true, true},
		{`spiffe://example.org/...`, "spiffe://example.org/x/y", true, true},
		{`spiffe://example.org/...`, "spiffe://example.com/x", false, true},
		{`spiffe://*/ci`, "spiffe://a.b/ci", true, true},
		{`namespace="x/y/z"`, "ci:box", false, false},
		{`box`, "ci:box", false, false},
		{`ci:[ab]`, "ci:a", false, false},
		{`...`, "ci:a", false, false},
	} {
		l, err := parseNameLine(test.line)
		if (err == nil) != test.ok || l.pattern.Match(test.uri) != test.match {
			t.Errorf("parseNameLine(%q) = %+v, %v; %s: want match %t, ok %t", test.line, l, err, test.uri, test.match, test.ok)
		}
	}
}

func FuzzParseNameLine(f *testing.F) {
	f.Add(`namespace="github.com/alice/*",read ci:box-*`)
	f.Add(`expiry-time="20990101Z" spiffe://example.org/ci/...`)
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parseNameLine(text)
		if err != nil {
			return
		}
		if !l.Read && !l.Publish {
			t.Errorf("parseNameLine(%q) grants nothing without an error", text)
		}
		if s := string(l.pattern); wire.CheckURI(s) == nil && !l.pattern.Match(s) {
			t.Errorf("the pattern of %q does not match itself", text)
		}
	})
}
