package internal

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// part returns the lines of doc.go between two of its headings.
func part(t *testing.T, from, to string) string {
	t.Helper()
	b, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n# "+from+"\n")
	text, _, ok2 := strings.Cut(text, "\n# "+to+"\n")
	if !ok || !ok2 {
		t.Fatalf("no part from %q to %q", from, to)
	}
	return text
}

// The map has every package.
func TestMap(t *testing.T) {
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+)  *\S`).FindAllStringSubmatch(part(t, "Packages", "Tests"), -1) {
		names = append(names, m[1])
	}
	out, err := exec.Command("go", "list", "9ci/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		p = strings.TrimPrefix(p, "9ci/")
		if p != "cmd/internal" && p != "cmd" && !slices.ContainsFunc(names, func(n string) bool {
			folder, all := strings.CutSuffix(n, "/...")
			return p == n || all && strings.HasPrefix(p, folder+"/")
		}) {
			t.Errorf("the map does not have %s", p)
		}
	}
}

// The recipes name files that there are.
func TestRecipes(t *testing.T) {
	files := regexp.MustCompile(`(?m)^\t(\S+\.go) `).FindAllStringSubmatch(part(t, "Recipes", "Names"), -1)
	if len(files) < 10 {
		t.Fatalf("the recipes name %d files", len(files))
	}
	for _, m := range files {
		name := filepath.Join("../..", m[1])
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
}

// The commands with which to run a part of the tests name tests that there are.
func TestCommands(t *testing.T) {
	lines := regexp.MustCompile(`(?m)^\tgo test .*?'\^?(\w+).*? \./(\S+)`).FindAllStringSubmatch(part(t, "Tests", "Recipes"), -1)
	if len(lines) < 3 {
		t.Fatalf("there are %d commands", len(lines))
	}
	for _, m := range lines {
		files, err := filepath.Glob(filepath.Join("../..", m[2], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(name string) bool {
			b, err := os.ReadFile(name)
			return err == nil && strings.Contains(string(b), "\nfunc "+m[1]+"(")
		}) {
			t.Errorf("./%s has no test %s", m[2], m[1])
		}
	}
}
