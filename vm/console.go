package vm

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"sync"
)

// A console keeps the end of what is written to it, and passes all of it on.
type console struct {
	to io.Writer // or nil

	mu   sync.Mutex // guards tail
	tail []byte
}

// consoleKeep bounds a console's memory; consoleLines is how many lines
// of it an error carries.
const (
	consoleKeep  = 16 << 10
	consoleLines = 12
)

// Write never fails. If writing to the console's own writer does, that gets no
// more. Only one goroutine may call Write.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.tail = append(c.tail, p...)
	if n := len(c.tail) - consoleKeep; n > 0 {
		c.tail = append(c.tail[:0], c.tail[n:]...)
	}
	c.mu.Unlock()
	if c.to != nil {
		if _, err := c.to.Write(p); err != nil {
			c.to = nil
		}
	}
	return len(p), nil
}

// last returns the last lines, or "".
func (c *console) last() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := strings.TrimSpace(string(bytes.ReplaceAll(bytes.ToValidUTF8(c.tail, nil), []byte("\r"), nil)))
	lines := strings.Split(text, "\n")
	if n := len(lines) - consoleLines; n > 0 {
		lines = lines[n:]
	}
	return strings.Join(lines, "\n")
}

// find returns the last line that contains one of texts, or "".
func (c *console) find(texts ...string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, line := range slices.Backward(strings.Split(string(bytes.ToValidUTF8(c.tail, nil)), "\n")) {
		if slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(line, text) }) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
