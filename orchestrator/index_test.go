package orchestrator

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"9ci/orchestrator/internal/wire"
)

// The index of a namespace tells of the runs of all its executors.
func TestIndex(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		l, _ := m.login(k)
		for i := range 2 {
			tree := newTestTree()
			tree.add(fmt.Sprintf("3f2a9c1d0b7e.%d", i+1), testCommit, "passed")
			if err := m.exportOn(l, wire.Announce{Name: fmt.Sprintf("box%d", i), Namespaces: []string{hello}}, tree.root()); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		lines := strings.Split(read(t, m.treeOn(l, hello), "index"), "\n")
		if len(lines) != 3 || lines[2] != "" {
			t.Fatalf("the index: %q", lines)
		}
		for i := range 2 {
			want := fmt.Sprintf("/n/box%d/ci/3f2a9c1d0b7e.%d passed 0 ", i, i+1)
			if line := lines[0] + "\n" + lines[1]; !strings.Contains(line, want) || strings.Count(line, " "+testCommit+" 'alice 1' "+testScore) != 2 {
				t.Errorf("the index %q, want %q in it", lines, want)
			}
		}
	})
}
