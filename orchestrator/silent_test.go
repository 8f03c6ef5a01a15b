package orchestrator

import (
	"context"
	"errors"
	"testing"
	"time"

	"9ci/proto/ninep"
)

// A client lets go of an orchestrator that is silent at once, and does not wait
// until the connection is given up.
func TestSilentOrchestrator(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		l, nc := m.login(k)
		imported, err := l.Import(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c, err := ninep.Import(t.Context(), imported, ninep.ImportOptions{Aname: hello})
		if err != nil {
			t.Fatal(err)
		}
		opened, err := l.Import(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		nc.freeze(true)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := ninep.Import(ctx, opened, ninep.ImportOptions{Aname: hello}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Import = %v, want that its time is over", err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("Import took %v, and had a second", took)
		}
		began = time.Now()
		c.Close()
		if took := time.Since(began); took != 0 {
			t.Errorf("Close took %v, want no time", took)
		}
	})
}
