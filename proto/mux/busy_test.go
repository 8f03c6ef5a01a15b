package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"testing"

	"9ci/fs"
	"9ci/proto/internal/testtree"
	"9ci/proto/ninep"
)

// A backend that is busy or out of order is not one that is not there: a walk that
// crosses into it fails with its error, and does not end short.
func TestWalkSaysWhy(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		for _, want := range []error{fs.ErrBusy, iofs.ErrPermission, iofs.ErrNotExist} {
			m, _ := newMux(t, map[string]fs.Dir{"a": testtree.NewDir("/", 100)})
			m.Find([]string{"n", "a"}).dial = func(context.Context, ninep.Dialect) (io.ReadWriteCloser, error) {
				return nil, fmt.Errorf("too many: %w", want)
			}
			c := client9(t, m, d)
			if _, err := walk(t.Context(), c.Root(), "n/a"); !errors.Is(err, want) {
				t.Errorf("Walk(n/a) = %v, want %v", err, want)
			}
			if _, err := fs.Walk(t.Context(), c.Root(), "n/a/x/y"); !errors.Is(err, want) {
				t.Errorf("Walk(n/a/x/y) = %v, want %v", err, want)
			}
		}
	})
}
