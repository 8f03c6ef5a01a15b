package disk

import (
	"fmt"
	"io"
	"os"
)

// ReadFile reads a file of at most limit bytes.
func ReadFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return ReadAll(f, limit)
}

// ReadAll reads f, of at most limit bytes, from where it is, and closes it.
func ReadAll(f *os.File, limit int64) ([]byte, error) {
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is over %d bytes", f.Name(), limit)
	}
	return b, err
}
