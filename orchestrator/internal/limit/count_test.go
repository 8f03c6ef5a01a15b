package limit

import "testing"

// A key has its share, all have theirs, and what is given back is there again.
func TestCount(t *testing.T) {
	c := Count{Each: 2, All: 3}
	for i, tt := range []struct {
		key  string
		give bool
		want Full
	}{
		{"a", false, Free}, {"a", false, Free}, {"a", false, KeyFull}, {"b", false, Free}, {"c", false, AllFull},
		{"b", true, Free}, {"c", false, Free}, {"a", true, Free}, {"a", true, Free}, {"a", false, Free},
	} {
		if tt.give {
			c.Give(tt.key)
		} else if got := c.Take(tt.key); got != tt.want {
			t.Errorf("%d: Take(%s) = %d, want %d", i, tt.key, got, tt.want)
		}
	}
	c.Give("a")
	c.Give("c")
	if len(c.of) > 0 || c.all != 0 {
		t.Errorf("%v of %d are counted, and all have gone", c.of, c.all)
	}
}
