package orchestrator

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"9ci/orchestrator/access"
)

// Health returns nil if clients can connect and log in, else what is wrong: a
// listener cannot accept, or the host key or a file that says which keys may enter
// cannot be read, or the server is stopping.
func (s *Server) Health() error {
	if s.stopping() {
		return errStopping
	}
	if f := s.failed.Load(); f != nil && time.Since(f.at) < 2*acceptWait {
		return fmt.Errorf("listener %s: %w", f.addr, f.err)
	}
	files := []string{filepath.Join(s.state, hostKeyFile), filepath.Join(s.state, authorizedKeysFile), filepath.Join(s.state, access.AuthorityFile)}
	if s.authorities != "" {
		files = append(files, s.authorities)
	}
	if s.tls != nil {
		files = append(files, access.TLSNeeded(s.state)...)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("state: %w", err)
		}
		_, err = f.Read(make([]byte, 1))
		f.Close()
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("state: %w", err)
		}
	}
	return nil
}
