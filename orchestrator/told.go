package orchestrator

import (
	"context"
	"fmt"

	"9ci/fs/ci"
	"9ci/orchestrator/report"
)

// told returns what the forge was told of a commit's runs, for those that may read them.
func (v *view) told(ctx context.Context, namespace, commit string) (string, error) {
	ns, err := v.entered(ctx, namespace)
	if err != nil {
		return "", err
	}
	if !ci.IsHash(commit) {
		return "", fmt.Errorf("%.80q is not the whole name of a commit", commit)
	}
	if v.c.s.reporter == nil {
		return report.Answer{}.Text(), nil
	}
	a, err := v.c.s.reporter.Told(ns, commit)
	return a.Text(), err
}
