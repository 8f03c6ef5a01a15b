package door

import (
	"errors"
	"strings"
)

// maxWords is how many words a command line may have.
const maxWords = 1024

// splitCommand splits a command line into words as a shell without variables,
// globs and operators does. Blanks separate words. Between single quotes all
// characters stand for themselves. Between double quotes a backslash quotes a
// double quote or a backslash, and elsewhere any character.
func splitCommand(s string) ([]string, error) {
	var words []string
	var w strings.Builder
	in := false // a word
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case ' ', '\t', '\n':
			if in {
				words = append(words, w.String())
				w.Reset()
				in = false
			}
			continue
		case '\'':
			j := strings.IndexByte(s[i+1:], '\'')
			if j < 0 {
				return nil, errors.New("a quote is not closed")
			}
			w.WriteString(s[i+1 : i+1+j])
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
				w.WriteByte(s[i])
			}
		case '\\':
			if i++; i >= len(s) {
				return nil, errors.New("a backslash at the end")
			}
			w.WriteByte(s[i])
		case ';', '|', '&', '<', '>', '$', '`', '(', ')', '*', '?', '[':
			return nil, errors.New("this is not a shell: " + string(c) + " must be quoted")
		default:
			w.WriteByte(c)
		}
		if len(words) >= maxWords {
			return nil, errors.New("too many words")
		}
		in = true
	}
	if in {
		words = append(words, w.String())
	}
	return words, nil
}
