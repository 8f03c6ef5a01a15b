package fs

import (
	"context"
	"io"
)

// NewReader returns a reader of f from its start, whose reads have the context
// ctx.
func NewReader(ctx context.Context, f File) io.Reader { return &reader{ctx: ctx, f: f} }

type reader struct {
	ctx context.Context
	f   File
	off int64
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.f.ReadAt(r.ctx, p, r.off)
	r.off += int64(n)
	return n, err
}
