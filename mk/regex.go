package mk

import (
	"errors"
	"regexp"
	"strings"
)

type regex struct{ re *regexp.Regexp }

func compile(s string) (*regex, error) {
	re, err := regexp.Compile(s)
	if err != nil {
		return nil, errors.New("malformed")
	}
	re.Longest()
	return &regex{re}, nil
}

func (re *regex) match(s string) []int { return re.re.FindStringSubmatchIndex(s) }

// stems returns what stem0 to stem9 are. Stem0 runs to the end of the name.
func stems(s string, sub []int) []string {
	list := []string{s[sub[0]:]}
	for i := 2; i < len(sub) && i < 20; i += 2 {
		w := ""
		if sub[i] >= 0 && sub[i+1] >= 0 {
			w = s[sub[i]:sub[i+1]]
		}
		list = append(list, w)
	}
	return list
}

// regsub replaces \0 to \9 and & in w with what matched.
func regsub(w, s string, sub []int) string {
	var b strings.Builder
	group := func(i int) {
		if 2*i+1 < len(sub) && sub[2*i] >= 0 && sub[2*i+1] >= 0 {
			b.WriteString(s[sub[2*i]:sub[2*i+1]])
		}
	}
	for i := 0; i < len(w); i++ {
		switch c := w[i]; {
		case c == '&':
			group(0)
		case c == '\\' && i+1 < len(w):
			if i++; '0' <= w[i] && w[i] <= '9' {
				group(int(w[i] - '0'))
			} else {
				b.WriteByte(w[i])
			}
		case c != '\\':
			b.WriteByte(c)
		}
	}
	return b.String()
}
