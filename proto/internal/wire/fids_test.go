package wire

import (
	"sync"
	"testing"
)

// No fid is given to two at a time, none is 0, and what was given back is used
// again.
func TestFids(t *testing.T) {
	var f Fids
	var mu sync.Mutex
	inUse := make(map[uint32]bool)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				fid := f.New()
				mu.Lock()
				if fid == 0 || fid > 8 || inUse[fid] {
					t.Errorf("New() = %d", fid)
				}
				inUse[fid] = true
				mu.Unlock()
				mu.Lock()
				delete(inUse, fid)
				mu.Unlock()
				f.Free(fid)
			}
		})
	}
	wg.Wait()
}
