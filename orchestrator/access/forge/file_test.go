package forge

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"9ci/orchestrator/access/forge/forgetest"
)

// What each paragraph of the file means, and what is said of one that means nothing.
func TestFile(t *testing.T) {
	for _, tt := range []struct {
		text, want string // the words of each paragraph, or its error
	}{
		{head, ""},
		{"kind=github", "1 github.com (github, by https://token.actions.githubusercontent.com) lets in CI jobs of any repository, each to its own namespace"},
		{"kind=gitlab\n", "1 gitlab.com (gitlab, by https://gitlab.com) lets in"},
		{"# mine\n\n# here\nkind=forgejo\n# there\nhost=codeberg.org\n\n\n", "4 codeberg.org (forgejo, by https://codeberg.org/api/actions)"},
		{"kind=github\nhost=ghe.example.org", "ghe.example.org (github, by https://ghe.example.org/_services/token)"},
		{"kind=gitlab\nhost=git.example.org\nissuer=https://git.example.org:8443/gitlab", "by https://git.example.org:8443/gitlab"},
		{"kind=github\nnamespace=GitHub.com/Alice/...,github.com/bob/hello", "of the repositories github.com/alice/... github.com/bob/hello,"},
		{"kind=gitlab\nhost=localhost\nissuer=http://127.0.0.1:80\nurl=http://[::1]:80", "1 localhost"},
		{"kind=github\n\nkind=gitlab", "1 github.com"},
		{"kind=github\r\nhost=github.com\r\n", "1 github.com"},

		{"kind=gitea\nhost=gitea.com", "1: kind=gitea: want github, gitlab, forgejo or oidc"},
		{"host=github.com", "1: kind=: want github"},
		{"kind=forgejo", "1: host= is missing"},
		{"kind", "1: line 1 is not attr=value"},
		{"kind=github gitlab", "1: line 1: the value of kind is not one word"},
		{"kind=github\nkind=gitlab", "1: attribute kind is given twice"},
		{"kind=github\nissuers=x", "1: issuers= is not known"},
		{"kind=github\n\nkind=github", "3: line 1 has the host github.com already"},
		{"kind=gitlab\n\nkind=gitlab\nhost=x.example\nissuer=https://gitlab.com", "3: line 1 has the issuer https://gitlab.com already"},
		{"kind=github\nhost=https://github.com", "1: host=https://github.com: want a name"},
		{"kind=github\nhost=GitHub.com", "1: host=GitHub.com: want a name"},
		{"kind=gitlab\nhost=git.example.org:8443", "1: host=git.example.org:8443: want a name"},
		{"kind=gitlab\nhost=git.example.org/gitlab", "want a name"},
		{"kind=gitlab\nhost=a,b", "want a name"},
		{"kind=gitlab\nhost=local", "want a name"},
		{"kind=gitlab\nclient-id=a\nlabel='Our own'", "each to its own namespace, and people, to the namespaces that they may see there"},
		{"kind=oidc\nissuer=https://IdP.example:8443/realm\nclient-id=a", "1 idp.example (oidc, by https://IdP.example:8443/realm) lets in people, to no namespaces of its own"},
		{"kind=oidc\nhost=people.example\nissuer=https://idp.example\nclient-id=a\n\nkind=gitlab", "1 people.example (oidc"},

		{"kind=oidc\nissuer=https://idp.example", "1: kind=oidc wants issuer= and client-id="},
		{"kind=oidc\nclient-id=a", "1: kind=oidc wants issuer= and client-id="},
		{"kind=oidc\nissuer=http://idp.example\nclient-id=a", "1: issuer=http://idp.example: want https"},
		{"kind=oidc\nissuer=https://idp.example\nclient-id=a\nnamespace=a.example/...", "1: namespace= means nothing with kind=oidc"},
		{"kind=oidc\nissuer=https://idp.example\nclient-id=a\nurl=https://x.example", "1: url= means nothing"},
		{"kind=oidc\nhost=github.com\nissuer=https://idp.example\nclient-id=a", "1: host=github.com: its people log in with kind=github"},
		{"kind=oidc\nissuer=https://gitlab.com\nclient-id=a", "1: host=gitlab.com: its people log in with kind=gitlab"},
		{"kind=gitlab\nclient-id=a\nclient-secret=hunter2", "1: client-secret= is not taken: put the secret into a file"},
		{"kind=gitlab\nclient-id=a\nclient-secret=hunter2 hunter2", "1: client-secret= is not taken: put the secret into a file"},
		{"kind=github\nclient-id=a", "1: client-secret-file= is missing"},
		{"kind=gitlab\nclient-id=a\nclient-secret-file=nothing", "client-secret-file= of gitlab.com: open "},
		{"kind=gitlab\nclient-id=a\nclient-secret-file=forges", "want the secret alone on one line"},
		{"kind=gitlab\nclient-secret-file=a", "1: client-secret-file= without client-id="},
		{"kind=github\napp=a", "1: app= without client-id="},
		{"kind=gitlab\nclient-id=a\napp=b", "1: app=b: want the last word"},
		{"kind=github\nclient-id=a\nclient-secret-file=b\napp=b/c", "1: app=b/c: want the last word"},
		{"kind=gitlab\nclient-id='a b'", "1: client-id=: want printable ASCII characters"},
		{"kind=forgejo\nhost=token", "1: host=token: want the whole name"},
		{"kind=forgejo\nhost=passkey", "1: host=passkey: want the whole name"},
		{"kind=gitlab\nhost=gitlab", "1: host=gitlab: want the whole name"},
		{"kind=forgejo\nhost=github", "1: host=github: want the whole name"},
		{"kind=gitlab\nissuer=http://gitlab.com", "1: issuer=http://gitlab.com: want https"},
		{"kind=gitlab\nissuer=http://127.0.0.1.example.org", "want https"},
		{"kind=gitlab\nurl=ftp://gitlab.com", "1: url=ftp://gitlab.com: want https"},
		{"kind=gitlab\nissuer=gitlab.com", "1: issuer=gitlab.com: want https://HOST/PATH"},
		{"kind=gitlab\nissuer='https://gitlab.com/?a=b'", "want https://HOST/PATH"},
		{"kind=gitlab\nissuer='https://a:b@gitlab.com'", "want https://HOST/PATH"},
		{"kind=gitlab\nissuer='https://a b'", "it is no URL"},
		{"kind=gitlab\nnamespace=", "1: line 2"},
		{"kind=gitlab\nnamespace=''", "1: namespace pattern"},
		{"kind=gitlab\nnamespace=a//b", "1: namespace pattern"},
	} {
		file := filepath.Join(t.TempDir(), "forges")
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := Check(file)
		if err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		for _, f := range found {
			if f.Err != nil {
				fmt.Fprintf(&said, "%d: %v\n", f.Line, f.Err)
			} else {
				fmt.Fprintf(&said, "%d %s %s\n", f.Line, f.Who, f.Words)
			}
		}
		if !strings.Contains(said.String(), tt.want) || tt.want == "" && said.Len() > 0 {
			t.Errorf("Check(%q) = %s, want %q", tt.text, said.String(), tt.want)
		}
		// What is served is what Check says.
		var log bytes.Buffer
		f, err := Open(file, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(said.String()+log.String(), "hunter2") {
			t.Errorf("of %q is said %s, and logged %s", tt.text, said.String(), log.String())
		}
		served, faults := len(f.forges()), strings.Count(log.String(), "the paragraph is skipped")
		for _, f := range found {
			if f.Err != nil && f.Who == "" {
				faults--
			} else { // of a forge that is known a file may be missing
				served--
			}
		}
		if served != 0 || faults != 0 {
			t.Errorf("Open(%q): %d more forges and %d more faults than Check says; the log: %s", tt.text, served, faults, log.String())
		}
	}
}

// The file is made once, and only for its owner.
func TestMakeFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "forges")
	if err := MakeFile(file); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(file)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if err := os.WriteFile(file, []byte("kind=github\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MakeFile(file); err != nil {
		t.Fatal(err)
	}
	if found, err := Check(file); err != nil || len(found) != 1 {
		t.Errorf("Check = %v, %v after a second MakeFile", found, err)
	}
	// Each line of its head is a paragraph's if the # is taken away.
	var lines []string
	for line := range strings.Lines(head) {
		if attr, ok := strings.CutPrefix(line, "#\t"); ok && strings.Contains(attr, "=") {
			attr, _, _ = strings.Cut(attr, "\t")
			lines = append(lines, strings.Replace(strings.TrimSpace(attr), "HOST", "github.com", 1))
		}
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "FILE"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// GitHub's is a key, and no word.
	app := forgetest.NewSite("github", "http://127.0.0.1").StatusSecret()
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "APPKEY"), []byte(app), 0o600); err != nil {
		t.Fatal(err)
	}
	lines[len(lines)-1] = strings.Replace(lines[len(lines)-1], "FILE", "APPKEY", 1)
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := Check(file); err != nil || len(found) != 1 || found[0].Err != nil || len(lines) != len(attributes) {
		t.Errorf("Check = %+v, %v of the head's lines %q", found, err, lines)
	}
}

// Without a file there are no forges, until there is one.
func TestNoFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "forges")
	f, err := Open(file, slog.New(slog.DiscardHandler))
	if err != nil || len(f.forges()) != 0 {
		t.Fatalf("%v, %v", f, err)
	}
	if err := os.WriteFile(file, []byte("kind=github\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := len(f.forges()); n != 1 {
		t.Errorf("%d forges, want 1", n)
	}
	if err := os.Mkdir(file+".d", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file+".d", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a directory is taken for the file")
	}
}
