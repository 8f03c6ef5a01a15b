package door

import (
	"errors"
	"strings"
)

// maxWords is how many words a command line may have.
const maxWords = 1024

// A word of a command line.
type word struct {
	text string
	glob string // if some of * ? [ in it are not quoted, a pattern of path.Match; else ""
}

// splitCommand splits a command line into words as a shell without variables and
// operators does. Blanks separate words. Between single quotes all characters stand
// for themselves. Between double quotes a backslash quotes a double quote or a
// backslash, and elsewhere any character.
func splitCommand(s string) ([]word, error) {
	var words []word
	var w, p strings.Builder
	glob := false
	in := false // a word
	put := func(quoted string) {
		w.WriteString(quoted)
		for i := range len(quoted) {
			if strings.IndexByte(`*?[]\^-`, quoted[i]) >= 0 {
				p.WriteByte('\\')
			}
			p.WriteByte(quoted[i])
		}
	}
	end := func() {
		next := word{text: w.String()}
		if glob {
			next.glob = strings.ReplaceAll(p.String(), "[!", "[^")
		}
		words = append(words, next)
		w.Reset()
		p.Reset()
		in, glob = false, false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case ' ', '\t', '\n':
			if in {
				end()
			}
			continue
		case '\'':
			j := strings.IndexByte(s[i+1:], '\'')
			if j < 0 {
				return nil, errors.New("a quote is not closed")
			}
			put(s[i+1 : i+1+j])
			i += j + 1
		case '"':
			for i++; ; i++ {
				if i >= len(s) {
					return nil, errors.New("a quote is not closed")
				}
				if s[i] == '"' {
					break
				}
				if s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\') {
					i++
				}
				put(s[i : i+1])
			}
		case '\\':
			if i++; i >= len(s) {
				return nil, errors.New("a backslash at the end")
			}
			put(s[i : i+1])
		case ';', '|', '&', '<', '>', '$', '`', '(', ')':
			return nil, errors.New("this is not a shell: " + string(c) + " must be quoted")
		case '*', '?', '[':
			glob = true
			w.WriteByte(c)
			p.WriteByte(c)
		default:
			w.WriteByte(c)
			p.WriteByte(c)
		}
		if len(words) >= maxWords {
			return nil, errors.New("too many words")
		}
		in = true
	}
	if in {
		end()
	}
	return words, nil
}
