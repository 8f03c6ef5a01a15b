package wire

import "sync"

// Fids gives out the fids of a client's connection. The zero value has all of
// them but 0, at which a client attaches. NOFID is out of reach, since a peer
// allows far fewer. Several goroutines may use one.
type Fids struct {
	mu   sync.Mutex // guards what follows
	free []uint32
	last uint32 // the greatest that was given out
}

// New returns a fid that is not in use.
func (f *Fids) New() uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.free); n > 0 {
		fid := f.free[n-1]
		f.free = f.free[:n-1]
		return fid
	}
	f.last++
	return f.last
}

// InUse returns how many fids are in use.
func (f *Fids) InUse() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int(f.last) - len(f.free)
}

// Free takes back a fid that the peer has forgotten.
func (f *Fids) Free(fid uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = append(f.free, fid)
}
