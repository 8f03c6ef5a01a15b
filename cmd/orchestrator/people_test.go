package main

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
	"9ci/orchestrator/access/forge"
)

// testPeople returns people of a new state directory, whose log is written to log.
func testPeople(t *testing.T) (p people, dir string, log *bytes.Buffer) {
	t.Helper()
	dir, log = t.TempDir(), new(bytes.Buffer)
	accounts, err := account.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	l := slog.New(slog.NewTextHandler(log, nil))
	forges, err := forge.Open(filepath.Join(dir, forge.File), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(forges.Close)
	if err := forges.Keep(accounts); err != nil {
		t.Fatal(err)
	}
	return people{accounts, forges, l}, dir, log
}

// A client is told that its account is gone or cannot be read, and nothing of files.
func TestPeopleGrant(t *testing.T) {
	p, dir, log := testPeople(t)
	if _, err := p.Grant("github:1"); !errors.Is(err, access.ErrNoAccount) {
		t.Errorf("no account: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "accounts", "github:1"), []byte("hidden=true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Grant("github:1"); err == nil || strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "hidden") {
		t.Errorf("an account that cannot be read: %v", err)
	}
	if !strings.Contains(log.String(), "hidden") {
		t.Errorf("the log: %s", log)
	}
}

// What a forge gave goes with the last certificate, unless a browser is logged in still.
func TestPeopleLoggedOut(t *testing.T) {
	p, _, log := testPeople(t)
	const alice = "github:1"
	if err := p.accounts.Enter(account.Person{Principal: alice}, "github.com", []byte("token")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.accounts.NewSession(alice, "github.com", "::1", ""); err != nil {
		t.Fatal(err)
	}
	p.LoggedOut(alice)
	if token, err := p.accounts.Token(alice); err != nil || token == nil {
		t.Errorf("while a browser is logged in: %q, %v", token, err)
	}
	if err := p.accounts.Change(alice, func(a *account.Account) error {
		a.EndSession(a.Sessions[0].ID)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	p.LoggedOut(alice)
	if token, err := p.accounts.Token(alice); err != nil || token != nil {
		t.Errorf("without a browser: %q, %v", token, err)
	}
	p.LoggedOut("github:2")
	if log.Len() > 0 {
		t.Errorf("the log: %s", log)
	}
}
