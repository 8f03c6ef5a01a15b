package orchestrator

import (
	"context"
	"math"
	"strings"

	"golang.org/x/crypto/ssh"

	"9ci/fs/ci"
	"9ci/orchestrator/access"
)

// whoami says what the key is and may do.
func (v *view) whoami(ctx context.Context) ci.Attrs {
	l := v.c.latest.Load()
	var where []string
	for _, p := range l.Namespaces {
		where = append(where, string(p))
	}
	a := ci.Attrs{{Name: "key", Value: l.String()}, {Name: "name", Value: l.Name}}
	if _, ok := l.Key.(*ssh.Certificate); ok {
		a = append(a, ci.Attr{Name: "principal", Value: l.Name})
	}
	for _, serial := range serialOf(l) {
		a = append(a, ci.Attr{Name: "serial", Value: serial.Value.String()})
	}
	if !l.IsPerson() {
		a = append(a, ci.Attr{Name: "rights", Value: l.Rights()}, ci.Attr{Name: "namespaces", Value: strings.Join(where, " ")})
	} else {
		a = append(a, v.whatPerson(ctx, l, where)...)
	}
	if l.Commit != "" {
		a = append(a, ci.Attr{Name: "commit", Value: l.Commit})
	}
	if ends := l.Ends(); !ends.IsZero() {
		a = append(a, ci.Attr{Name: "expires", Value: ci.FormatTime(ends)})
	}
	return a
}

// whatPerson says what a person may do: in the namespaces that it was invited to, and as
// its forge says of those that are exported.
func (v *view) whatPerson(ctx context.Context, l *access.Login, where []string) ci.Attrs {
	err := v.learnBelow(ctx, "")
	publish := append([]string{}, where...)
	if host := l.AskedHost(); host != "" {
		for _, ns := range v.c.s.dir.namespaces(l.Grant, host, math.MaxInt) {
			if l.Owns(ns, true) {
				continue
			}
			where = append(where, ns)
			if l.MayPublish(ns) {
				publish = append(publish, ns)
			}
		}
	}
	rights := ""
	switch {
	case len(publish) > 0:
		rights = access.Grant{Read: true, Publish: true}.Rights()
	case len(where) > 0:
		rights = access.Grant{Read: true}.Rights()
	}
	a := ci.Attrs{
		{Name: "rights", Value: rights},
		{Name: "namespaces", Value: strings.Join(where, " ")},
		{Name: "publish", Value: strings.Join(publish, " ")},
		{Name: "forge", Value: ci.Dash(l.AskedHost())},
	}
	if err != nil {
		a = append(a, ci.Attr{Name: "unknown", Value: err.Error()})
	}
	return a
}
