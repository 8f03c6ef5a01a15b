package mux

import (
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"testing"

	"9ci/proto/internal/wire"
	"9ci/proto/ninep"

	"9fans.net/go/plan9"
)

// FuzzRewrite: a frame that has its layout keeps it, and a salt that is put on
// twice is gone again.
func FuzzRewrite(f *testing.F) {
	f.Add(false, true, []byte("\x00\x00\x00\x00\x75\x01\x00\x0d\x00\x00\x00\x0b\x00\x00\x00\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add(true, false, []byte("\x00\x00\x00\x00\x29\x01\x00\x19\x00\x00\x00\x80\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x04\x01\x00x"))
	f.Add(true, false, []byte("\x00\x00\x00\x00\x6f\x01\x00\x01\x00\x80\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, dotl, dir bool, frame []byte) {
		d := ninep.Plan9
		if dotl {
			d = ninep.DotL
		}
		if len(frame) < wire.HeaderSize {
			return
		}
		le.PutUint32(frame, uint32(len(frame)))
		l := wire.Layouts[d][frame[4]]
		if l == nil || !l.Fits(frame) {
			return
		}
		const salt = 0x123456789abcd
		if saltQids(frame, dir, salt) != nil {
			return // and is not forwarded
		}
		once := slices.Clone(frame)
		if !l.Fits(once) || saltQids(frame, dir, salt) != nil || saltQids(frame, dir, salt) != nil {
			t.Fatalf("%x lost its layout", once)
		}
		if !bytes.Equal(frame, once) {
			t.Errorf("salted %x, and three times %x", once, frame)
		}
	})
}

// FuzzMux has a client say anything, and then go: the mux must let go of it,
// and still serve others.
func FuzzMux(f *testing.F) {
	version := wire.End(wire.AppendString(le.AppendUint32(wire.Begin(nil, plan9.Tversion, plan9.NOTAG), 8192), "9P2000"), 0)
	attach := attachFrame(ninep.Plan9, 0, "glenda", "")
	in := walkFrame(0, 1, []string{"n", "a", "ci"})
	out := walkFrame(1, 2, []string{"..", "..", "README"})
	f.Add(slices.Concat(version, attach, in, out, clunkFrame(1), clunkFrame(2)))
	f.Add(slices.Concat(version, attach, in, walkFrame(1, 1, []string{"..", ".."}), clunkFrame(1), in, version))
	flush := wire.End(le.AppendUint16(wire.Begin(nil, plan9.Tflush, 9), 0), 0)
	f.Add(slices.Concat(version, attach, in, flush, out, flush, clunkFrame(2), in))
	last := walkFrame(0, 1, []string{"ci", "last"})
	open := wire.End(append(le.AppendUint32(wire.Begin(nil, plan9.Topen, 0), 1), plan9.OREAD), 0)
	f.Add(slices.Concat(version, attach, last, walkFrame(1, 2, []string{"stdout"}), open, clunkFrame(1), walkFrame(2, 3, []string{"..", ".."}), flush))
	f.Add(slices.Concat(version, attach, walkFrame(0, 1, []string{"ci", "last", "..", "last", "artifacts"}), last, clunkFrame(1), last, open, flush, last, version))
	f.Fuzz(func(t *testing.T, says []byte) {
		m, _, _ := newAliasMux(t, 1)
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() {
			m.Serve(context.Background(), far)
			close(done)
		}()
		go io.Copy(io.Discard, near)
		near.Write(says)
		near.Close()
		<-done
		if got, err := read(t.Context(), client9(t, m, ninep.Plan9).Root(), "ci/last/stdout"); err != nil || got != "of a\n" {
			t.Errorf("afterwards: %q, %v", got, err)
		}
	})
}
