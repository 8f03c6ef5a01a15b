package ci

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Many small things are bounded as one large is.
func TestTally(t *testing.T) {
	for name, want := range map[string]string{
		"":                       "over 262144 artifacts",
		strings.Repeat("n", 200): "the names of the artifacts are over 67108864 bytes",
		strings.Repeat("=", 50):  "the names of the artifacts are over 67108864 bytes",
	} {
		var total Tally
		var err error
		for i := 0; err == nil; i++ {
			err = total.Add(Artifact{Name: fmt.Sprint(i, name)})
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("many names like %q = %v, want %q", name, err, want)
		}
	}
	a := Artifact{Name: strings.Repeat("=", 200), Size: MaxArtifacts, Time: time.Unix(1<<60, 1), Mode: 0o7777}
	if got := len(FormatMtree([]Artifact{a})) - len(mtreeMagic); got > mtreeLine+visLen(a.Name) {
		t.Errorf("a line of artifacts.mtree has %d bytes, want at most %d", got, mtreeLine+visLen(a.Name))
	}
}
