package config

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func setACL(name string, acl []byte) error {
	return unix.Setxattr(name, "system.posix_acl_access", acl, 0)
}

func TestParseEnv(t *testing.T) {
	for _, tt := range []struct {
		text string
		want string // NAME=VALUE, or NAME!ERROR, of the names sorted, by |
	}{
		{"", ""},
		{"# comment\n\nA=1\r\nexport B=2 # why\n", "A=1|B=2"},
		{"A=1\nA=2", "A=2"},
		{`A='a $b "c"' `, `A=a $b "c"`},
		{`A="a \"b\" \$c \d"`, `A=a "b" $c \d`},
		{`A=a\ b'c d'"e"`, "A=a bc de"},
		{"A=", "A="},
		{"A=#x", "A=#x"},
		{"\ufeffA=1", "A=1"},
		{"  A=1\n\texport\tB=2", "A=1|B=2"},
		{"A=$(rm -rf /)#x", "A!1: more than one word: quote the value"},
		{"APP=My App\nA=1", "A=1|APP!1: more than one word: quote the value"},
		{"A=1\nB\nC = c\n1D=1\nX-Y=1\n.E=1\n: ${F:=1}\nif x; then\nfi\nunset CI_NET", "A=1"},
		{"A='1", "A!1: no closing '"},
		{"A='1\nB=2", "A!1: no closing '|B=2"},
		{`A=1\`, "A!1: a backslash ends the line"},
		{"A=1\\\nB=2", "A!1: a backslash ends the line|B=2"},
		// A quote that begins a value may close some lines on.
		{"A='1\n\n2' # why\nB=2", "A=1\n\n2|B=2"},
		{"A=\"1\\\n2\"\nB=2", "A=12|B=2"},
		{"A=\"1\n2\"3 x\nB=2", "A!1: more than one word: quote the value|B=2"},
		{"A=\"1\n2\"'3\n'\nB=2", "A!1: no closing '|B=2"},
		{"A=Don't\nB='2'", "A!1: no closing '|B=2"},
		// So it may where it is somebody else's line.
		{"A = \"1\nB=2\n\"\nC=3", "C=3"},
		{"a.b=\"1\nB=2\\\"\n\"\nC=3", "C=3"},
		{"A: 'x\nB=2\\'\nC=3", "C=3"},
		{"A=`x\nB=2`\nC=3", "A=`x|B=2`|C=3"},
		{"A = `x\nB=2`\nC=3", "C=3"},
		{"A = \"x\nB=2", "B=2"},
		{"# don't = '\nB=2\n#'", "B=2"},
		{"A == 'x'\nB=2", "B=2"},
		// A line of ours that is malformed is not skipped.
		{"CI_NET = all", "CI_NET!1: want NAME=VALUE, without blanks around ="},
		{"CI_NET: all", "CI_NET!1: want NAME=VALUE, without blanks around ="},
		{"CI_NET", "CI_NET!1: want NAME=VALUE, without blanks around ="},
		{"CI_NET+=all", "CI_NET!1: want NAME=VALUE, without blanks around ="},
		{"export CI_NET = all", "CI_NET!1: want NAME=VALUE, without blanks around ="},
		{"CI_NET=all\nexport CI_NET CI_KEY", "CI_NET=all"},
		{"ci_net=all", "ci_net=all"},
	} {
		f := parseEnv("f", tt.text)
		var got []string
		for _, name := range slices.Sorted(maps.Keys(f.vars)) {
			if s := f.vars[name]; s.err != nil {
				got = append(got, name+"!"+string(rune('0'+s.line))+": "+s.err.Error())
			} else {
				got = append(got, name+"="+s.value)
			}
		}
		if got := strings.Join(got, "|"); got != tt.want {
			t.Errorf("parseEnv(%q) = %q, want %q", tt.text, got, tt.want)
		}
	}
}

// A line of ours between another value's quotes is told of.
func TestHidden(t *testing.T) {
	d := newDesk(t)
	d.env("A=1\nKEY=\"-----BEGIN\nCI_NET=all\nCI_FOREIGN=1\n\"\n")
	if c := d.load(1, ".env:3: ignored CI_NET: it stands between the quotes that begin in line 2"); c.Net != "build" {
		t.Errorf("it was read all the same: %+v", c)
	}
	d.env("KEY=\"\nCI_FOREIGN=1\nCI_NET is all\n\"\n")
	d.load(0)
	d.env("KEY=\"unclosed\nCI_NET=all\n")
	if c := d.load(0); c.Net != "all" {
		t.Errorf("behind a quote that nothing closes: %+v", c)
	}
}

func FuzzParseEnv(f *testing.F) {
	f.Add("export A='1' # x\nB=\"\\\"\"\nC = \"\n\"\n`\nCI_X: `\n`")
	f.Fuzz(func(t *testing.T, text string) {
		file := parseEnv("f", text)
		lines := strings.Count(text, "\n") + 1
		for name, s := range file.vars {
			if !validName(name) || s.line < 1 || s.line > lines || s.err != nil && s.value != "" {
				t.Errorf("parseEnv(%q) has %q: %+v", text, name, s)
			}
		}
		for _, h := range file.hidden {
			if h.from < 1 || h.line <= h.from || h.line > lines {
				t.Errorf("parseEnv(%q) hides %+v", text, h)
			}
		}
	})
}
