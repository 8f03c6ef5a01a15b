package wire

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

// A client with a token logs in as UserJoin by any key of its own, executes
// CommandLogin, writes the token to its standard input, and ends that. On standard
// output comes a certificate for that key, one line as ssh.MarshalAuthorizedKey
// writes it, and on standard error lines for people. With the certificate the
// client logs in as anybody else. UserJoin may do nothing else.
//
// A person has no token. If standard input ends with nothing, or nothing comes for
// TokenPause, CommandLogin says on standard error what its person has to do on the page
// of the orchestrator, in a browser anywhere, and goes on when that is done or
// ApproveTime is over. A token that comes before that counts.
//
// CommandPage prints the URL of the page, on a line. CommandPage PORT STATE, which is
// once a connection, prints the URL that a client opens in a browser of its own machine.
// When the key is approved there, the browser is sent to
// http://127.0.0.1:PORT/?code=CODE&state=STATE, or with error= in the place of code=, and
// the client executes CommandLogin on the same connection with CodePrefix and CODE for a
// token. So it shows that who has approved the key sits where it runs. Port is a
// decimal number, and State is random, of the unreserved characters of RFC 3986.
const (
	UserJoin     = "join"
	CommandLogin = "login"
	CommandPage  = "page"
)

// Exit statuses of CommandLogin and CommandPage, besides 0. On standard error is one line,
// which says why; of a login on the page it is the last. It begins with the command and a
// colon, which what a person is told before does not.
const (
	LoginRefused = 1  // the token does not let this key in, now or later
	LoginBusy    = 75 // the same token may be tried again: EX_TEMPFAIL of sysexits(3)
)

// Limits on a login.
const (
	MaxToken    = 16 << 10         // bytes of the token, with the white space around it
	TokenTime   = 30 * time.Second // in which it has been sent
	TokenPause  = 2 * time.Second  // before its first byte
	ApproveTime = 10 * time.Minute // in which a key is approved on the page
)

// RequestRenew is a global request by which a client gives its connection another
// certificate, before the one that counts ends. The payload is the certificate as it
// travels (its Marshal). It must be one that could log in at that moment, of the same
// key and with the same identity (authority and principal) as the connection's. From
// then on it is what the client has logged in with; all that is open stays as it is.
// The answer has no payload, that of a refusal the reason, and the connection goes on
// with the certificate that it had. A connection whose certificate ends, ends.
//
// A person has no token to get the next certificate by. With an empty payload the
// orchestrator makes it, as long as the account's session allows that, and the payload of
// the answer is the certificate as it travels; else its person has to log in again, and the
// reason says so.
const RequestRenew = "renew@9ci"

// RequestEnded is a global request by which the orchestrator tells a client, wanting no
// answer, why it ends the connection now. The payload is the reason. The ssh package
// cannot send SSH_MSG_DISCONNECT (RFC 4253 §11.1).
const RequestEnded = "ended@9ci"

// Extensions of a CI job's certificate. They count in certificates of the
// orchestrator's own authority alone.
const (
	ExtensionNamespace = "namespace@9ci" // the only namespace that it is for
	ExtensionRights    = "rights@9ci"    // read, publish, or "read publish"
	ExtensionCommit    = "commit@9ci"    // in hexadecimal: it publishes runs of this commit alone
)

// TokenPrefix begins a repository token, which is TokenPrefix and 43 characters of
// unpadded base64url.
const TokenPrefix = "9ci_"

// CodePrefix begins what a client shows that has got a code of the page by its browser.
const CodePrefix = "code_"

// Audience returns what a CI job's token is to be made out to, so that it is of no use
// with another key or at another orchestrator. Host is the orchestrator's name, as in
// CI_ORCHESTRATOR and in -url, in lower case and without a port; key is the one that
// logs in as UserJoin.
func Audience(host string, key ssh.PublicKey) string { return host + ":" + Fingerprint(key) }

// ParseCertificate reads what CommandLogin printed, and returns an error unless it is a
// user certificate for key.
func ParseCertificate(line []byte, key ssh.PublicKey) (*ssh.Certificate, error) {
	parsed, _, options, rest, err := ssh.ParseAuthorizedKey(line)
	if err != nil || len(options) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("the answer to a login is no certificate: %.80q", line)
	}
	cert, ok := parsed.(*ssh.Certificate)
	switch {
	case !ok || cert.CertType != ssh.UserCert:
		return nil, errors.New("the answer to a login is a key without a user certificate")
	case !bytes.Equal(cert.Key.Marshal(), key.Marshal()):
		return nil, fmt.Errorf("the answer to a login is a certificate for the key %s, not for %s", Fingerprint(cert), Fingerprint(key))
	}
	return cert, nil
}
