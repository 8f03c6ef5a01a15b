package config

import "strings"

// nearest returns the known variable at the least distance from an unknown one,
// and that distance.
func nearest(name string) (known string, far int) {
	far = -1
	for _, v := range table {
		if n := distance(name, v.name); far < 0 || n < far {
			known, far = v.name, n
		}
	}
	return known, far
}

// isSlip reports whether a name at that distance from a known one is likely to be
// a slip of the pen: one letter of a short name, two of a longer one.
func isSlip(name string, far int) bool {
	return far <= 1 || far == 2 && len(strings.TrimPrefix(name, "CI_")) > 5
}

// distance returns how many letters must be left out, put in, changed, or swapped
// with the next, to make b of a (Damerau and Levenshtein). The names that we know
// are short, so for a much longer a it returns the length of a.
func distance(a, b string) int {
	if len(a) > 2*len(b) {
		return len(a)
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
		for j := range b {
			if i == 0 {
				rows[0][j+1] = j + 1
				continue
			}
			cost := 1
			if a[i-1] == b[j] {
				cost = 0
			}
			rows[i][j+1] = min(rows[i-1][j+1]+1, rows[i][j]+1, rows[i-1][j]+cost)
			if i > 1 && j > 0 && a[i-1] == b[j-1] && a[i-2] == b[j] {
				rows[i][j+1] = min(rows[i][j+1], rows[i-2][j-1]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
