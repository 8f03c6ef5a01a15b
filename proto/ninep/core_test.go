package ninep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/proto/internal/testtree"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
)

// A talk is had with to a server message by message.
type talk struct {
	t testing.TB
	net.Conn
	fr *wire.Reader
	d  Dialect
}

func dialWire(t testing.TB, s *Server, d Dialect, msize int) *talk {
	c := serve(t, s)
	w := &talk{t, c, wire.NewReader(c), d}
	w.send("Tversion tag -1 msize %d version %s", msize, d)
	w.want("Rversion tag 65535 msize %d version %s", msize, d)
	attach := "Tattach tag 1 fid 0 afid -1 uname glenda aname \"\""
	if d == DotL {
		attach += " n_uname -1"
	}
	w.send("%s", attach)
	w.want("Rattach tag 1 qid 1.1.80")
	return w
}

func (w *talk) send(format string, args ...any) {
	w.t.Helper()
	frame, err := parse(w.d, fmt.Sprintf(format, args...))
	if err == nil {
		_, err = w.Write(frame)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *talk) want(format string, args ...any) {
	w.t.Helper()
	frame, err := w.fr.Next(wire.MaxMsize)
	if err != nil {
		w.t.Fatal(err)
	}
	if want, got := fmt.Sprintf(format, args...), wire.Text(w.d, frame, 1<<20); !matches(want, got) {
		w.t.Fatalf("got %s, want %s", got, want)
	}
}

// An operation that takes long does not keep the connection; what follows on
// its fids waits for it, in order.
func TestSlowWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root, _ := testtree.New()
		let := make(chan struct{})
		slow := testtree.NewDir("slow", 20)
		slow.Add(testtree.NewNode("file", 21, 0o444, "slow\n"))
		root.Add(slow)
		root.OnWalk = func(ctx context.Context, name string) error {
			if name == "slow" {
				select {
				case <-let:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		}
		w := dialWire(t, &Server{Root: root, User: fs.User{Name: "g", UID: 1}}, Plan9, 8216)
		w.send("Twalk tag 1 fid 0 newfid 5 wname [slow file]")
		w.send("Topen tag 2 fid 5 mode 0")
		w.send("Tread tag 3 fid 5 offset 0 count 100")
		w.send("Tclunk tag 4 fid 5")
		w.send("Twalk tag 5 fid 0 newfid 5 wname [ctl]")
		w.send("Tstat tag 6 fid 5")
		w.send("Tclunk tag 7 fid 5")
		w.send("Tclunk tag 8 fid 5")
		w.send("Twalk tag 9 fid 0 newfid 6 wname [ci]")
		w.want("Rwalk tag 9 wqid [2.1.80]") // passes the slow one
		close(let)
		w.want("Rwalk tag 1 wqid [14.1.80 15.1.0]")
		w.want("Ropen tag 2 qid 15.1.0 iounit 0")
		w.want("Rread tag 3 data %q", "slow\n")
		w.want("Rclunk tag 4")
		w.want("Rwalk tag 5 wqid [9.0.0]")
		w.want("Rstat tag 6 stat *")
		w.want("Rclunk tag 7")
		w.want("Rerror tag 8 ename %q", "unknown fid: Bad file descriptor")
		w.Close()
	})
}

// A slow walk is flushed: it is as if it had never been sent.
func TestFlushSlowWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root, _ := testtree.New()
		root.OnWalk = func(ctx context.Context, name string) error {
			if name == "link" {
				<-ctx.Done()
				time.Sleep(time.Second) // and is slow to believe it
			}
			return nil
		}
		w := dialWire(t, &Server{Root: root, User: fs.User{Name: "g", UID: 1}}, Plan9, 8216)
		go func() {
			w.send("Twalk tag 1 fid 0 newfid 5 wname [link]")
			w.send("Tclunk tag 2 fid 5")
			w.send("Tflush tag 3 oldtag 2")
			w.send("Tflush tag 4 oldtag 1")
			w.send("Twalk tag 1 fid 0 newfid 5 wname [ci]")
		}()
		w.want("Rflush tag 3")
		w.want("Rflush tag 4")
		w.want("Rwalk tag 1 wqid [2.1.80]")
		w.send("Tclunk tag 2 fid 5")
		w.want("Rclunk tag 2")
		w.Close()
	})
}

// 9pfuse neither flushes nor lets a reader die: its read of a silent file is
// answered after a second. Others wait, whatever their msize.
func TestPfuse(t *testing.T) {
	lookups := []string{"ci", "last", "live"}
	for _, test := range []struct {
		name  string
		msize int
		auth  bool
		stats bool // look each name up, as 9pfuse does
		want  string
	}{
		{"9pfuse", 8192, false, true, "Rerror tag 3 ename \"Interrupted system call\""},
		{"9p", 8192, true, true, "Rread tag 3 data \"late\\n\""},
		{"small", 8192, false, false, "Rread tag 3 data \"late\\n\""},
		{"other", 8216, false, true, "Rread tag 3 data \"late\\n\""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				root, log := testtree.New()
				w := dialWire(t, &Server{Root: root, User: fs.User{Name: "g", UID: 1}}, Plan9, test.msize)
				if test.auth {
					w.send("Tauth tag 1 afid 1 uname g aname \"\"")
					w.want("Rerror tag 1 ename %q", "no authentication required")
				}
				if test.stats {
					for i, name := range lookups {
						w.send("Twalk tag 1 fid %d newfid %d wname [%s]", i, i+1, name)
						w.want("Rwalk tag 1 wqid *")
						w.send("Tstat tag 1 fid %d", i+1)
						w.want("Rstat tag 1 stat *")
					}
					w.send("Twalk tag 1 fid 3 newfid 5 wname []")
					w.want("Rwalk tag 1 wqid []")
				} else {
					w.send("Twalk tag 1 fid 0 newfid 5 wname [ci last live]")
					w.want("Rwalk tag 1 wqid * * *")
				}
				w.send("Topen tag 1 fid 5 mode 0")
				w.want("Ropen tag 1 qid * iounit 0")
				w.send("Tread tag 3 fid 5 offset 0 count 100")
				go func() {
					time.Sleep(time.Minute)
					log.Append("late\n", false)
				}()
				w.want("%s", test.want)
				time.Sleep(time.Minute)
				w.Close()
			})
		})
	}
}

// On a Unix socket the client's executable tells whether it is 9pfuse, whatever it
// sends.
func TestPeerProgram(t *testing.T) {
	l, err := Listen(filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := Dial(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := peerProgram(conn.(*net.UnixConn)), filepath.Base(exe); got != want {
		t.Errorf("peerProgram = %q, want %q", got, want)
	}
	for _, test := range []struct {
		program string
		want    bool
	}{{"9pfuse", true}, {"mount", false}, {"", true}} {
		m := marks{program: test.program, msize8k: true, stat: true}
		if m.pfuse() != test.want {
			t.Errorf("%q with 9pfuse's messages is taken for it: %v, want %v", test.program, m.pfuse(), test.want)
		}
	}
}

// A client may be silent between frames, and not for long within one.
func TestStalled(t *testing.T) {
	large := append(wire.Begin(nil, plan9.Twrite, 1), make([]byte, 5000)...)
	for _, half := range [][]byte{{9, 0}, {9, 0, 0, 0, plan9.Tflush}, wire.End(large, 0)[:5000]} {
		synctest.Test(t, func(t *testing.T) {
			root, _ := testtree.New()
			w := dialWire(t, &Server{Root: root, User: fs.User{Name: "g", UID: 1}}, Plan9, 8216)
			time.Sleep(time.Hour)
			w.send("Tclunk tag 1 fid 0")
			w.want("Rclunk tag 1")
			w.Write(half)
			start := time.Now()
			if _, err := w.Read(make([]byte, 1)); err == nil || time.Since(start) != wire.StallTime {
				t.Errorf("the connection went on for %v, %v", time.Since(start), err)
			}
		})
	}
}

// Limits end in an error for the one request, not for the connection.
func TestLimits(t *testing.T) {
	root, log := testtree.New()
	arrived, _ := log.Watch()
	w := dialWire(t, &Server{Root: root, User: fs.User{Name: "g", UID: 1}}, Plan9, 8216)
	w.send("Twalk tag 1 fid 0 newfid 1 wname [ci last live]")
	w.want("Rwalk tag 1 wqid * * *")
	w.send("Topen tag 1 fid 1 mode 0")
	w.want("Ropen tag 1 qid * iounit 0")
	for i := range maxWaiting {
		w.send("Tread tag %d fid 1 offset 0 count 100", i)
	}
	w.send("Tread tag %d fid 1 offset 0 count 100", maxWaiting)
	w.want("Rerror tag %d ename %q", maxWaiting, "too many requests or fids: Resource temporarily unavailable")
	for range maxWaiting {
		<-arrived
	}
	w.send("Tread tag 60000 fid 0 offset %d count 100", uint64(1)<<63)
	w.want("Rerror tag 60000 ename %q", "file not open for this: Bad file descriptor")
	for i := 2; i < maxFids; i++ { // one at a time: a tag is free when its answer has come
		w.send("Twalk tag 60000 fid 0 newfid %d wname []", i)
		w.want("Rwalk tag 60000 wqid []")
	}
	w.send("Twalk tag 60001 fid 0 newfid %d wname []", maxFids)
	w.want("Rerror tag 60001 ename %q", "too many requests or fids: Resource temporarily unavailable")
}

// What cannot be a frame ends the connection.
func TestBadFrames(t *testing.T) {
	for _, frame := range []string{
		"\x06\x00\x00\x00\x64\xff\xff",
		"\xff\xff\xff\xff\x64\xff\xff",
		"\x01\x02\x00\x00\x64\xff\xff",                 // longer than a Tversion may be
		"\x0b\x00\x00\x00\x78\x01\x00\x05\x00\x00\x00", // Tclunk before Tversion
	} {
		root, _ := testtree.New()
		near, far := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- (&Server{Root: root}).Serve(t.Context(), far) }()
		go near.Write([]byte(frame))
		if err := <-done; err == nil {
			t.Errorf("Serve(%q) = nil", frame)
		}
		near.Close()
	}
}

// The kernel says who is at the other end of a Unix socket.
func TestPeer(t *testing.T) {
	l, err := Listen(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	var got fs.User
	root, _ := testtree.New()
	s := &Server{Attach: func(ctx context.Context, uname, aname string) (fs.Dir, error) {
		got = fs.UserOf(ctx)
		return root, nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.ServeListener(ctx, l) }()
	conn, err := Dial(ctx, "unix!"+l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := Import(ctx, conn, ImportOptions{Uname: "somebody"})
	if err != nil {
		t.Fatal(err)
	}
	if got != me() {
		t.Errorf("user is %+v, want %+v", got, me())
	}
	if _, err := Listen(l.Addr().String()); err == nil {
		t.Error("Listen took a live server's socket")
	}
	c.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ServeListener = %v", err)
	}
	l, err = Listen(l.Addr().String())
	if err != nil {
		t.Errorf("Listen after a server ended = %v", err)
	} else {
		l.Close()
	}
}

// A client that comes by TCP is nobody.
func TestAnonymous(t *testing.T) {
	root, _ := testtree.New()
	l, err := Listen("tcp!127.0.0.1!0")
	if err != nil {
		t.Fatal(err)
	}
	var got fs.User
	s := &Server{Attach: func(ctx context.Context, uname, aname string) (fs.Dir, error) {
		got = fs.UserOf(ctx)
		return root, nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.ServeListener(ctx, l) }()
	addr := "tcp!" + strings.ReplaceAll(l.Addr().String(), ":", "!")
	conn, err := Dial(ctx, addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Import(ctx, conn, ImportOptions{Uname: "glenda"})
	if err != nil {
		t.Fatal(err)
	}
	if want := (fs.User{Name: "glenda", UID: -1, Anonymous: true}); got != want {
		t.Errorf("user is %+v, want %+v", got, want)
	}
	c.Close()
	cancel()
	<-done
}

// Serve returns when its connection hangs up, and nothing waits any more.
func TestHangup(t *testing.T) {
	root, log := testtree.New()
	arrived, closed := log.Watch()
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- (&Server{Root: root, User: fs.User{Name: "g", UID: 1}}).Serve(t.Context(), far) }()
	c, err := Import(t.Context(), near, ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := walk(t, c.Root(), "ci", "last", "live").Open(t.Context(), fs.OpenRead)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(context.Background(), make([]byte, 10), 0)
		read <- err
	}()
	<-arrived
	near.Close()
	if err := <-done; err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Serve = %v", err)
	}
	<-closed
	if err := <-read; !errors.Is(err, fs.ErrIO) {
		t.Errorf("ReadAt = %v, want %v", err, fs.ErrIO)
	}
	<-c.Done()
}
