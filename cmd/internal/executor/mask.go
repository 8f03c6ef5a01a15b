package executor

import (
	"bytes"
	"io"
	"strings"
)

// A mask hides the values of secrets in output.
type mask struct {
	secrets [][]byte
}

// newMask hides the values of the NAME=VALUE pairs given. An empty value is
// nothing to hide.
func newMask(env []string) mask {
	var m mask
	for _, v := range env {
		if _, value, _ := strings.Cut(v, "="); value != "" {
			m.secrets = append(m.secrets, []byte(value))
		}
	}
	return m
}

func (m mask) writer(w io.Writer) *maskWriter {
	return &maskWriter{mask: m, w: w}
}

// A maskWriter replaces each secret by ***. It holds back a tail that may be
// the start of one, until more bytes or Flush decide.
type maskWriter struct {
	mask
	w    io.Writer
	held []byte
}

func (w *maskWriter) Write(p []byte) (int, error) {
	if len(w.secrets) == 0 {
		return w.w.Write(p)
	}
	b := append(w.held, p...)
	var out []byte
	for len(b) > 0 {
		s, whole := w.match(b)
		if whole {
			out = append(out, "***"...)
			b = b[s:]
		} else if s > 0 {
			break
		} else {
			out = append(out, b[0])
			b = b[1:]
		}
	}
	w.held = bytes.Clone(b)
	if len(out) > 0 {
		if _, err := w.w.Write(out); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// match reports whether b starts with a secret, the longest there is, or
// whether all of b is the start of a longer one; s is the length of either.
func (m mask) match(b []byte) (s int, whole bool) {
	for _, v := range m.secrets {
		if len(v) > len(b) && bytes.HasPrefix(v, b) {
			return len(b), false
		}
	}
	for _, v := range m.secrets {
		if bytes.HasPrefix(b, v) && len(v) > s {
			s, whole = len(v), true
		}
	}
	return s, whole
}

// Flush writes what is held back: no secret, as no more bytes come.
func (w *maskWriter) Flush() error {
	b := w.held
	w.held = nil
	for len(b) > 0 {
		s, whole := w.match(b)
		if !whole {
			break
		}
		w.w.Write([]byte("***"))
		b = b[s:]
	}
	_, err := w.w.Write(b)
	return err
}

// A tail keeps the last bytes written to it.
type tail struct{ b []byte }

const tailSize = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b) - tailSize; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }
