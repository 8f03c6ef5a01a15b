package executor

import (
	"slices"
	"strconv"
	"testing"
)

// A mkfile's answer may have a million words: each is looked at once.
func TestManyArtifactTargets(t *testing.T) {
	words := make([]string, maxAnswer/4)
	for i := range words {
		words[i] = strconv.Itoa(i / 2)
	}
	m := mkfile{Variables: map[string][]string{"ARTIFACTS": words}}
	if got, _ := m.artifactTargets(); len(got) != len(words)/2 {
		t.Errorf("artifactTargets has %d targets of %d words, want each once", len(got), len(words))
	}
}

func TestArtifactTargets(t *testing.T) {
	const dir = "/var/run/ci/artifacts/"
	for _, tt := range []struct {
		name    string
		m       mkfile
		want    []string
		literal bool
	}{
		{"no rule", mkfile{Targets: []string{"test"}}, nil, false},
		{"explicit", mkfile{Targets: []string{dir + "a", "test", dir + "b/c"}}, []string{dir + "a", dir + "b/c"}, false},
		{"words", mkfile{Patterns: []string{dir + "%"}, Variables: map[string][]string{"ARTIFACTS": {"a", "b"}}}, []string{dir + "a", dir + "b"}, false},
		{"both, once each", mkfile{Targets: []string{dir + "a"}, Variables: map[string][]string{"ARTIFACTS": {"b", "a"}}}, []string{dir + "a", dir + "b"}, false},
		{"neither", mkfile{Patterns: []string{"%.o", dir + "%"}}, []string{dir + "%"}, true},
		{"explicit before the pattern", mkfile{Targets: []string{dir + "a"}, Patterns: []string{dir + "%"}}, []string{dir + "a"}, false},
	} {
		got, literal := tt.m.artifactTargets()
		if !slices.Equal(got, tt.want) || literal != tt.literal {
			t.Errorf("%s: artifactTargets = %q, %v, want %q, %v", tt.name, got, literal, tt.want, tt.literal)
		}
	}
}
