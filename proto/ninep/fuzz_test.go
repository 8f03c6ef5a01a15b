package ninep

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"9ci/fs"
	"9ci/proto/internal/load"
	"9ci/proto/internal/testtree"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
)

// FuzzFrame holds our layouts to 9fans' codec, and the trace's text to the
// frames it is of.
func FuzzFrame(f *testing.F) {
	for _, line := range []string{
		"Tversion tag -1 msize 8192 version 9P2000",
		"Twalk tag 1 fid 0 newfid 1 wname [ci \"a b\" \"\"]",
		"Rwalk tag 1 wqid [1.2.80 3.4.0]",
		"Tread tag 1 fid 2 offset 3 count 4",
		"Rread tag 1 data \"\\x00abc\"",
		"Rerror tag 1 ename \"file not found\"",
		"Twstat tag 1 fid 2 stat \"\\x01\\x00a\"",
	} {
		frame, err := parse(Plan9, line)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(Plan9), frame)
	}
	f.Add(uint8(DotL), []byte("\x13\x00\x00\x00\x18\x01\x00\x01\x00\x00\x00\xff\x07\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, dialect uint8, frame []byte) {
		d := Plan9
		if Dialect(dialect) == DotL {
			d = DotL
		}
		if len(frame) < wire.HeaderSize {
			return
		}
		le.PutUint32(frame, uint32(len(frame)))
		l := wire.Layouts[d][frame[4]]
		fits := l != nil && l.Fits(frame)
		s := wire.Text(d, frame, 1<<20)
		if !fits {
			return
		}
		back, err := parse(d, s)
		if err != nil || !bytes.Equal(back, frame) {
			t.Errorf("%s\nparses to %x, %v, want %x", s, back, err, frame)
		}
		if d == DotL {
			return
		}
		many := (frame[4] == plan9.Twalk && le.Uint16(frame[15:]) > plan9.MAXWELEM) ||
			(frame[4] == plan9.Rwalk && le.Uint16(frame[7:]) > plan9.MAXWELEM)
		if many {
			return // ours to refuse with an error, theirs to call malformed
		}
		fcall, err := plan9.UnmarshalFcall(slices.Clone(frame))
		if err != nil {
			t.Fatalf("%s: 9fans says %v", s, err)
		}
		if b, err := fcall.Bytes(); err != nil || !bytes.Equal(b, frame) {
			t.Errorf("%s: 9fans has %x, %v, want %x", s, b, err, frame)
		}
	})
}

// A modelFid is what the model knows of a fid.
type modelFid struct {
	path []string
	open bool
	mode uint8
}

// A model predicts what the core answers.
type model struct {
	d    Dialect
	fids map[uint32]*modelFid
}

// kind is 'd', 'f', or 0 for what is not there.
func (m *model) kind(path []string) byte {
	p := strings.Join(path, "/")
	p = strings.Replace(p, "ci/last", "ci/3f2a9c1d0b7e.1", 1)
	switch p {
	case "", "ci", "ci/3f2a9c1d0b7e.1":
		return 'd'
	case "ci/3f2a9c1d0b7e.1/status", "ci/3f2a9c1d0b7e.1/secret", "ctl", "empty", "link":
		return 'f'
	}
	return 0
}

var modelPaths = [][]string{
	{}, {"ci"}, {"ci", "last", "status"}, {"nothing"}, {"link"}, {"..", ".."}, {"ctl"}, {"ci", "nothing"},
	{"empty", "x"}, {"last"}, {"secret"}, {"status"}, {"..", "ci"}, {"ci", "..", "ci", "3f2a9c1d0b7e.1"},
	{"a/b"}, {""}, strings.Fields(strings.Repeat("x ", 17)),
}

// next is the frame that op, fid and arg make, and what becomes of it: the
// answer's text up to its values.
func (m *model) next(tag uint16, op, a, b byte) (frame []byte, want string) {
	fid, f := uint32(a%6), m.fids[uint32(a%6)]
	fails := fmt.Sprintf("Rerror tag %d", tag)
	if m.d == DotL {
		fails = fmt.Sprintf("Rlerror tag %d", tag)
	}
	ok := func(name string) string { return fmt.Sprintf("%s tag %d", name, tag) }
	frame = le.AppendUint32(wire.Begin(nil, 0, tag), fid)
	set := func(typ uint8) { frame[4] = typ }
	switch op % 8 {
	case 0, 1:
		newfid, names := uint32(b>>4%6), modelPaths[int(b)%len(modelPaths)]
		frame = load.AppendWalk(nil, int(tag), fid, newfid, names...)
		return frame, m.walk(f, fid, newfid, names, fails, ok)
	case 2:
		set(plan9.Topen)
		mode := b % 4
		if m.d == DotL {
			set(wire.Tlopen)
			frame = le.AppendUint32(frame, uint32(mode))
		} else {
			frame = append(frame, mode)
		}
		return wire.End(frame, 0), m.open(f, mode, fails, ok)
	case 3:
		set(plan9.Tclunk)
		if f == nil {
			return wire.End(frame, 0), fails
		}
		delete(m.fids, fid)
		return wire.End(frame, 0), ok("Rclunk")
	case 4:
		set(plan9.Tremove)
		delete(m.fids, fid)
		return wire.End(frame, 0), fails
	case 5:
		set(plan9.Tflush)
		// Of what was never asked: a read of ctl could go unanswered.
		frame = le.AppendUint16(wire.Begin(nil, plan9.Tflush, tag), 1000+uint16(b))
		return wire.End(frame, 0), ok("Rflush")
	case 6:
		set(plan9.Tread)
		frame = le.AppendUint64(frame, uint64(b))
		frame = wire.End(le.AppendUint32(frame, 100), 0)
		switch {
		case f == nil || !f.open || f.mode == 1:
			return frame, fails
		case m.kind(f.path) == 'd':
			return frame, "" // where it stands is not modelled
		case f.path[len(f.path)-1] == "ctl":
			return frame, "" // live: may be answered later
		}
		return frame, ok("Rread")
	}
	// Any bytes: only that it is answered.
	frame = append(wire.Begin(nil, b, tag), a, op, b, a, 0, 0)
	if b == plan9.Tversion || b == plan9.Tflush {
		frame[4] = 0
	}
	if b == plan9.Tclunk || b == plan9.Tremove { // short of a fid
		frame = frame[:wire.HeaderSize]
	}
	return wire.End(frame, 0), ""
}

func (m *model) walk(f *modelFid, fid, newfid uint32, names []string, fails string, ok func(string) string) string {
	switch {
	case f == nil, fid != newfid && m.fids[newfid] != nil, len(names) > 16, f.open && m.d == Plan9:
		return fails
	}
	path := slices.Clone(f.path)
	for i, name := range names {
		isDir := m.kind(path) == 'd'
		if name == ".." && isDir {
			path = path[:max(0, len(path)-1)]
			continue
		}
		next := append(slices.Clone(path), name)
		if !isDir || name == "" || m.kind(next) == 0 {
			if i == 0 {
				return fails
			}
			return ok("Rwalk")
		}
		path = next
	}
	if fid == newfid && f.open {
		f.path = path // a walk of an open fid to itself moves it
		return ok("Rwalk")
	}
	m.fids[newfid] = &modelFid{path: path}
	return ok("Rwalk")
}

func (m *model) open(f *modelFid, mode uint8, fails string, ok func(string) string) string {
	if f == nil || f.open {
		return fails
	}
	name := "/"
	if len(f.path) > 0 {
		name = f.path[len(f.path)-1]
	}
	writes := mode == 1 || mode == 2 || mode == 3 && m.d == DotL
	switch {
	case m.kind(f.path) == 'd' && writes, name == "secret", name == "link" && (m.d == DotL || writes),
		writes && name != "ctl":
		return fails
	}
	f.open, f.mode = true, mode
	if m.d == DotL {
		return ok("Rlopen")
	}
	return ok("Ropen")
}

// FuzzCore sends the core bursts and holds its answers to a model of fids.
func FuzzCore(f *testing.F) {
	f.Add(false, []byte{0, 0, 0x12, 2, 1, 0, 6, 1, 0, 3, 1, 0, 3, 1, 0})
	f.Add(true, []byte{1, 0, 0x22, 2, 2, 0, 6, 2, 0, 4, 2, 0, 5, 0, 1})
	f.Add(false, []byte{0, 0, 0x10, 0, 1, 0x11, 7, 3, 99, 7, 0, 120, 0, 1, 0x21})
	f.Add(true, []byte{0, 0, 0x16, 2, 1, 2, 6, 1, 0, 6, 1, 7, 3, 1, 0, 0, 0, 0x16})
	f.Fuzz(func(t *testing.T, dotl bool, ops []byte) {
		d := Plan9
		if dotl {
			d = DotL
		}
		root, _ := testtree.New()
		w := dialWire(t, &Server{Root: root, User: fs.User{Name: "glenda", UID: 1000}}, d, 8216)
		m := &model{d: d, fids: map[uint32]*modelFid{0: {}}}
		var burst []byte
		want := make(map[uint16]string)
		for tag := uint16(0); len(ops) >= 3 && tag < 500; tag++ {
			frame, s := m.next(tag, ops[0], ops[1], ops[2])
			burst = append(burst, frame...)
			want[tag] = s
			ops = ops[3:]
		}
		go w.Write(burst)
		for range len(want) {
			frame, err := w.fr.Next(maxFrame)
			if err != nil {
				t.Fatal(err)
			}
			l := wire.Layouts[d][frame[4]]
			if l == nil || !l.Fits(frame) {
				t.Fatalf("malformed answer %x", frame)
			}
			got := wire.Text(d, frame, 100)
			s, ok := want[le.Uint16(frame[5:])]
			if !ok || !strings.HasPrefix(got, s) {
				t.Fatalf("got %s, want %s", got, s)
			}
			delete(want, le.Uint16(frame[5:]))
		}
		w.Close()
	})
}

const maxFrame = wire.MaxMsize

// FuzzImport lets a client talk to a peer that says anything.
func FuzzImport(f *testing.F) {
	root, _ := testtree.New()
	for _, d := range []Dialect{Plan9, DotL} {
		f.Add(record(f, root, d))
	}
	f.Fuzz(func(t *testing.T, replies []byte) {
		near, far := net.Pipe()
		go io.Copy(io.Discard, far)
		go func() {
			far.Write(replies)
			far.Close()
		}()
		useTree(t.Context(), near)
	})
}

// useTree does with the tree at conn what clients do.
func useTree(ctx context.Context, conn net.Conn) {
	c, err := Import(ctx, conn, ImportOptions{Uname: "glenda"})
	if err != nil {
		return
	}
	defer c.Close()
	sts, _ := c.Root().ReadDir(ctx, 0, 100) // what came before an error counts
	for _, st := range sts {
		if fs.CheckName(st.Name) != nil || st.Size < 0 || st.Path >= 1<<56 {
			panic(fmt.Sprintf("an impossible entry: %+v", st))
		}
	}
	n, err := walkPath(ctx, c.Root(), "ci", "last", "status")
	if err == nil {
		fs.ReadAll(ctx, n)
	}
}

// record returns what a true server says to useTree.
func record(t testing.TB, root fs.Dir, d Dialect) []byte {
	near, far := net.Pipe()
	s := &Server{Root: root, User: fs.User{Name: "glenda", UID: 1000}}
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), far) }()
	var said bytes.Buffer
	useTree(context.Background(), recorder{near, &said})
	near.Close()
	<-done
	return said.Bytes()
}

type recorder struct {
	net.Conn
	said *bytes.Buffer
}

func (r recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.said.Write(p[:n])
	return n, err
}
