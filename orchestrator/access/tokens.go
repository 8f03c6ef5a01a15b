package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"9ci/fs/ci"
	"9ci/orchestrator/internal/statedir"
	"9ci/orchestrator/internal/wire"
)

// The files of tokens.
const (
	tokensFile = "tokens"
	usedFile   = "tokens.used" // a line a token: its id, and when it was last used
)

// usedEvery is how often the use of a token is written at most.
const usedEvery = time.Minute

const tokensHead = `# Repository tokens, a line each, as orchestrator token makes them. The tokens
# themselves are not here. A line that is deleted ends its token at once, and so does
# an expires= that has passed.
`

// A Token is a line of the file tokens: attr=value pairs with blanks between them.
type Token struct {
	ID    string // the first 12 hex digits of the token's SHA-256
	Name  string // for people
	Grant        // in one namespace or pattern
	Made  time.Time
	sum   [sha256.Size]byte // of the token, as it is typed
}

// tokenPrincipal begins the principal of a token's certificates; its id follows.
const tokenPrincipal = "token:"

// Principal is the principal of the token's certificates.
func (t *Token) Principal() string { return tokenPrincipal + t.ID }

// secretSize is how many random bytes a token has.
const secretSize = 32

// never is an expires= without an end.
const never = "never"

// NewToken makes a token for a namespace or a pattern of these, and adds its line to
// the file in the state directory. It returns the token, which is kept nowhere. Name
// is for people; "" is the namespace. The token may publish unless read is true.
// Expires may be zero: never.
func NewToken(dir, namespace, name string, read bool, expires time.Time) (secret string, err error) {
	p, err := parsePattern(namespace)
	if err != nil {
		return "", err
	}
	l := line{Grant: Grant{Namespaces: []Pattern{p}}}
	if err := l.idle(); err != nil {
		return "", err
	}
	if name == "" {
		name = string(p)
	}
	if len(name) > maxTokenName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return "", fmt.Errorf("-name: want %d bytes at most, none of them a control character", maxTokenName)
	}
	now := time.Now()
	if !expires.IsZero() && !now.Before(expires) {
		return "", fmt.Errorf("-expires: %s has passed", ci.FormatTime(expires))
	}
	b := make([]byte, secretSize)
	rand.Read(b)
	secret = wire.TokenPrefix + base64.RawURLEncoding.EncodeToString(b)
	sum := sha256.Sum256([]byte(secret))
	t := Token{
		ID: tokenID(sum), Name: name, Made: now, sum: sum,
		Grant: Grant{Namespaces: []Pattern{p}, Read: true, Publish: !read, Expires: expires},
	}
	d := stateDir{statedir.Dir(dir)}
	return secret, d.Locked(func() error { return d.Add(tokensFile, tokensHead, t.line()) })
}

// maxTokenName is how many bytes the name of a token has.
const maxTokenName = 200

func tokenID(sum [sha256.Size]byte) string { return hex.EncodeToString(sum[:6]) }

// line returns t as its line of the file.
func (t *Token) line() string {
	expires := never
	if !t.Expires.IsZero() {
		expires = ci.FormatTime(t.Expires)
	}
	attrs := ci.Attrs{
		{Name: "id", Value: t.ID},
		{Name: "name", Value: t.Name},
		{Name: "namespace", Value: string(t.Namespaces[0])},
		{Name: "rights", Value: t.Rights()},
		{Name: "sha256", Value: hex.EncodeToString(t.sum[:])},
		{Name: "made", Value: ci.FormatTime(t.Made)},
		{Name: "expires", Value: expires},
	}
	return strings.ReplaceAll(strings.TrimSpace(string(attrs.Text())), "\n", " ")
}

// parseToken reads what line wrote. An attribute that it does not know is an error: it
// may be meant to narrow what the token may do.
func parseToken(text []byte) (*Token, error) {
	words, err := ci.SplitWords(string(text))
	if err != nil {
		return nil, err
	}
	t := &Token{}
	seen := map[string]bool{}
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok || seen[name] {
			return nil, fmt.Errorf("%.80q: want attr=value, each once", w)
		}
		seen[name] = true
		if err := t.set(name, value); err != nil {
			return nil, err
		}
	}
	switch {
	case !seen["sha256"] || !seen["namespace"] || !seen["rights"] || !seen["expires"]:
		return nil, errors.New("want sha256=, namespace=, rights= and expires=")
	case t.ID != tokenID(t.sum):
		return nil, fmt.Errorf("id %.40q is not what the sha256 begins with", t.ID)
	}
	return t, nil
}

func (t *Token) set(name, value string) (err error) {
	switch name {
	case "id":
		t.ID = value
	case "name":
		t.Name = value
	case "namespace":
		var p Pattern
		p, err = parsePattern(value)
		t.Namespaces = []Pattern{p}
	case "rights":
		t.Read, t.Publish, err = parseRights(value)
	case "sha256":
		var b []byte
		b, err = hex.DecodeString(value)
		if err != nil || copy(t.sum[:], b) != len(t.sum) || len(b) != len(t.sum) {
			return errors.New("sha256: want 64 hex digits")
		}
	case "made":
		t.Made, err = ci.ParseTime(value)
	case "expires":
		if value != never {
			t.Expires, err = ci.ParseTime(value)
			if err == nil && t.Expires.IsZero() {
				err = fmt.Errorf("expires: want %s or a time as 2006-01-02T15:04:05Z", never)
			}
		}
	default:
		err = fmt.Errorf("attribute %.40q is not known", name)
	}
	return err
}

// parseRights reads what Grant's Rights wrote.
func parseRights(s string) (read, publish bool, err error) {
	for _, w := range strings.Fields(s) {
		switch w {
		case "read":
			read = true
		case "publish":
			publish = true
		default:
			return false, false, fmt.Errorf("right %.40q: want read, publish or both", w)
		}
	}
	if !read && !publish {
		return false, false, errors.New("rights: want read, publish or both")
	}
	return read, publish, nil
}

// tokens are the lines of the file, by id.
type tokens map[string]*Token

// parseTokens returns the tokens of a file. A line that it cannot read is logged and
// grants nothing.
func parseTokens(path string, text []byte, log *slog.Logger) tokens {
	all := tokens{}
	eachLine(path, text, log, func(line []byte) error {
		t, err := parseToken(line)
		if err != nil {
			return err
		}
		if all[t.ID] != nil {
			return errors.New("it is the second one of the same token")
		}
		all[t.ID] = t
		return nil
	})
	return all
}

// find returns the token that secret is, or nil. That it looks for the digest tells a
// guesser nothing by the time it takes.
func (all tokens) find(secret string) *Token {
	b, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimPrefix(secret, wire.TokenPrefix))
	if err != nil || len(b) != secretSize {
		return nil
	}
	sum := sha256.Sum256([]byte(secret))
	if t := all[tokenID(sum)]; t != nil && t.sum == sum {
		return t
	}
	return nil
}

// A TokenUse is a token, and when it was last used; zero if that is not known.
type TokenUse struct {
	*Token
	Used time.Time
}

// String returns a line of words, quoted: id, name, namespace, rights, made, expires,
// used.
func (t TokenUse) String() string {
	expires := never
	if !t.Expires.IsZero() {
		expires = ci.FormatTime(t.Expires)
	}
	return ci.QuoteWords([]string{t.ID, t.Name, string(t.Namespaces[0]), t.Rights(), ci.FormatTime(t.Made), expires, ci.FormatTime(t.Used)})
}

// Tokens returns the tokens of a state directory as its file has them. The error, with
// which there may be tokens, is of the file or of lines that cannot be read.
func Tokens(dir string) (all []TokenUse, err error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	d := stateDir{statedir.Dir(dir)}
	text, err := d.Read(tokensFile)
	if err != nil {
		return nil, err
	}
	uses, err := d.Read(usedFile)
	if err != nil {
		return nil, err
	}
	used := parseUsed(uses)
	var errs []error
	for n, line := range numbered(text) {
		t, err := parseToken(line)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", d.Path(tokensFile), n, err))
			continue
		}
		all = append(all, TokenUse{t, used[t.ID]})
	}
	return all, errors.Join(errs...)
}

// parseUsed reads the file of uses. What it cannot read is not known.
func parseUsed(text []byte) map[string]time.Time {
	used := map[string]time.Time{}
	for _, line := range numbered(text) {
		id, at, _ := strings.Cut(string(line), " ")
		if t, err := ci.ParseTime(at); err == nil {
			used[id] = t
		}
	}
	return used
}

// note writes that a token has been used. The lock is held.
func (d stateDir) note(id string, now time.Time, all tokens) error {
	text, err := d.Read(usedFile)
	if err != nil {
		return err
	}
	used := parseUsed(text)
	used[id] = now
	var lines []string
	for id, t := range used {
		if all[id] != nil {
			lines = append(lines, id+" "+ci.FormatTime(t)+"\n")
		}
	}
	slices.Sort(lines)
	return d.Write(usedFile, []byte(strings.Join(lines, "")))
}
