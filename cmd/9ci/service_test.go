package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"9ci/proto/ninep"
)

// The units are what systemd takes for a user's: the program's flags are those that it
// has, and the socket is the one that clients look for.
func TestUnits(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(b), "/usr/local/bin/9ci", self, 1) // verify looks for the program
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	service, socket := read("9ci.service"), read("9ci.socket")
	verify := exec.Command("systemd-analyze", "--user", "verify", filepath.Join(dir, "9ci.service"), filepath.Join(dir, "9ci.socket"))
	verify.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir)
	if out, err := verify.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze --user verify: %v: %s", err, out)
	}
	m := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/9ci (\S+)$`).FindStringSubmatch(service)
	if m == nil || m[1] != "serve" {
		t.Errorf("ExecStart has the arguments %q, want serve", m)
	}

	t.Setenv("NAMESPACE", "")
	display := fmt.Sprintf("9ci-test-%d", os.Getpid()) // in the place of :0
	t.Setenv("DISPLAY", display)
	ns, err := ninep.Namespace()
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(ns)
	want := "ListenStream=" + regexp.MustCompile(`ns\..*\.`+display+"$").ReplaceAllString(ns, "ns.%u.:0") + "/9ci\n"
	if !strings.Contains(socket, want) {
		t.Errorf("the socket unit is %q, want %q in it", socket, want)
	}
}

// Sockets that other machines reach are refused, whoever opened them.
func TestLoopback(t *testing.T) {
	for addr, ok := range map[string]bool{
		"tcp!127.0.0.1!564": true, "tcp!::1!564": true, "tcp!localhost!564": true, "unix!/tmp/x": true, "/tmp/x": true,
		"net!127.0.0.1!564": true,
		"net!*!564":         false, "net!192.0.2.1": false, "tcp!*!564": false, "tcp!!564": false, "tcp!::!564": false, "tcp!0.0.0.0!564": false, "tcp!192.0.2.1!564": false, "tcp!example.org!564": false,
	} {
		if err := loopback(addr); (err == nil) != ok {
			t.Errorf("loopback(%q) = %v, want accepted: %t", addr, err, ok)
		}
	}
}
