package host

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/home"
	"9ci/cmd/internal/show"
	"9ci/cmd/internal/sign"
	"9ci/orchestrator/dial"
)

// DialOptions are how this user, whose key CI_KEY signs runs, connects to the
// orchestrator at rawURL. At tls:// the certificate of CI_TLS_CERT logs in. At ssh://,
// in this order:
//
//   - CI_TOKEN, if it is set, and nothing else does then;
//   - the certificate that stands beside the key at the time, or the key; if it is a person's,
//     the orchestrator renews it as long as the connection is open;
//   - if this is a CI job, the token that the job's forge makes for it.
//
// Tokens are for the orchestrator of CI_ORCHESTRATOR: no other one is shown any.
func DialOptions(key ssh.Signer, c *config.Config, rawURL string) (dial.Options, error) {
	dir, err := home.Dir()
	o := dial.Options{
		Key:        key,
		Login:      func() ([]ssh.Signer, error) { return sign.Logins(key, c.Key) },
		Stay:       stay(c.Key),
		TLS:        dial.TLSFiles{Cert: c.TLSCert, Key: c.TLSKey, CA: c.TLSCA},
		KnownHosts: filepath.Join(dir, ".ssh", "known_hosts"),
		MoreHosts:  []string{"/etc/ssh/ssh_known_hosts"},
		Proxy:      c.ProxyCommand,
		ProxySaid:  func(line string) { show.Message("9ci", "CI_PROXY_COMMAND: "+line) },
	}
	job := jobToken()
	switch {
	case c.Token == "" && job == nil:
	case !sameServer(rawURL, c.Orchestrator):
		o.Login = func() ([]ssh.Signer, error) {
			signers, err := sign.Logins(key, c.Key)
			return signers, errors.Join(err, errors.New("a token logs in at CI_ORCHESTRATOR alone"))
		}
	case c.Token != "":
		o.Login = nil
		o.Pass = pass(key, c, repositoryToken(c.Token), c.Token)
	default:
		o.Pass = pass(key, c, *job, "")
	}
	return o, err
}

// repositoryToken is CI_TOKEN.
func repositoryToken(text string) dial.Token {
	return dial.Token{
		Name: "CI_TOKEN",
		Mend: "orchestrator tokens, at the orchestrator, lists those that may, and orchestrator token NAMESPACE makes the next for CI_TOKEN",
		Get:  func(context.Context, string) (string, error) { return text, nil },
	}
}

// passes are the passes of this process, by passKey: the hosts of a daemon share one.
var passes sync.Map

// A passKey says for what a *dial.Pass is good.
type passKey struct {
	server string // an address
	key    string // the fingerprint of the key
	token  [sha256.Size]byte
}

// pass returns the Pass of the token by which text logs in, at the orchestrator of c;
// text is "" for the token of the CI job, which is one.
func pass(key ssh.Signer, c *config.Config, token dial.Token, text string) *dial.Pass {
	k := passKey{server(c.Orchestrator), sign.Fingerprint(key.PublicKey()), sha256.Sum256([]byte(text))}
	p, _ := passes.LoadOrStore(k, dial.NewPass(key, token))
	return p.(*dial.Pass)
}

// sameServer reports whether two URLs are of one orchestrator.
func sameServer(a, b string) bool { return server(a) != "" && server(a) == server(b) }

// server returns the address in an orchestrator's URL, or "" if there is none.
func server(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "ssh" {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = "22"
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
