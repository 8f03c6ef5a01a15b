package ninep

import (
	"syscall"

	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
	"golang.org/x/sys/unix"
)

// sendfileLeast is where moving pages begins to cost less than copying them.
const sendfileLeast = 32 << 10

// sendFile has n bytes of a file on disk, or what there is of them, follow the
// reply without a copy. It reports false where that cannot be done.
func (r *request) sendFile(n int) bool {
	c := r.c
	if !c.out.SendsFiles() || c.srv.Trace != nil { // a trace shows data
		return false
	}
	file, ok := r.file.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return false
	}
	var st unix.Stat_t
	var statErr error
	err = raw.Control(func(fd uintptr) { statErr = unix.Fstat(int(fd), &st) })
	left := st.Size - int64(r.offset)
	if err != nil || statErr != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || left < sendfileLeast {
		return false
	}
	n = int(min(int64(n), left))
	r.reply(plan9.Rread)
	r.out = le.AppendUint32(r.out, uint32(n))
	f := r.fid
	c.mu.Lock()
	f.users++ // until it is sent
	c.mu.Unlock()
	r.stretch = &wire.Stretch{File: raw, Off: int64(r.offset), Len: n, Done: func() { c.release(f) }}
	return true
}
