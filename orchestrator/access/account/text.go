package account

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"9ci/fs/ci"
	"9ci/orchestrator/access"
)

// head is how an account's file begins.
const head = `# An account. It may be edited: a line of a session, a passkey or a namespace that is
# deleted counts at once; that of a key is a note, and orchestrator revoke SERIAL revokes
# its certificate. orchestrator revoke PRINCIPAL keeps the account out.
`

// text returns the account's file: a line for each thing, attr=value pairs as tokens has
// them. The first attribute says what the line is.
func (a *Account) text() []byte {
	var b bytes.Buffer
	b.WriteString(head)
	line := func(attrs ...ci.Attr) {
		b.WriteString(strings.ReplaceAll(strings.TrimSpace(string(ci.Attrs(attrs).Text())), "\n", " ") + "\n")
	}
	line(ci.Attr{Name: "principal", Value: a.Principal}, ci.Attr{Name: "name", Value: clean(a.Name)}, ci.Attr{Name: "login", Value: clean(a.Login)},
		ci.Attr{Name: "forge", Value: clean(a.Forge)}, when("made", a.Made), when("last", a.Last))
	for _, p := range a.Namespaces {
		line(ci.Attr{Name: "namespace", Value: string(p)})
	}
	if len(a.Handle) > 0 {
		line(binary("handle", a.Handle))
	}
	if len(a.ForgeToken) > 0 {
		line(binary("forge-token", a.ForgeToken))
	}
	for _, p := range a.Passkeys {
		line(binary("passkey", p.ID), ci.Attr{Name: "name", Value: clean(p.Name)}, binary("public", p.Public), ci.Attr{Name: "count", Value: strconv.FormatUint(uint64(p.Count), 10)},
			truth("backup-eligible", p.BackupEligible), truth("backed-up", p.BackedUp), ci.Attr{Name: "transports", Value: clean(strings.Join(p.Transports, ","))},
			when("made", p.Made), when("used", p.Used))
	}
	for _, k := range a.Keys {
		line(ci.Attr{Name: "key", Value: k.Fingerprint}, ci.Attr{Name: "from", Value: clean(k.From)}, when("made", k.Made))
	}
	for _, s := range a.Sessions {
		line(ci.Attr{Name: "session", Value: s.ID}, ci.Attr{Name: "by", Value: clean(s.By)}, ci.Attr{Name: "from", Value: clean(s.From)}, ci.Attr{Name: "agent", Value: clean(s.Agent)},
			when("made", s.Made), when("expires", s.Expires))
	}
	return b.Bytes()
}

func when(name string, t time.Time) ci.Attr { return ci.Attr{Name: name, Value: ci.FormatTime(t)} }

func binary(name string, b []byte) ci.Attr {
	return ci.Attr{Name: name, Value: base64.RawURLEncoding.EncodeToString(b)}
}

func truth(name string, v bool) ci.Attr { return ci.Attr{Name: name, Value: strconv.FormatBool(v)} }

// clean returns a text of others as it is kept: one line, 200 bytes at most.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) { // Cf turns the direction of a line
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	const most = 200
	for len(s) > most {
		_, n := utf8.DecodeLastRuneInString(s[:most+1])
		s = s[:most+1-n]
	}
	return strings.TrimSpace(s)
}

// parse reads what text wrote. It refuses what it does not know: a line may be meant to
// narrow what the account may do.
func parse(text []byte) (*Account, error) {
	a := &Account{}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if line = bytes.TrimSpace(line); len(line) == 0 || line[0] == '#' {
			continue
		}
		if err := a.line(string(line)); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if a.Principal == "" {
		return nil, errors.New("it has no principal=")
	}
	return a, nil
}

// line reads a line.
func (a *Account) line(text string) error {
	attrs, err := words(text)
	if err != nil {
		return err
	}
	r := &reader{attrs: attrs}
	switch kind := attrs[0].Name; kind {
	case "principal":
		if a.Principal != "" {
			return errors.New("a second principal=")
		}
		a.Principal, a.Name, a.Login, a.Forge = r.text("principal"), r.text("name"), r.text("login"), r.text("forge")
		a.Made, a.Last = r.time("made"), r.time("last")
		if err := access.CheckPrincipal(a.Principal); err != nil {
			return err
		}
	case "namespace":
		p, err := access.ParsePattern(r.text("namespace"))
		if err != nil {
			return err
		}
		a.Namespaces = append(a.Namespaces, p)
	case "handle":
		a.Handle = r.binary("handle")
	case "forge-token":
		a.ForgeToken = r.binary("forge-token")
	case "passkey":
		p := Passkey{ID: r.binary("passkey"), Name: r.text("name"), Public: r.binary("public"), Count: uint32(r.number("count")),
			BackupEligible: r.truth("backup-eligible"), BackedUp: r.truth("backed-up"), Made: r.time("made"), Used: r.time("used")}
		if t := r.text("transports"); t != "" {
			p.Transports = strings.Split(t, ",")
		}
		a.Passkeys = append(a.Passkeys, p)
	case "key":
		a.Keys = append(a.Keys, Key{Fingerprint: r.text("key"), From: r.text("from"), Made: r.time("made")})
	case "session":
		a.Sessions = append(a.Sessions, Session{ID: r.text("session"), By: r.text("by"), From: r.text("from"), Agent: r.text("agent"), Made: r.time("made"), Expires: r.time("expires")})
	default:
		return fmt.Errorf("%.40q is not known", kind)
	}
	return r.done()
}

// words reads a line of attr=value pairs, of which there is one at least.
func words(text string) (attrs ci.Attrs, err error) {
	list, err := ci.SplitWords(text)
	if err != nil {
		return nil, err
	}
	for _, w := range list {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return nil, fmt.Errorf("%.80q: want attr=value", w)
		}
		attrs = append(attrs, ci.Attr{Name: name, Value: value})
	}
	if len(attrs) == 0 {
		return nil, errors.New("want attr=value")
	}
	return attrs, attrs.Check()
}

// A reader takes the attributes of a line, one after the other, and keeps the first error.
type reader struct {
	attrs ci.Attrs
	taken []string
	err   error
}

func (r *reader) text(name string) string {
	r.taken = append(r.taken, name)
	if !r.attrs.Has(name) && r.err == nil {
		r.err = fmt.Errorf("%s= is missing", name)
	}
	return r.attrs.Get(name)
}

func read[T any](r *reader, name string, parse func(string) (T, error)) T {
	s := r.text(name)
	v, err := parse(s)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%s=%.80s: %w", name, s, err)
	}
	return v
}

func (r *reader) time(name string) time.Time { return read(r, name, ci.ParseTime) }
func (r *reader) truth(name string) bool     { return read(r, name, strconv.ParseBool) }
func (r *reader) binary(name string) []byte  { return read(r, name, base64.RawURLEncoding.DecodeString) }
func (r *reader) number(name string) (n uint64) {
	return read(r, name, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 32) })
}

// done returns the first error, or one for an attribute that nobody has taken.
func (r *reader) done() error {
	for _, a := range r.attrs {
		if r.err == nil && !slices.Contains(r.taken, a.Name) {
			r.err = fmt.Errorf("%s= is not known", a.Name)
		}
	}
	return r.err
}
