package main

import "testing"

func TestSplitNamespace(t *testing.T) {
	for _, test := range []struct{ path, namespace, rest string }{
		{"", "", ""},
		{"local/repo-12345678", "local/repo-12345678", ""},
		{"local/repo-12345678/ci/last/artifacts/ci/f", "local/repo-12345678", "ci/last/artifacts/ci/f"},
		{"local/repo-12345678/none", "local/repo-12345678", "none"},
		{"local/ci/ci/last", "local/ci", "ci/last"},
		{"local/n", "local/n", ""},
		{"GitHub.com/Alice/Hello/ci/last/artifacts/README", "github.com/alice/hello", "ci/last/artifacts/README"},
		{"github.com/ci/n/ci/last", "github.com/ci/n", "ci/last"},
		{"github.com/alice/ci/n/box/index", "github.com/alice/ci", "n/box/index"},
		{"gitlab.com/a/b/c/d", "gitlab.com/a/b/c/d", ""},
		{"gitlab.com/a/b/c/d/n/box/ci", "gitlab.com/a/b/c/d", "n/box/ci"},
		{"gitlab.com/a/b/ci/c/d", "gitlab.com/a/b", "ci/c/d"},
		{"ci/last/stdout", "", "ci/last/stdout"},
		{"n/box/ci/x.1/stdout", "", "n/box/ci/x.1/stdout"},
		{"status", "", "status"},
		{"github.com", "", "github.com"},
		{"github.com/alice", "", "github.com/alice"},
		{"github.com/alice/bad name/ci", "", "github.com/alice/bad name/ci"},
	} {
		if ns, rest := splitNamespace(test.path); ns != test.namespace || rest != test.rest {
			t.Errorf("splitNamespace(%q) = %q, %q, want %q, %q", test.path, ns, rest, test.namespace, test.rest)
		}
	}
}
