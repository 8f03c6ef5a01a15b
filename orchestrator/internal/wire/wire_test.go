package wire

import (
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	for name, good := range map[string]bool{"a": true, "böx": true, "a b": true, "": false, ".": false, "..": false, "a/b": false, "a\x00": false, "a\x7f": false, "\x1b[2J": false, "\xff": false, strings.Repeat("x", 256): false} {
		if ValidName(name) != good {
			t.Errorf("ValidName(%q) = %t", name, !good)
		}
	}
	for name, good := range map[string]bool{"box": true, "box.local.12": true, "b_x-1": true, "": false, "...": false, "a b": false, "a/b": false, "ö": false, "a\n": false} {
		if err := CheckExecutor(name); (err == nil) != good {
			t.Errorf("CheckExecutor(%q) = %v", name, err)
		}
	}
}

func FuzzParseAnnounce(f *testing.F) {
	f.Add(Announce{Name: "box.1", Namespaces: []string{"github.com/alice/hello", "local/x"}, Address: "10.0.0.1:22", Adopts: true}.Text())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAnnounce(b)
		if err != nil {
			return
		}
		again, err := ParseAnnounce(a.Text())
		if err != nil || again.Name != a.Name || again.Address != a.Address || again.Adopts != a.Adopts || strings.Join(again.Namespaces, " ") != strings.Join(a.Namespaces, " ") {
			t.Errorf("%+v is read back as %+v, %v", a, again, err)
		}
	})
}
