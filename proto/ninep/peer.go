package ninep

import (
	"net"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"

	"9ci/fs"
)

// PeerUser returns the user at the other end of a Unix socket, as the kernel knows
// it. It does not block.
func PeerUser(c *net.UnixConn) (fs.User, error) {
	uid, _, err := peerCred(c)
	if err != nil {
		return fs.User{}, err
	}
	return fs.User{Name: userName(uid), UID: int64(uid)}, nil
}

// peerProgram returns the name of the executable of the process that connected, or
// "" if the kernel does not tell: the process has gone, or is another user's.
func peerProgram(c *net.UnixConn) string {
	_, pid, err := peerCred(c)
	if err != nil {
		return ""
	}
	exe := programOf(pid)
	if exe == "" {
		return ""
	}
	return filepath.Base(exe)
}

// names caches the names of users or groups by number.
type names struct {
	lookup func(id string) (string, error)
	mu     sync.Mutex
	m      map[uint32]string
}

var users = names{lookup: func(id string) (string, error) {
	u, err := user.LookupId(id)
	if err != nil {
		return "", err
	}
	return u.Username, nil
}}

var groups = names{lookup: func(id string) (string, error) {
	g, err := user.LookupGroupId(id)
	if err != nil {
		return "", err
	}
	return g.Name, nil
}}

// nobody is the number of a user whom this machine does not know.
const nobody = 65534

// peerNumber returns the number for the name that a peer gives an owner in
// 9P2000. But for root, a name of another machine means nothing here; digits do.
func peerNumber(name string) uint32 {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n)
	}
	if name == "root" {
		return 0
	}
	return nobody
}

// userName returns the name of uid, or its digits if it has none.
func userName(uid uint32) string { return users.name(uid) }

func groupName(gid uint32) string { return groups.name(gid) }

func (n *names) name(id uint32) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	name, ok := n.m[id]
	if !ok {
		digits := strconv.FormatUint(uint64(id), 10)
		var err error
		if name, err = n.lookup(digits); err != nil {
			name = digits
		}
		if n.m == nil || len(n.m) >= 1024 { // a tree may hold files of any owner
			n.m = make(map[uint32]string)
		}
		n.m[id] = name
	}
	return name
}
