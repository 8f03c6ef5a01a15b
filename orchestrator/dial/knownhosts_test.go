package dial

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// A line of known_hosts that cannot be read names no host, and the others count.
// One that revokes a key is not passed over.
func TestKnownHostsBadLine(t *testing.T) {
	newKey := func() ssh.PublicKey {
		pub, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key, err := ssh.NewPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	const host = "box.example:2222"
	remote := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 2222}
	key, other := newKey(), newKey()
	good := knownhosts.Line([]string{host}, key) + "\n"
	name := filepath.Join(t.TempDir(), "known_hosts")
	for _, tt := range []struct {
		name, text string
		key        ssh.PublicKey
		want       error
		says       string
	}{
		{"bad line before", "# mine\nbox ssh-ed25519 nonsense\n" + good, key, nil, ""},
		{"bad line behind", good + "box ssh-ed25519 AAAA\n@unknown x\n|1|x box y", key, nil, ""},
		{"unknown host", "\nelsewhere ssh-ed25519 AAAA\n", key, ErrUnknownHost, name + ":2: "},
		{"another key", "x\n" + good, other, ErrHostKeyChanged, name + ":2 has "},
	} {
		if err := os.WriteFile(name, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := openKnownHosts(name)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if err := k.check(host, remote, tt.key); !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: check = %v, want %v, %q", tt.name, err, tt.want, tt.says)
		}
	}
	os.WriteFile(name, []byte(good+" @revoked * ssh-ed25519 nonsense\n"), 0o600)
	if _, err := openKnownHosts(name); err == nil || !strings.HasPrefix(err.Error(), name+":2: ") || !strings.Contains(err.Error(), "revokes a key") {
		t.Errorf("a revoked line that cannot be read: %v", err)
	}
}
