package wire

import (
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	for name, good := range map[string]bool{"box": true, "box.local.12": true, "b_x-1": true, "": false, "...": false, "a b": false, "a/b": false, "ö": false, "a\n": false, "a+2": false, "+": false, strings.Repeat("x", 251): false} {
		if err := CheckExecutor(name); (err == nil) != good {
			t.Errorf("CheckExecutor(%q) = %v", name, err)
		}
	}
}

func TestShown(t *testing.T) {
	for shown, good := range map[string]bool{
		"box": true, "box+2": true, "box+9999": true, Shown("box", 3): true,
		"box+1": false, "box+0": false, "box+02": false, "box+-2": false, "box++2": false, "box+10000": false, "box+": false, "box+2x": false, "bo+2": false, "box+2/..": false, "": false,
	} {
		if IsShown(shown, "box") != good {
			t.Errorf("IsShown(%q, box) = %t", shown, !good)
		}
	}
	for text, good := range map[string]bool{
		"generation=3\nname=box\n": true, "generation=3\nname=box+2\nmore=1\n": true,
		"generation=3\n": false, "generation=3\nname=other\n": false, "name=box\n": false, "generation=3\nname='box+2\x1b'\n": false, "": false,
	} {
		if j, err := ParseJoined([]byte(text), "box"); (err == nil) != good {
			t.Errorf("ParseJoined(%q) = %v, %v", text, j, err)
		}
	}
	for text, good := range map[string]bool{
		"name=box\nsecond=box+2\n": true, "name=box\nsecond=box\n": false, "name=box\nsecond='box+2 \x1b[2J'\n": false, "name=b/x\nsecond=b/x+2\n": false, "": false,
	} {
		if s, err := ParseSecond([]byte(text)); (err == nil) != good {
			t.Errorf("ParseSecond(%q) = %v, %v", text, s, err)
		}
	}
}

func FuzzParseAnnounce(f *testing.F) {
	f.Add(Announce{Name: "box.1", Namespaces: []string{"github.com/alice/hello", "local/x"}, Address: "10.0.0.1:22", Adopts: true, Instance: "AB12", Boot: "00ff", Had: "box.1+2"}.Text())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAnnounce(b)
		if err != nil {
			return
		}
		again, err := ParseAnnounce(a.Text())
		if err != nil || again.Name != a.Name || again.Address != a.Address || again.Adopts != a.Adopts || again.Instance != a.Instance || again.Boot != a.Boot || again.Had != a.Had || strings.Join(again.Namespaces, " ") != strings.Join(a.Namespaces, " ") {
			t.Errorf("%+v is read back as %+v, %v", a, again, err)
		}
	})
}
