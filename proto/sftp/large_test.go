package sftp

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"

	"9ci/fs/treetest"
)

// Message types of draft-ietf-secsh-filexfer-02, section 3.
const (
	fxpInit    = 1
	fxpLstat   = 7
	fxpOpendir = 11
	fxpReaddir = 12
	fxpStatus  = 101
	fxpHandle  = 102
	fxpName    = 104
	fxpAttrs   = 105
)

// A talk is had with a server message by message, by a client that keeps
// nothing.
type talk struct {
	t  *testing.T
	rw io.ReadWriter
}

var be = binary.BigEndian

func (c talk) ask(typ byte, text string) (byte, []byte) {
	c.t.Helper()
	b := be.AppendUint32(nil, uint32(1+4+4+len(text)))
	b = be.AppendUint32(append(b, typ), 1) // the id
	b = append(be.AppendUint32(b, uint32(len(text))), text...)
	if typ == fxpInit {
		b = []byte{0, 0, 0, 5, fxpInit, 0, 0, 0, 3}
	}
	if _, err := c.rw.Write(b); err != nil {
		c.t.Fatal(err)
	}
	b = make([]byte, 4)
	if _, err := io.ReadFull(c.rw, b); err != nil {
		c.t.Fatal(err)
	}
	b = make([]byte, be.Uint32(b))
	if _, err := io.ReadFull(c.rw, b); err != nil {
		c.t.Fatal(err)
	}
	return b[0], b[5:]
}

func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// Listing and stat of a hundred thousand runs cost nothing that grows with
// them, but the store's own index.
func TestManyRuns(t *testing.T) {
	const n = 100000
	_, root := treetest.NewLarge(t, n)
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(context.Background(), far, root) }()
	defer func() { near.Close(); <-done }()
	c := talk{t, near}
	c.ask(fxpInit, "")
	for _, dir := range []string{"/ci", "/artifacts"} {
		typ, b := c.ask(fxpOpendir, dir)
		if typ != fxpHandle {
			t.Fatalf("opendir %s = type %d %q", dir, typ, b)
		}
		handle := string(b[4:])
		count, before := 0, int64(0)
		for page := 0; ; page++ {
			typ, b := c.ask(fxpReaddir, handle)
			if typ == fxpStatus {
				break
			}
			if typ != fxpName {
				t.Fatalf("readdir = type %d", typ)
			}
			count += int(be.Uint32(b))
			switch {
			case page == 0: // the index has been read
				before = memory()
			case page%100 == 0:
				if grown := memory() - before; grown > 2<<20 {
					t.Errorf("%s: after %d runs the heap has grown by %d bytes", dir, count, grown)
				}
			}
		}
		if count != n {
			t.Errorf("%s lists %d runs, want %d", dir, count, n)
		}
		for i := 1; i <= n; i += n / 1000 {
			if typ, b := c.ask(fxpLstat, fmt.Sprintf("%s/%s.%d", dir, treetest.PassedCommit[:12], i)); typ != fxpAttrs {
				t.Fatalf("lstat = type %d %q", typ, b)
			}
		}
		if grown := memory() - before; grown > 2<<20 {
			t.Errorf("%s: at the end the heap has grown by %d bytes", dir, grown)
		}
	}
}
