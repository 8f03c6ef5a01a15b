package executor

import (
	"testing"

	"9ci/cmd/internal/config"
	"9ci/fs/ci"
)

// Each queue knows its own machines, and a daemon's counts stand among the
// attributes whatever there are of them.
func TestStatus(t *testing.T) {
	var q, other Queue
	q.setAccel("kvm")
	st := Status("daemon", "1", new(config.Config), &q, ci.Attrs{{Name: "kept", Value: "2"}})
	if st.Get("accel") != "kvm" || st.Get("kept") != "2" || st[len(st)-1].Name != "orchestrator" {
		t.Errorf("Status = %v, want accel=kvm, kept=2 and orchestrator last", st)
	}
	if st := Status("run", "1", new(config.Config), &other, nil); st.Get("accel") != "-" {
		t.Errorf("a queue without machines has accel=%s", st.Get("accel"))
	}
}
