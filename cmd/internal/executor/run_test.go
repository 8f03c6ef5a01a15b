package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"

	"9ci/cmd/internal/config"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/vm"
)

// A double is a machine that notes what is asked of it.
type double struct {
	asked []string
	cut   error // the answer to SetNet
}

func (m *double) Run(_ context.Context, c vm.Cmd) (vm.Exit, error) {
	m.asked = append(m.asked, "run "+c.Args[len(c.Args)-1])
	return vm.Exit{}, nil
}

func (m *double) SetNet(_ context.Context, up bool) error {
	m.asked = append(m.asked, fmt.Sprintf("net %t", up))
	return m.cut
}

func (m *double) Outbox() *io.SectionReader { return nil }
func (m *double) OutboxDevice() string      { return "" }
func (m *double) Kill()                     {}

// The network is cut before the test begins, whatever the steps before it did;
// a run whose network cannot be cut does not go on.
func TestNet(t *testing.T) {
	for _, tt := range []struct {
		net   string
		cut   error
		want  []string
		state string
	}{
		{net: "build", want: []string{"net false", "run lint"}, state: "passed"},
		{net: "build", cut: errors.New("qemu does not answer"), want: []string{"net false"}, state: "error"},
		{net: "all", want: []string{"run lint"}, state: "passed"},
		{net: "none", want: []string{"run lint"}, state: "passed"},
	} {
		s, err := store.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		run, err := s.Create("0123456789abcdef0123456789abcdef01234567")
		if err != nil {
			t.Fatal(err)
		}
		m := &double{cut: tt.cut}
		c := &config.Config{Net: tt.net}
		r := &activeRun{e: &Executor{}, req: Request{Targets: []string{"lint"}}, cfg: c, run: run, m: m, mkfile: new(mkfile), mask: newMask(nil)}
		r.stdout, r.stderr = r.mask.writer(run.Stdout()), r.mask.writer(run.Stderr())
		run.Enter("base-image")
		if err := r.baseImage(t.Context()); !errors.Is(err, errSkipped) {
			t.Fatalf("baseImage: %v", err)
		}
		m.asked = nil
		run.Enter("test")
		state, _ := r.outcome(t.Context(), r.test(t.Context()))
		if state != tt.state || !slices.Equal(m.asked, tt.want) {
			t.Errorf("CI_NET=%s: the step %s, and the machine was asked %q, want %s, %q", tt.net, state, m.asked, tt.state, tt.want)
		}
	}
}

// Every step of a run has a function here, and no other name has.
func TestSteps(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(steps)), slices.Sorted(slices.Values(ci.Steps)); !slices.Equal(got, want) {
		t.Errorf("the executor has the steps %q, want %q", got, want)
	}
}
