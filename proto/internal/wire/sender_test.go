package wire

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func socketPair(t *testing.T) (here, there net.Conn) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here, err = net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close() })
	there, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { there.Close() })
	return here, there
}

// Data of a file comes between what was put before and after it, also when
// the socket takes it bit by bit.
func TestPutData(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 100<<10)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	environ, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path string
		off        int64
		n          int
		want       []byte
	}{
		{"file", file, 7, len(content) - 100, content[7 : len(content)-93]},
		{"cut off", file, int64(len(content) - 5), 50, append([]byte("bcdef"), make([]byte, 45)...)},
		{"no sendfile", "/proc/self/environ", 1, len(environ) - 1, environ[1:]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			here, there := socketPair(t)
			f, err := os.Open(tt.path)
			if err != nil {
				t.Fatal(err)
			}
			done := 0
			s := NewSender(here)
			s.Put([]byte("before"))
			s.PutData([]byte("head"), Data{f, tt.off, tt.n, func() { done++; f.Close() }})
			s.Put([]byte("after"))
			sent := make(chan error, 1)
			go func() { sent <- s.Flush(); here.Close() }()
			got, err := io.ReadAll(there)
			if err != nil {
				t.Fatal(err)
			}
			if want := "beforehead" + string(tt.want) + "after"; string(got) != want {
				t.Errorf("got %d bytes, want %d", len(got), len(want))
			}
			if err := <-sent; err != nil || done != 1 {
				t.Errorf("Flush = %v, Done called %d times", err, done)
			}
		})
	}
}

// Data that cannot be sent is given back, whenever it was put.
func TestDataFreed(t *testing.T) {
	here, there := socketPair(t)
	f, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	done := 0
	data := Data{f, 0, 1 << 20, func() { done++ }}
	s := NewSender(here)
	s.PutData(nil, data)
	s.PutData(nil, data)
	there.Close()
	if err := s.Flush(); err == nil {
		t.Error("Flush to a closed socket succeeded")
	}
	s.PutData(nil, data)
	if done != 3 {
		t.Errorf("Done called %d times, want 3", done)
	}
	here, _ = socketPair(t)
	s = NewSender(here)
	s.PutData(nil, data)
	s.Fail(io.ErrClosedPipe)
	if done != 4 {
		t.Errorf("Done called %d times after Fail, want 4", done)
	}
}

// What the peer does not take at once goes out later, from the buffer that it is in,
// and before what was put meanwhile.
func TestWriteClaimed(t *testing.T) {
	for _, give := range []bool{false, true} {
		here, there := socketPair(t)
		s := NewSender(here)
		buf := GetBufferFor(1 << 20)[:1<<20]
		for i := range buf {
			buf[i] = byte(i >> 10)
		}
		var want []byte
		want = append(append(want, buf[100:]...), "behind"...)
		if !s.Claim() {
			t.Fatal("Claim of a Sender that nobody uses = false")
		}
		s.Put([]byte("behind"))
		taken := 0
		var take func() []byte
		if give {
			take = func() []byte { taken++; return buf[:0] }
		}
		if s.WriteClaimed(buf[100:], take) {
			t.Fatal("a peer that reads nothing took a megabyte")
		}
		if !give {
			clear(buf)
		} else if taken != 1 {
			t.Errorf("take was called %d times", taken)
		}
		sent := make(chan error, 1)
		go func() { sent <- s.Flush(); here.Close() }()
		got, err := io.ReadAll(there)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want))
		}
		if err := <-sent; err != nil {
			t.Errorf("Flush = %v", err)
		}
	}
}
