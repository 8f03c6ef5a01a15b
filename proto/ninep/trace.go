package ninep

import (
	"9ci/proto/internal/wire"
	"fmt"
)

// traceData is how much of a message's data a trace shows.
const traceData = 64

func (c *conn) traceFrame(dir string, d Dialect, frame []byte) {
	s := c.srv
	if s.Trace == nil {
		return
	}
	line := wire.Text(d, frame, traceData)
	s.trace.Lock()
	defer s.trace.Unlock()
	fmt.Fprintf(s.Trace, "%s %s\n", dir, line)
}
