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

// may says which packages of ours those below a folder may import; their own
// folder goes without saying. Packages are mechanisms that do not know each
// other: they meet in cmd.
var may = map[string][]string{
	"fs":           {},
	"vm":           {},
	"mk":           {},
	"proto":        {"fs"},
	"orchestrator": {"fs", "proto"},
	"cmd":          {"fs", "vm", "mk", "proto", "orchestrator"},
}

func TestImports(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "9ci/...")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for dec := json.NewDecoder(out); ; {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		from := folder(p.ImportPath)
		allowed, ok := may[from]
		if !ok {
			t.Errorf("%s: the folder %s is not in the table", p.ImportPath, from)
			continue
		}
		seen[from] = true
		for _, list := range [][]string{p.Imports, p.TestImports, p.XTestImports} {
			for _, imp := range list {
				to := folder(imp)
				if to == "" || to == from || slices.Contains(allowed, to) {
					continue
				}
				t.Errorf("%s imports %s: %s may import only %v", p.ImportPath, imp, from, allowed)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for name := range may {
		if !seen[name] {
			t.Errorf("the folder %s holds no package", name)
		}
	}
}

// folder returns the top-level folder of a package of ours, or "".
func folder(path string) string {
	rest, ok := strings.CutPrefix(path, "9ci/")
	if !ok {
		return ""
	}
	top, _, _ := strings.Cut(rest, "/")
	return top
}
