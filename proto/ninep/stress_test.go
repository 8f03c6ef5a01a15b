package ninep

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/proto/internal/load"
	"9ci/proto/internal/testtree"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
)

// Requests on a slow tree, flushed at any moment: each is answered once, or
// not at all and then its Tflush is; nothing is answered after its Rflush; and
// at the end the connection is as it should be.
func TestStress(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) { stress(t, rand.New(rand.NewPCG(seed, 9))) })
	}
}

func stress(t *testing.T, rnd *rand.Rand) {
	root, _ := testtree.New()
	root.OnWalk = func(ctx context.Context, name string) error {
		// A walk may be slow, and may be slow to hear of its end.
		if d := time.Duration(len(name)%4) * 7 * time.Millisecond; d > 0 {
			select {
			case <-time.After(d):
			case <-ctx.Done():
				time.Sleep(d)
				return ctx.Err()
			}
		}
		return nil
	}
	w := dialWire(t, &Server{Root: root, User: fs.User{Name: "g", UID: 1}}, Plan9, 8216)

	type asked struct {
		typ      uint8
		answered bool
		flush    uint16 // tag of the Tflush that names it
	}
	const total = 300
	all := make([]asked, total)
	var out []byte
	for tag := range all {
		fid, newfid := uint32(1+rnd.IntN(7)), uint32(1+rnd.IntN(7))
		var frame []byte
		switch rnd.IntN(6) {
		case 0, 1:
			names := [][]string{{"ci"}, {"link"}, {"ctl"}, {"empty"}, {"nothing"}, {"ci", "last", "status"}}[rnd.IntN(6)]
			frame = load.AppendWalk(nil, tag, 0, newfid, names...)
		case 2:
			frame = load.AppendFid(nil, plan9.Topen, tag, fid, plan9.OREAD)
		case 3:
			frame = load.AppendRead(nil, plan9.Tread, tag, fid, 0, 100)
		case 4:
			frame = load.AppendFid(nil, plan9.Tclunk, tag, fid)
		case 5:
			old := max(0, tag-1-rnd.IntN(6))
			frame = wire.End(le.AppendUint16(wire.Begin(nil, plan9.Tflush, uint16(tag)), uint16(old)), 0)
			all[old].flush = uint16(tag)
		}
		all[tag].typ = frame[4]
		out = append(out, frame...)
	}
	go func() {
		for len(out) > 0 { // in bursts
			n := 0
			for range 1 + rnd.IntN(10) {
				if n < len(out) {
					n += int(le.Uint32(out[n:]))
				}
			}
			w.Write(out[:n])
			out = out[n:]
			if rnd.IntN(3) == 0 {
				time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
			}
		}
		// The last word, which is answered when all else has been.
		time.Sleep(time.Minute)
		w.send("Tflush tag %d oldtag 65000", total)
	}()
	for {
		frame, err := w.fr.Next(wire.MaxMsize)
		if err != nil {
			t.Fatal(err)
		}
		tag := le.Uint16(frame[5:])
		if tag == total {
			break
		}
		a := &all[tag]
		switch {
		case a.answered:
			t.Errorf("answered twice: %s", wire.Text(Plan9, frame, 100))
		case a.flush != 0 && all[a.flush].answered:
			t.Errorf("answered after its Rflush: %s", wire.Text(Plan9, frame, 100))
		case a.typ == plan9.Tflush && frame[4] != plan9.Rflush:
			t.Errorf("Tflush answered by %s", wire.Text(Plan9, frame, 100))
		}
		a.answered = true
	}
	for tag, a := range all {
		if !a.answered && (a.flush == 0 || a.typ == plan9.Tflush) {
			t.Errorf("tag %d, a message of type %d, was never answered", tag, a.typ)
		}
	}
	// Every fid but the root's can be clunked or is unknown, and the root works.
	for fid := uint32(1); fid < 8; fid++ {
		w.send("Tclunk tag 1 fid %d", fid)
		if frame, err := w.fr.Next(wire.MaxMsize); err != nil || frame[4] != plan9.Rclunk && frame[4] != plan9.Rerror {
			t.Errorf("Tclunk of %d: %x, %v", fid, frame, err)
		}
	}
	w.send("Twalk tag 1 fid 0 newfid 1 wname [ci]")
	w.want("Rwalk tag 1 wqid [2.1.80]")
	w.Close()
}
