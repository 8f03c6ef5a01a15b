package ninep

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"9ci/fs"
)

// A text that is replaced by a longer one while it is read is read as one of
// the two, not as the start of one and the end of the other.
func TestReadAllOfAChangingText(t *testing.T) {
	var n atomic.Int64
	text := func(context.Context) ([]byte, error) {
		return fmt.Appendf(nil, "%sZ\n", strings.Repeat("x", int(n.Add(1)))), nil
	}
	ours, theirs := net.Pipe()
	srv := Server{Root: fs.NewDir("/", fs.TextFile("status", text)), User: fs.User{Name: "t", UID: -1}}
	go srv.Serve(t.Context(), theirs)
	c, err := Import(t.Context(), ours, ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	node, err := fs.Walk(t.Context(), c.Root(), "status")
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		b, err := fs.ReadAll(t.Context(), node)
		if err != nil || strings.Count(string(b), "Z") != 1 || !strings.HasSuffix(string(b), "xZ\n") {
			t.Fatalf("ReadAll = %q, %v", b, err)
		}
	}
}
