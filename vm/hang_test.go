package vm

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"
)

// A process that waits for nothing hangs, one that spins hangs, and one
// that works is left alone.
func TestWatchStart(t *testing.T) {
	for _, test := range []struct {
		name       string
		args       []string
		idle, most time.Duration
		want       error
	}{
		{"waits", []string{"sleep", "60"}, 100 * time.Millisecond, time.Hour, errHangs},
		{"spins", []string{"sh", "-c", "while :; do :; done"}, time.Second, 100 * time.Millisecond, errHangs},
		{"ends", []string{"true"}, 10 * time.Millisecond, time.Hour, context.Canceled},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command(test.args[0], test.args[1:]...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ctx, stop := watchStart(t.Context(), cmd.Process.Pid, test.idle, test.most)
			if test.want == errHangs {
				<-ctx.Done()
				cmd.Process.Kill()
			}
			cmd.Wait()
			stop()
			if err := context.Cause(ctx); !errors.Is(err, test.want) {
				t.Errorf("cause = %v, want %v", err, test.want)
			}
		})
	}
}
