package ci

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// An Attr is a line attr=value of a status, key or info file.
type Attr struct {
	Name, Value string
}

// Attrs are the lines of a status, key or info file, in their order.
type Attrs []Attr

// Get returns the value of the attribute of that name, or "".
func (a Attrs) Get(name string) string {
	for _, x := range a {
		if x.Name == name {
			return x.Value
		}
	}
	return ""
}

// Has reports whether there is an attribute of that name.
func (a Attrs) Has(name string) bool {
	return slices.ContainsFunc(a, func(x Attr) bool { return x.Name == name })
}

// With returns a with the attributes of b: each stands in place of the one of
// the same name, or else at the end. It changes neither.
func (a Attrs) With(b ...Attr) Attrs {
	a = slices.Clone(a)
	for _, x := range b {
		if i := slices.IndexFunc(a, func(y Attr) bool { return x.Name == y.Name }); i >= 0 {
			a[i] = x
		} else {
			a = append(a, x)
		}
	}
	return a
}

// Sorted returns a copy of a in the order of names, as a key is written.
func (a Attrs) Sorted() Attrs {
	a = slices.Clone(a)
	slices.SortStableFunc(a, func(x, y Attr) int { return strings.Compare(x.Name, y.Name) })
	return a
}

// Text returns the lines attr=value. The values are quoted as mk quotes.
func (a Attrs) Text() []byte {
	var b []byte
	for _, x := range a {
		b = append(b, x.Name...)
		b = append(b, '=')
		b = append(b, Quote(x.Value)...)
		b = append(b, '\n')
	}
	return b
}

// Check reports what keeps a from being written: a name that is empty, is there
// twice, or has other characters than letters, digits, - and _; a value with a
// newline or a NUL in it.
func (a Attrs) Check() error {
	for i, x := range a {
		if err := x.check(); err != nil {
			return err
		}
		if a[:i].Has(x.Name) {
			return fmt.Errorf("attribute %s is given twice", x.Name)
		}
	}
	return nil
}

func (x Attr) check() error {
	if x.Name == "" || strings.ContainsFunc(x.Name, notNameRune) {
		return fmt.Errorf("%.40q is not the name of an attribute", x.Name)
	}
	if strings.ContainsAny(x.Value, "\n\x00") {
		return fmt.Errorf("the value of %s has a newline or a NUL in it", x.Name)
	}
	return nil
}

func notNameRune(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
}

// ParseAttrs reads what Text wrote. Besides that it accepts quotes where none
// are needed, and a last line without its newline.
func ParseAttrs(text []byte) (Attrs, error) {
	var a Attrs
	for n := 1; len(text) > 0; n++ {
		line, rest, _ := bytes.Cut(text, []byte("\n"))
		text = rest
		name, value, ok := strings.Cut(string(line), "=")
		if !ok {
			return nil, fmt.Errorf("line %d is not attr=value: %.60q", n, line)
		}
		words, err := SplitWords(value)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if len(words) != 1 {
			return nil, fmt.Errorf("line %d: the value of %.40s is not one word: %.60q", n, name, value)
		}
		a = append(a, Attr{name, words[0]})
	}
	if err := a.Check(); err != nil {
		return nil, err
	}
	return a, nil
}

// Quote returns s as one word as mk and rc read it: s itself, or s between
// single quotes with each quote in it doubled.
func Quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, needsQuote) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// needsQuote reports whether rc(1) treats r specially: needsrcquote of quote(3)
// lists them.
func needsQuote(r rune) bool {
	return r <= ' ' || r == 0x7f || strings.ContainsRune("`^#*[]=|\\?${}()'<>&;", r)
}

// QuoteWords returns words, each quoted, joined by blanks: a value that holds a
// list. Of no words it is "".
func QuoteWords(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = Quote(w)
	}
	return strings.Join(q, " ")
}

// SplitWords undoes QuoteWords: blanks and tabs separate words, and quotes may
// begin and end anywhere in a word. The error is of a quote that is not closed.
func SplitWords(s string) ([]string, error) {
	var words []string
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" {
			return words, nil
		}
		var w strings.Builder
		for s != "" && s[0] != ' ' && s[0] != '\t' {
			if s[0] != '\'' {
				w.WriteByte(s[0])
				s = s[1:]
				continue
			}
			for s = s[1:]; ; {
				i := strings.IndexByte(s, '\'')
				if i < 0 {
					return nil, fmt.Errorf("a quote is not closed")
				}
				w.WriteString(s[:i])
				s = s[i+1:]
				if !strings.HasPrefix(s, "'") {
					break
				}
				w.WriteByte('\'')
				s = s[1:]
			}
		}
		words = append(words, w.String())
	}
}
