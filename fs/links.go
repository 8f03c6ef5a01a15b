package fs

import "context"

type linklessKey struct{}

// WithoutLinks returns a context for a client whose protocol has no symbolic
// links and cannot take long listings: 9P2000. To it an alias is a directory,
// and /ci lists the newest runs only.
func WithoutLinks(ctx context.Context) context.Context {
	return context.WithValue(ctx, linklessKey{}, true)
}

// linkless reports whether ctx is from WithoutLinks.
func Linkless(ctx context.Context) bool { return ctx.Value(linklessKey{}) != nil }
