package cmd_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// may says which packages of ours each package may import, its own folder
// included. A name that ends in /... is a folder with all below it. If several rows
// match a package, its own counts, or else the one with the longest name.
//
// Packages are mechanisms that do not know each other: they meet in cmd. Change
// this table in a commit of its own.
var may = map[string][]string{
	"fs":              {"fs/internal/..."},
	"fs/internal/...": {"fs", "fs/internal/..."},
	"fs/ci":           {"fs", "fs/internal/..."},
	"fs/store":        {"fs", "fs/ci", "fs/internal/..."},
	"fs/treetest":     {"fs", "fs/ci", "fs/store"},

	"vm/...": {"vm/..."},
	"mk":     {},

	"proto/...": {"fs", "proto/..."},

	"orchestrator/...":          {"fs", "fs/ci", "proto/...", "orchestrator/..."},
	"orchestrator/access":       {"fs", "fs/ci", "proto/...", "orchestrator/internal/...", "orchestrator/revoked"},
	"orchestrator/revoked":      {},
	"orchestrator/door":         {"fs", "fs/ci", "proto/...", "orchestrator/internal/...", "orchestrator/access"},
	"orchestrator/dial":         {"fs", "fs/ci", "proto/...", "orchestrator/internal/..."},
	"orchestrator/internal/...": {"fs", "fs/ci", "proto/...", "orchestrator/internal/..."},
	// A client is an executor too, which has a door of its own.
	"orchestrator/internal/client": {"fs", "fs/ci", "proto/...", "orchestrator/internal/...", "orchestrator/door"},
	// Forges say who a job or a person is, and nothing of how it came.
	"orchestrator/access/forge/...": {"fs", "fs/ci", "orchestrator/access", "orchestrator/internal/statedir"},
	// Forges are told through an interface: what tells them knows the tree alone.
	"orchestrator/report": {"fs", "fs/ci", "orchestrator/access", "orchestrator/internal/statedir"},
	// The page is for people, who have accounts.
	"orchestrator/web":            {"fs", "fs/ci", "orchestrator/internal/...", "orchestrator/access", "orchestrator/access/account"},
	"orchestrator/access/account": {"fs", "fs/ci", "orchestrator/internal/...", "orchestrator/access"},

	// The folder cmd itself is the sources of its manuals.
	"cmd/...": {"cmd", "fs/...", "vm/...", "mk", "proto/...", "orchestrator/...", "cmd/internal/..."},
}

// mayTest says what the tests of a package may import besides: to test a mechanism
// they may need a real tree, and a client for a server.
var mayTest = map[string][]string{
	"fs/...":           {"fs/..."},
	"proto/...":        {"fs/..."},
	"orchestrator/...": {"fs/...", "orchestrator/..."},
}

// testOnly are helpers of tests. Only tests may import them, and they each other.
var testOnly = []string{"fs/treetest", "orchestrator/access/forge/forgetest", "proto/internal/testtree", "proto/internal/load", "vm/network/networktest"}

// module is what the paths of our packages begin with.
const module = "9ci/"

func TestImports(t *testing.T) {
	folders := make(map[string]bool)
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		folders[folder(name)] = true
		allowed, ok := row(may, name)
		if !ok {
			t.Errorf("%s is not in the table", name)
			continue
		}
		for _, imp := range ours(p.Imports) {
			switch {
			case slices.Contains(testOnly, imp) && !slices.Contains(testOnly, name):
				t.Errorf("%s imports %s, which is for tests only", name, imp)
			case !matches(allowed, imp):
				t.Errorf("%s imports %s: it may import only %v", name, imp, allowed)
			}
		}
		extra, _ := row(mayTest, name)
		for _, imp := range ours(slices.Concat(p.TestImports, p.XTestImports)) {
			if imp != name && !slices.Contains(testOnly, imp) && !matches(allowed, imp) && !matches(extra, imp) {
				t.Errorf("a test of %s imports %s: it may import only %v and %v", name, imp, allowed, extra)
			}
		}
	}
	for name := range may {
		if !folders[folder(name)] {
			t.Errorf("the table has %s, and no package is in that folder", name)
		}
	}
}

// folder returns the top-level folder of a package.
func folder(name string) string {
	top, _, _ := strings.Cut(name, "/")
	return top
}

// The rows of the table say what the documentation of cmd/internal does.
func TestImportTable(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		want     bool
	}{
		{"fs", "fs/ci", false},
		{"fs/ci", "fs", true},
		{"fs/ci", "fs/store", false},
		{"fs/store", "fs/ci", true},
		{"fs/store", "vm", false},
		{"vm", "vm/guest", true},
		{"vm/guest", "fs", false},
		{"mk", "fs", false},
		{"proto/ninep", "fs", true},
		{"proto/ninep", "fs/ci", false},
		{"proto/ninep", "proto/internal/wire", true},
		{"proto/ninep", "orchestrator", false},
		{"orchestrator", "proto/mux", true},
		{"orchestrator/door", "fs/ci", true},
		{"orchestrator/door", "fs/store", false},
		{"orchestrator/access", "orchestrator", false},
		{"orchestrator/access", "orchestrator/access/account", false},
		{"orchestrator/web", "orchestrator/access/account", true},
		{"orchestrator/web", "orchestrator", false},
		{"orchestrator/dial", "orchestrator/internal/wire", true},
		{"orchestrator", "cmd/internal/sign", false},
		{"cmd/9ci", "fs/store", true},
		{"cmd/9ci", "cmd/mk", false},
	} {
		allowed, ok := row(may, tt.from)
		if got := matches(allowed, tt.to); !ok || got != tt.want {
			t.Errorf("%s may import %s: %v, want %v", tt.from, tt.to, got, tt.want)
		}
	}
}

// A listed is a package as go list describes it.
type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func packages(t *testing.T) (all []listed) {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"...")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for dec := json.NewDecoder(out); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if err := cmd.Wait(); err != nil || len(all) < 10 {
		t.Fatalf("go list: %d packages, %v", len(all), err)
	}
	return all
}

// ours returns the packages of this module in a list of imports.
func ours(imports []string) (names []string) {
	for _, i := range imports {
		if name, ok := strings.CutPrefix(i, module); ok {
			names = append(names, name)
		}
	}
	return names
}

// row returns the row of a table for a package.
func row(table map[string][]string, name string) (list []string, ok bool) {
	if list, ok = table[name]; ok {
		return list, true
	}
	longest := ""
	for pattern := range table {
		if match(pattern, name) && len(pattern) > len(longest) {
			longest = pattern
		}
	}
	list, ok = table[longest]
	return list, ok
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, name) })
}

// match reports whether a pattern, NAME or NAME/..., has a package.
func match(pattern, name string) bool {
	folder, ok := strings.CutSuffix(pattern, "/...")
	return name == folder || ok && strings.HasPrefix(name, folder+"/")
}
