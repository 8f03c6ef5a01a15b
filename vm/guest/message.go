package guest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// headerSize is the number of bytes of size[4] type[1] id[4].
const headerSize = 9

// A message is one of the protocol. Its data is valid until the next read.
type message struct {
	kind byte
	id   uint32
	data []byte
}

// A conn reads messages on one goroutine and writes them from any.
type conn struct {
	rwc io.ReadWriteCloser
	r   *bufio.Reader
	buf []byte // of the last message read

	mu  sync.Mutex // guards writes to rwc, and out
	out []byte
}

func newConn(rwc io.ReadWriteCloser) *conn {
	return &conn{rwc: rwc, r: bufio.NewReaderSize(rwc, MaxData+headerSize)}
}

func (c *conn) read() (message, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return message{}, err
	}
	size := binary.LittleEndian.Uint32(h[:])
	if size < headerSize || size > MaxSize {
		return message{}, fmt.Errorf("message of %d bytes, want %d to %d", size, headerSize, MaxSize)
	}
	n := int(size) - headerSize
	if cap(c.buf) < n {
		c.buf = make([]byte, n)
	}
	m := message{kind: h[4], id: binary.LittleEndian.Uint32(h[5:]), data: c.buf[:n]}
	if _, err := io.ReadFull(c.r, m.data); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return message{}, err
	}
	return m, nil
}

// write sends a message in one Write. Its error is that of the Write, or says
// that the message would be longer than MaxSize.
func (c *conn) write(kind byte, id uint32, data ...byte) error {
	if len(data) > MaxSize-headerSize {
		return fmt.Errorf("message of %d bytes, want at most %d", len(data)+headerSize, MaxSize)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b := binary.LittleEndian.AppendUint32(c.out[:0], uint32(len(data)+headerSize))
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint32(b, id)
	b = append(b, data...)
	c.out = b[:0]
	_, err := c.rwc.Write(b)
	return err
}

// words returns the data, which must be exactly n integers of four bytes.
func (m message) words(n int) ([]uint32, error) {
	if len(m.data) != 4*n {
		return nil, m.errorf("%d bytes of data, want %d", len(m.data), 4*n)
	}
	w := make([]uint32, n)
	for i := range w {
		w[i] = binary.LittleEndian.Uint32(m.data[4*i:])
	}
	return w, nil
}

func appendWords(w ...uint32) []byte {
	var b []byte
	for _, x := range w {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

var names = [...]string{
	rHello: "Rhello", tPrep: "Tprep", rPrep: "Rprep", tBoot: "Tboot", rBoot: "Rboot", rError: "Rerror",
	tRun: "Trun", rRun: "Rrun", tInput: "Tinput", rTaken: "Rtaken",
	rStdout: "Rstdout", rStderr: "Rstderr", tTaken: "Ttaken",
	tSignal: "Tsignal", tResize: "Tresize", rExit: "Rexit",
	tPing: "Tping", rPing: "Rping", tHalt: "Thalt",
}

// errorf returns an error that says what is wrong with m.
func (m message) errorf(format string, args ...any) error {
	name := fmt.Sprintf("message of type %d", m.kind)
	if int(m.kind) < len(names) && names[m.kind] != "" {
		name = names[m.kind]
	}
	return fmt.Errorf("%s of %d: %s", name, m.id, fmt.Sprintf(format, args...))
}
