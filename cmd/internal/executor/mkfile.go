package executor

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"9ci/vm"
)

// A mkfile is what mk in the machine answers about the repository's mkfile.
type mkfile struct {
	Targets   []string            // explicit ones
	Patterns  []string            // of meta-rules
	Variables map[string][]string // words
}

func (m *mkfile) hasTarget(name string) bool { return slices.Contains(m.Targets, name) }

// artifactTargets returns the targets that mk makes in the step artifacts: every
// explicit target below the artifacts' directory, and each word of $ARTIFACTS
// there. If there are none of either, but a meta-rule for the directory, it
// returns the rule's own % and literal is true.
func (m *mkfile) artifactTargets() (targets []string, literal bool) {
	seen := make(map[string]bool)
	add := func(t string) {
		if !seen[t] {
			seen[t] = true
			targets = append(targets, t)
		}
	}
	for _, t := range m.Targets {
		if strings.HasPrefix(t, artifactsDir+"/") {
			add(t)
		}
	}
	for _, w := range m.Variables["ARTIFACTS"] {
		add(artifactsDir + "/" + w)
	}
	if len(targets) == 0 && slices.Contains(m.Patterns, artifactsDir+"/%") {
		return []string{artifactsDir + "/%"}, true
	}
	return targets, false
}

// maxAnswer is how many bytes of an answer are read from a machine at most: some
// 100,000 targets.
const maxAnswer = 4 << 20

// askMkfile has mk list the repository's mkfile. That happens in the machine,
// because backquotes run programs. If mk cannot read the mkfile, or has more to list
// than maxAnswer, its message is in the step's log and the error is an mkAnswer. The
// machine may lie, so ask holds the limit once more.
func (r *activeRun) askMkfile(ctx context.Context) (*mkfile, error) {
	out, code, err := r.ask(ctx, "what mk lists of the mkfile, its targets and $ARTIFACTS,", maxAnswer,
		vm.Cmd{Args: []string{vm.GuestPath, "mkquery", strconv.Itoa(maxAnswer), "ARTIFACTS"}})
	switch {
	case err != nil:
		return nil, err
	case code == 1:
		return nil, mkAnswer{code: 1}
	case code != 0:
		return nil, mkAnswer{1, fmt.Sprintf("mk was ended as it read the mkfile (status %d): it may need more than CI_MEMORY", code)}
	}
	m := new(mkfile)
	if err := json.Unmarshal([]byte(out), m); err != nil {
		return nil, fmt.Errorf("mk in the machine answered %.200q: %w", out, err)
	}
	return m, nil
}
