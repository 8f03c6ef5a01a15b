package wire

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/crypto/ssh"

	"9ci/fs/ci"
)

// MaxDoor is how many bytes a Door has as text.
const MaxDoor = 8 << 10

// A Door says how to enter an executor's own SSH server.
type Door struct {
	Key     ssh.PublicKey // its host key
	Address string        // host:port where it listens; "" if it is reached by ChannelSSH alone
	User    string        // to log in as at Address
}

// Text returns d as it travels: attr=value lines.
func (d Door) Text() []byte {
	return ci.Attrs{
		{Name: "key", Value: string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(d.Key)))},
		{Name: "address", Value: d.Address},
		{Name: "user", Value: d.User},
	}.Text()
}

// ParseDoor reads what Text wrote, and checks it. It ignores attributes that it
// does not know.
func ParseDoor(b []byte) (Door, error) {
	if len(b) > MaxDoor {
		return Door{}, fmt.Errorf("door of over %d bytes", MaxDoor)
	}
	attrs, err := ci.ParseAttrs(b)
	if err != nil {
		return Door{}, fmt.Errorf("door: %w", err)
	}
	d := Door{Address: attrs.Get("address"), User: attrs.Get("user")}
	if d.Key, _, _, _, err = ssh.ParseAuthorizedKey([]byte(attrs.Get("key"))); err != nil {
		return Door{}, fmt.Errorf("door: key: %w", err)
	}
	if _, ok := d.Key.(*ssh.Certificate); ok {
		return Door{}, errors.New("door: key: a certificate")
	}
	if d.Address == "" {
		return d, nil
	}
	if _, _, err := net.SplitHostPort(d.Address); err != nil || checkAddress(d.Address) != nil || d.User == "" || strings.ContainsAny(d.User, "\x00") {
		return Door{}, fmt.Errorf("door: address %.80q: want host:port, and a user", d.Address)
	}
	return d, nil
}
