package mux

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"9ci/proto/internal/wire"
	"9ci/proto/ninep"

	"9fans.net/go/plan9"
)

// A talk is had with a mux message by message.
type talk struct {
	t testing.TB
	net.Conn
	fr *wire.Reader
	d  ninep.Dialect
}

func dialTalk(t testing.TB, m *Server, d ninep.Dialect) *talk {
	c := dial(t, m)
	w := &talk{t, c, wire.NewReader(c), d}
	b := le.AppendUint32(wire.Begin(nil, plan9.Tversion, plan9.NOTAG), 8216)
	w.rpc(wire.End(wire.AppendString(b, d.String()), 0))
	w.rpc(attachFrame(d, 0, "glenda", ""))
	return w
}

// rpc sends frames in one write and returns the last answer.
func (w *talk) rpc(frames ...[]byte) []byte {
	w.t.Helper()
	var all []byte
	for i, f := range frames {
		if f[4] != plan9.Tversion {
			le.PutUint16(f[5:], uint16(i))
		}
		all = append(all, f...)
	}
	go w.Write(all)
	var rx []byte
	for range frames {
		frame, err := w.fr.Next(wire.MaxMsize)
		if err != nil {
			w.t.Fatal(err)
		}
		rx = append([]byte(nil), frame...)
	}
	return rx
}

// visit walks from the root to from and from there to path, each in one walk,
// at fid and fid+1, and says what is there.
func (w *talk) visit(fid uint32, from, path string) string {
	w.t.Helper()
	rx := w.rpc(walkFrame(0, fid, strings.FieldsFunc(from, slash)))
	if isError(rx[4]) {
		return "error"
	}
	names := strings.FieldsFunc(path, slash)
	rx = w.rpc(walkFrame(fid, fid+1, names))
	defer w.rpc(clunkFrame(fid), clunkFrame(fid+1))
	if isError(rx[4]) {
		return "error"
	}
	d := wire.Decoder{B: rx[wire.HeaderSize:]}
	n := int(d.U16())
	if n < len(names) {
		return fmt.Sprintf("%d qids", n)
	}
	var q plan9.Qid
	for range n {
		q = d.Qid()
	}
	if q.Type&plan9.QTDIR != 0 {
		return fmt.Sprintf("%d is the qid", q.Path)
	}
	open := append(le.AppendUint32(wire.Begin(nil, plan9.Topen, 0), fid+1), plan9.OREAD)
	if w.d == ninep.DotL {
		open = le.AppendUint32(le.AppendUint32(wire.Begin(nil, wire.Tlopen, 0), fid+1), 0)
	}
	rd := le.AppendUint64(le.AppendUint32(wire.Begin(nil, plan9.Tread, 0), fid+1), 0)
	rx = w.rpc(wire.End(open, 0), wire.End(le.AppendUint32(rd, 100), 0))
	if isError(rx[4]) {
		return wire.Text(w.d, rx, 100)
	}
	return string(rx[wire.HeaderSize+4:])
}

func slash(r rune) bool { return r == '/' }

func clunkFrame(n uint32) []byte {
	return wire.End(le.AppendUint32(wire.Begin(nil, plan9.Tclunk, 0), n), 0)
}
