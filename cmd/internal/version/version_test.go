package version

import "testing"

// A program of which nobody has said what it was built of, as this test is, says no word of
// go's own for that.
func TestString(t *testing.T) {
	if got := String(); got == "" || got == "(devel)" {
		t.Errorf("String() = %q", got)
	}
}
