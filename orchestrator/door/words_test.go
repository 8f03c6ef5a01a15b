package door

import "testing"

func FuzzSplitCommand(f *testing.F) {
	f.Add(`cat 'a b' "c\"d" e\ f`)
	f.Add(`ls n/*/'*'\*[!a-b]?`)
	f.Fuzz(func(t *testing.T, s string) {
		words, err := splitCommand(s)
		if err == nil && len(words) > maxWords {
			t.Errorf("%d words", len(words))
		}
	})
}
