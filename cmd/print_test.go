package cmd_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	iofs "io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Only package show prints to a terminal. The exceptions: mk prints what its own
// user wrote, guest runs in the machine, and load is for benchmarks.
func TestPrinting(t *testing.T) {
	exempt := []string{"../cmd/internal/show", "../cmd/mk", "../cmd/guest", "../mk", "../proto/internal/load"}
	bypass := map[string][]string{
		"os":  {"Stdout", "Stderr"},
		"fmt": {"Print", "Printf", "Println"},
		"log": {"Print", "Printf", "Println", "Fatal", "Fatalf", "Fatalln", "Panic", "Panicf", "Panicln"},
	}
	files := 0
	err := filepath.WalkDir("..", func(name string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains(exempt, name) {
			return iofs.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		files++
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if pkg, ok := s.X.(*ast.Ident); ok && slices.Contains(bypass[pkg.Name], s.Sel.Name) {
					t.Errorf("%s: %s.%s: print through package show", fset.Position(n.Pos()), pkg.Name, s.Sel.Name)
				}
			}
			return true
		})
		return nil
	})
	if err != nil || files < 100 {
		t.Fatalf("looked at %d files: %v", files, err)
	}
}
