package mk

import "strings"

// words splits s into words: blanks part them, quotes keep them together, and
// variables are replaced by their words. It never returns none: an empty list
// is one empty word. A word that comes to nothing although it was quoted ends
// the list.
func (p *parser) words(s string) []string {
	if strings.IndexByte(s, '$') < 0 && strings.IndexByte(s, '\'') < 0 &&
		strings.IndexByte(s, '\\') < 0 && strings.IndexByte(s, '"') < 0 {
		return plainWords(s)
	}
	var list []string
	for s != "" {
		var w []string
		if w, s = p.word(s); w == nil {
			break
		}
		list = append(list, w...)
	}
	if list == nil {
		return []string{""}
	}
	return list
}

// plainWords is words for a string without quotes and variables.
func plainWords(s string) []string {
	n := 0
	for i := 0; i < len(s); i++ {
		if isSep(s[i]) && i > 0 && !isSep(s[i-1]) {
			n++
		}
	}
	list := make([]string, 0, n+1)
	for {
		for s != "" && (s[0] == ' ' || s[0] == '\t') {
			s = s[1:]
		}
		i := 0
		for i < len(s) && !isSep(s[i]) {
			i++
		}
		if i == 0 {
			break // the end, or a line without a word
		}
		list = append(list, s[:i])
		if i == len(s) {
			break
		}
		s = s[i+1:]
	}
	if len(list) == 0 {
		return []string{""}
	}
	return list
}

func isSep(c byte) bool { return c == ' ' || c == '\t' || c == '\n' }

// word cuts the first word off s. It is several words where a variable has
// several, and nil where there is none. What stands before a variable joins
// its first word, what stands behind it its last.
func (p *parser) word(s string) (list []string, rest string) {
	whole := s
	var b []byte // text behind the last of list
	empty := true
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
loop:
	for s != "" {
		c := s[0]
		s = s[1:]
		switch c {
		case ' ', '\t', '\n':
			break loop
		case '\\', '\'', '"':
			empty = false
			var ok bool
			if b, s, ok = p.shell.unquote(b, s, c); !ok {
				p.out.error("missing closing quote: " + whole + "\n")
				p.exit("missing closing quote: %s", whole)
			}
		case '$':
			var w []string
			if w, s = p.variable(s); w == nil {
				for empty && s != "" && (s[0] == ' ' || s[0] == '\t') {
					s = s[1:]
				}
				break
			}
			empty = false
			if len(b) > 0 {
				w[0] = string(b) + w[0]
				b = b[:0]
			}
			if n := len(list); n > 0 {
				list[n-1] += w[0]
				w = w[1:]
			}
			list = append(list, w...)
		default:
			empty = false
			b = append(b, c)
		}
	}
	if len(b) > 0 {
		if n := len(list); n > 0 {
			list[n-1] += string(b)
		} else {
			list = []string{string(b)}
		}
	}
	return list, s
}

// isName tells whether c may be part of a variable's name.
func isName(c byte) bool {
	return c > ' ' && (c == '_' || c >= 0x7f || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z')
}

// nameLen returns the length of the variable's name that s begins with.
func nameLen(s string) int {
	i := 0
	for i < len(s) && isName(s[i]) {
		i++
	}
	return i
}

// variable returns the words of the variable that s, the text behind a $,
// begins with, in a slice of the caller's; nil where it is empty or not
// well-formed, which is reported.
func (p *parser) variable(s string) (list []string, rest string) {
	if s == "" || s[0] != '{' {
		name, rest := p.name(s)
		return p.value(name), rest
	}
	whole := s
	name, s := p.name(s[1:])
	if name == "" {
		return nil, s
	}
	if s != "" && s[0] == '}' {
		return p.value(name), s[1:]
	}
	if s == "" || s[0] != ':' {
		p.report(p.at, "bad variable name <%s>", name)
		return nil, s
	}
	s = s[1:]
	end := p.charin(s, "}")
	if end < 0 {
		p.syntax(p.at, "missing '}': %s", whole)
	}
	pattern, rest := s[:end], s[end+1:]
	v := p.vars[name]
	if v == nil || !v.set || v.words == nil {
		return []string{name}, rest
	}
	return p.substitute(v.words, pattern), rest
}

// name cuts a variable's name off s. It is empty, and reported, where there
// is none.
func (p *parser) name(s string) (name, rest string) {
	n := nameLen(s)
	if n == 0 {
		p.report(p.at, "missing variable name <%s>", s)
	}
	return s[:n], s[n:]
}

// value returns the words of a variable from the first that is not empty.
func (p *parser) value(name string) []string {
	if v := p.vars[name]; v != nil && v.set {
		for i, w := range v.words {
			if w != "" {
				return append([]string(nil), v.words[i:]...)
			}
		}
	}
	return nil
}

// substitute is ${name:A%B=C%D} for the words of name. A and B are lists of
// alternatives; a word that matches becomes C, what matched the %, and D.
func (p *parser) substitute(words []string, pattern string) []string {
	// cut returns the words of s before the first byte of set, nil where
	// that is the first of all.
	cut := func(s, set string) (list []string, rest string) {
		i := p.charin(s, set)
		if i == 0 {
			return nil, s
		}
		if i < 0 {
			i = len(s)
		}
		return p.words(s[:i]), s[i:]
	}
	percent := func(s string) bool { return s != "" && (s[0] == '%' || s[0] == '&') }

	var b, c, d []string
	a, s := cut(pattern, "=%&")
	if percent(s) {
		b, s = cut(s[1:], "=")
	}
	if s != "" && s[0] == '=' {
		c, s = cut(s[1:], "&%")
	}
	stem := percent(s)
	if stem {
		d = p.words(s[1:])
	}

	var list []string
	keep := 0 // words of list that the next one leaves
	for _, word := range words {
		list = list[:keep]
		middle, ok := between(word, a, b)
		if ok {
			list = append(list, c...)
			has := len(c) > 0
			if stem && middle != "" {
				if has {
					list[len(list)-1] += middle
				} else {
					list = append(list, middle)
					has = true
				}
			}
			keep = len(list)
			if len(d) > 0 && d[0] != "" {
				if has {
					list[len(list)-1] += d[0]
					list = append(list, d[1:]...)
					keep = len(list)
				} else {
					list = append(list, d...)
					keep++ // mk loses all but the first, unless it is last
					has = true
				}
			}
			if has {
				continue
			}
		}
		list = append(list, word)
		keep = len(list)
	}
	return list
}

// between returns what is left of s between the first of the prefixes a and
// the first of the suffixes b that it has. Nil lists match everything. Where
// prefix and suffix overlap nothing is left.
func between(s string, a, b []string) (middle string, ok bool) {
	from, to := 0, len(s)
	if a != nil {
		if from = first(a, func(w string) bool { return strings.HasPrefix(s, w) }); from < 0 {
			return "", false
		}
	}
	if b != nil {
		n := first(b, func(w string) bool { return strings.HasSuffix(s, w) })
		if n < 0 {
			return "", false
		}
		to -= n
	}
	return s[from:max(from, to)], true
}

// first returns the length of the first word that ok accepts, or -1.
func first(words []string, ok func(string) bool) int {
	for _, w := range words {
		if ok(w) {
			return len(w)
		}
	}
	return -1
}
