package mk

import "strings"

// echo returns a recipe as mk prints it: with the variables expanded that
// the recipe or the mkfile has set, but not inside quotes.
func (r *run) echo(text string, d *dialect) string {
	if strings.IndexByte(text, '$') < 0 {
		return text
	}
	var b strings.Builder
	for s := text; s != ""; {
		if s[0] == '$' {
			s = r.echoVar(&b, s)
			continue
		}
		c := s[0]
		b.WriteByte(c)
		s = s[1:]
		n := d.copyQuoted(s, c)
		b.WriteString(s[:n])
		s = s[n:]
	}
	return b.String()
}

// echoVar expands the reference s begins with, and returns what follows. One
// without a value stays. A } behind $name is taken as its end, as in ${name}.
func (r *run) echoVar(b *strings.Builder, s string) (rest string) {
	from := 1
	var to int
	if len(s) > 1 && s[1] == '{' {
		from = 2
		if to = strings.IndexByte(s, '}'); to < 0 {
			to = len(s)
		}
	} else {
		to = 1 + nameLen(s[1:])
	}
	end := to
	if to < len(s) && s[to] == '}' {
		end++
	}
	if value, ok := r.echoValue(s[from:to]); ok {
		b.WriteString(value)
	} else {
		b.WriteString(s[:end])
	}
	return s[end:]
}

func (r *run) echoValue(name string) (string, bool) {
	v := r.vars[name]
	switch {
	case v == nil:
		return "", false
	case v.internal:
		for i, s := range internal {
			if s == name {
				return strings.Join(r.values[i], " "), true
			}
		}
	case v.assigned && v.set && !v.noExport:
		return strings.Join(v.words, " "), true
	}
	return "", false
}

// front returns the beginning of a recipe for a message: up to five fields,
// the fourth of many being "...".
func front(s string) string {
	const most = 512 // fields; the last takes the rest
	var f []string
	for len(f) < most-1 {
		i := strings.IndexAny(s, " \t\n")
		if i < 0 {
			break
		}
		f = append(f, s[:i])
		s = s[i+1:]
	}
	f = append(f, s)
	if n := len(f); n > 5 {
		f = append(f[:3], "...", f[n-1])
	}
	return strings.Join(f, " ") + " "
}
