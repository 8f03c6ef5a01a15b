package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"9ci/fs"
)

// Limits on an announcement.
const (
	maxAnnounce = 128 << 10 // bytes
	maxShares   = 1024      // namespaces of one export
	maxMembers  = 4         // exports of one connection
	maxAddress  = 255       // bytes
)

// An Announce says what an executor exports.
type Announce struct {
	Name       string   // below n: HOST for a daemon, HOST.PID for others
	Namespaces []string // each is an aname that the export takes
	Address    string   // where others may reach the executor directly; "" where they cannot

	// Joined, if set, is called each time the orchestrator has taken the
	// announcement: from then on others see the executor.
	Joined func()

	// Lost, if set, is called each time the connection could not be made, or
	// was lost, with the reason. It is made anew by itself.
	Lost func(err error)
}

// text returns a as it travels: attr=value lines.
func (a Announce) text() []byte {
	return fs.Attrs{
		{Name: "name", Value: a.Name},
		{Name: "namespaces", Value: fs.QuoteWords(a.Namespaces)},
		{Name: "address", Value: a.Address},
	}.Text()
}

// parseAnnounce reads what text wrote. Attributes that it does not know are
// passed over: a later executor may say more.
func parseAnnounce(b []byte) (Announce, error) {
	if len(b) > maxAnnounce {
		return Announce{}, fmt.Errorf("announcement of %d bytes: at most %d", len(b), maxAnnounce)
	}
	attrs, err := fs.ParseAttrs(b)
	if err != nil {
		return Announce{}, fmt.Errorf("announcement: %w", err)
	}
	a := Announce{Name: attrs.Get("name"), Address: attrs.Get("address")}
	if a.Namespaces, err = fs.SplitWords(attrs.Get("namespaces")); err != nil {
		return Announce{}, fmt.Errorf("announcement: %w", err)
	}
	return a, a.check()
}

// check returns what is wrong with a, on either side of the wire.
func (a *Announce) check() error {
	if err := checkExecutor(a.Name); err != nil {
		return err
	}
	switch {
	case len(a.Namespaces) == 0:
		return errors.New("an announcement names no namespace")
	case len(a.Namespaces) > maxShares:
		return fmt.Errorf("an announcement of %d namespaces: at most %d", len(a.Namespaces), maxShares)
	case len(a.Address) > maxAddress || !utf8.ValidString(a.Address) || strings.ContainsFunc(a.Address, func(r rune) bool { return r == ' ' || unicode.IsControl(r) }):
		return fmt.Errorf("address %q: want host:port", a.Address)
	}
	clean := make([]string, len(a.Namespaces))
	for i, ns := range a.Namespaces {
		var err error
		if clean[i], err = fs.CleanNamespace(ns); err != nil {
			return err
		}
	}
	slices.Sort(clean)
	a.Namespaces = slices.Compact(clean)
	return nil
}

// mayNotPublish begins the reason of a refusal that the key's grant makes.
const mayNotPublish = "this key may not publish"

// announce answers requestAnnounce.
func (c *conn) announce(ctx context.Context, payload []byte) ([]byte, error) {
	a, err := parseAnnounce(payload)
	if err != nil {
		return nil, err
	}
	m, err := c.join(ctx, a, reverseExport{c})
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "generation=%d", m.generation.Load()), nil
}

// join makes the connection an exporter of a, by way of e. Where it exports a's
// name already, its namespaces become a's.
func (c *conn) join(ctx context.Context, a Announce, e exporter) (*member, error) {
	l := c.login
	for _, ns := range a.Namespaces {
		if !l.grant.mayPublish(ns) {
			return nil, fmt.Errorf("%s %s", mayNotPublish, ns)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[a.Name]
	if m == nil {
		if len(c.members) >= maxMembers {
			return nil, fmt.Errorf("a connection exports %d trees at most", maxMembers)
		}
		m = &member{name: a.Name, key: l.fingerprint(), conn: c, exporter: e, several: len(a.Namespaces) > 1}
	}
	fresh, err := c.s.dir.export(ctx, m, a)
	if err != nil {
		return nil, err
	}
	if c.members == nil {
		c.members = map[string]*member{}
	}
	c.members[a.Name] = m
	for _, sh := range fresh {
		c.wg.Go(func() { sh.follow(&c.s.dir) })
	}
	return m, nil
}

// withdraw ends what the connection exports under name.
func (c *conn) withdraw(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.members[name]; m != nil {
		delete(c.members, name)
		c.s.dir.leave(m)
	}
}

// leave ends all that the connection exports.
func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, m := range c.members {
		delete(c.members, name)
		c.s.dir.leave(m)
	}
}
