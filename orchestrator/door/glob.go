package door

import (
	"fmt"
	pathpkg "path"
	"slices"
	"strings"

	"9ci/fs"
)

// maxPaths is how many paths the words of a command may come to.
const maxPaths = 65536

// expand returns the words of a command, where a pattern stands for the paths that
// it matches, sorted, or for itself if there are none, as in sh(1). A pattern matches
// what directories list, and a leading dot only by a dot.
func (s *session) expand(words []word) ([]string, error) {
	var all []string
	for _, w := range words {
		var paths []string
		if w.glob != "" {
			var err error
			if paths, err = s.match(w.glob); err != nil {
				return nil, err
			}
		}
		if len(paths) == 0 {
			paths = []string{w.text}
		}
		if all = append(all, paths...); len(all) > maxPaths {
			return nil, errPaths
		}
	}
	return all, nil
}

var errPaths = fmt.Errorf("the patterns match over %d paths: narrow them", maxPaths)

// match returns the paths that a pattern matches. A pattern that cannot be read
// matches none.
func (s *session) match(pattern string) ([]string, error) {
	found := []string{""} // each is "" or ends in a slash
	elems := strings.Split(pattern, "/")
	for i, elem := range elems {
		last := i == len(elems)-1
		if !isPattern(elem) {
			for j := range found {
				found[j] += unescape(elem)
				if !last {
					found[j] += "/"
				}
			}
			continue
		}
		if _, err := pathpkg.Match(elem, ""); err != nil {
			return nil, nil
		}
		var next []string
		for _, dir := range found {
			d, err := AsDir(s.tree.Walk(s.ctx, s.namespace, dir))
			if err != nil {
				continue
			}
			var names []string
			for st, err := range fs.Entries(s.ctx, d) {
				if err != nil {
					break
				}
				if ok, _ := pathpkg.Match(elem, st.Name); ok && (st.Name[0] != '.' || elem[0] == '.') {
					names = append(names, st.Name)
				}
			}
			slices.Sort(names)
			for _, name := range names {
				if !last {
					name += "/"
				}
				next = append(next, dir+name)
			}
			if len(next) > maxPaths {
				return nil, errPaths
			}
		}
		found = next
	}
	// What follows the last pattern has not been looked for.
	return slices.DeleteFunc(found, func(p string) bool {
		_, err := s.tree.Walk(s.ctx, s.namespace, p)
		return err != nil
	}), nil
}

// isPattern reports whether an element of a pattern has a * ? [ that is not quoted.
func isPattern(elem string) bool {
	for i := 0; i < len(elem); i++ {
		switch elem[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// unescape returns the text that an element of a pattern without * ? [ matches.
func unescape(elem string) string {
	var b strings.Builder
	for i := 0; i < len(elem); i++ {
		if elem[i] == '\\' && i+1 < len(elem) {
			i++
		}
		b.WriteByte(elem[i])
	}
	return b.String()
}
