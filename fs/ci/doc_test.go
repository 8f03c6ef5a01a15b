package ci_test

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/fs/treetest"
)

// A holder holds the machine of one run.
type holder struct {
	treetest.Control
	id string
}

func (holder) Hold(context.Context, string, time.Duration) error { return nil }
func (holder) Held(string) ci.Attrs                              { return ci.Attrs{} }
func (h holder) LastHeld() string                                { return h.id }

// The manual names every file of the tree, and no other.
func TestManualNamesTheFiles(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(doc), "# The tree: ci(4)\n")
	text, _, _ = strings.Cut(text, "\nAn ID is")
	line := regexp.MustCompile(`^\t( *)(\S+)  `)
	var manual, dirs []string
	for _, l := range strings.Split(text, "\n") {
		m := line.FindStringSubmatch(l)
		if m == nil || len(m[1]) > 8 {
			continue
		}
		depth := len(m[1]) / 4
		if depth > len(dirs) {
			t.Fatalf("no directory above %q", l)
		}
		dirs = dirs[:depth]
		name := strings.Join(dirs, "") + m[2]
		if strings.HasSuffix(name, "/") {
			dirs = append(dirs, m[2])
		}
		manual = append(manual, strings.Trim(name, "/"))
	}

	s, _ := treetest.New(t)
	id := treetest.PassedCommit[:12] + ".1"
	root := store.NewTree(s, holder{id: id})
	var files []string
	for _, dir := range []string{"", "ci/" + id, "ci/" + id + "/step/boot", "ci/" + id + "/service/db"} {
		n, err := fs.Walk(t.Context(), root, dir)
		if err != nil {
			t.Fatal(err)
		}
		for st, err := range fs.Entries(t.Context(), n.(fs.Dir)) {
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimPrefix(dir+"/"+st.Name, "/")
			name = strings.NewReplacer(id, "ID", "step/boot", "step/STEP", "service/db", "service/NAME").Replace(name)
			files = append(files, name)
		}
	}
	// What is there and not listed, and what the listings have otherwise.
	files = append(files, "event", "ci/ID", "ci/ID/live", "ci/ID/wait", "ci/ID/hold", "ci/ID/step/STEP", "ci/ID/service/NAME", "ci/ID.tar",
		"ci/REV", "ci/last", "ci/head", "ci/green", "ci/held", "artifacts/ID")
	files = slices.DeleteFunc(files, func(n string) bool { return n == "ci" || n == "artifacts" || n == "ci/ID/step" || n == "ci/ID/service" })
	for _, name := range files {
		name = strings.NewReplacer("REV", treetest.PassedCommit, "ID", id, "STEP", "test", "NAME", "db").Replace(name)
		if _, err := fs.Walk(t.Context(), root, name); err != nil {
			t.Errorf("Walk(%q): %v", name, err)
		}
	}
	slices.Sort(manual)
	slices.Sort(files)
	if !slices.Equal(manual, files) {
		t.Errorf("the manual names\n\t%q\nthe tree has\n\t%q", manual, files)
	}
}
