package fs

import "context"

type linklessKey struct{}

// WithoutLinks returns a context for a client whose protocol has no symbolic
// links and cannot take long listings: 9P2000. Such a client gets a directory
// for an alias, and a listing that may be long has its newest entries only.
func WithoutLinks(ctx context.Context) context.Context {
	return context.WithValue(ctx, linklessKey{}, true)
}

// Linkless reports whether ctx comes from WithoutLinks.
func Linkless(ctx context.Context) bool { return ctx.Value(linklessKey{}) != nil }
