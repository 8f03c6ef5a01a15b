package config

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseEnv(t *testing.T) {
	for _, tt := range []struct {
		text string
		want map[string]string // nil: an error that begins with err
		err  string
	}{
		{"", map[string]string{}, ""},
		{"# comment\n\nA=1\r\nexport B=2 # why\n", map[string]string{"A": "1", "B": "2"}, ""},
		{`A='a $b "c"' `, map[string]string{"A": `a $b "c"`}, ""},
		{`A="a \"b\" \$c \d"`, map[string]string{"A": `a "b" $c \d`}, ""},
		{`A=a\ b'c d'"e"`, map[string]string{"A": "a bc de"}, ""},
		{"A=$(rm -rf /)#x", nil, "f:1: more than one word"},
		{"A=1\nB", nil, "f:2: want NAME=VALUE"},
		{"1A=1", nil, "f:1: want NAME=VALUE"},
		{"A='1", nil, "f:1: no closing '"},
		{`A=1\`, nil, "f:1: a backslash"},
	} {
		got, err := parseEnv("f", tt.text)
		if tt.want == nil {
			if err == nil || !strings.HasPrefix(err.Error(), tt.err) {
				t.Errorf("parseEnv(%q): %v, want %s", tt.text, err, tt.err)
			}
			continue
		}
		if err != nil || !maps.Equal(got, tt.want) {
			t.Errorf("parseEnv(%q) = %v, %v, want %v", tt.text, got, err, tt.want)
		}
	}
}

func FuzzParseEnv(f *testing.F) {
	f.Add("export A='1' # x\nB=\"\\\"\"")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseEnv("f", text)
		if err == nil {
			for k := range m {
				if !validName(k) {
					t.Errorf("parseEnv(%q) made the name %q", text, k)
				}
			}
		}
	})
}

func TestParse(t *testing.T) {
	t.Setenv("CI", "")
	vars := map[string]string{}
	lookup := func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
	c, err := parse(lookup)
	if err != nil {
		t.Fatal(err)
	}
	if c.Keep != "once" || c.Connected >= 0 || c.Timeout != time.Hour || c.Memory != 2<<30 || c.CPUs < 1 ||
		c.Net != "build" || c.Runs || c.MatchTree || c.MaxAge != 7*24*time.Hour {
		t.Errorf("the defaults are %+v", c)
	}
	t.Setenv("CI", "true")
	if c, err = parse(lookup); err != nil || c.Connected != 0 {
		t.Errorf("with CI=true it stays connected for %v, %v, want 0", c.Connected, err)
	}
	vars = map[string]string{"CI_CONNECTED": "90", "CI_MEMORY": "512M", "CI_CPUS": "3", "CI_NET": "all", "CI_RUNS": "1",
		"CI_MATCH": "tree", "CI_MAXAGE": "2w", "CI_ENV": "A 'B=b c'", "A": "a"}
	c, err = parse(lookup)
	if err != nil || c.Connected != 90*time.Second || c.Memory != 512<<20 || c.CPUs != 3 || c.Net != "all" ||
		!c.Runs || !c.MatchTree || c.MaxAge != 14*24*time.Hour || strings.Join(c.Env, "|") != "A=a|B=b c" {
		t.Errorf("parse = %+v, %v", c, err)
	}
	for name, value := range map[string]string{"CI_CONNECTED": "ever", "CI_TIMEOUT": "-1s", "CI_MEMORY": "1M", "CI_CPUS": "0",
		"CI_NET": "some", "CI_RUNS": "yes", "CI_MATCH": "blob", "CI_ENV": "UNSET", "CI_SECRETS": "a-b", "CI_MAXAGE": "soon"} {
		vars = map[string]string{name: value}
		if _, err := parse(lookup); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v, want an error that names it", name, value, err)
		}
	}
	vars = map[string]string{"CI_ENV": "A", "A": "one\ntwo"}
	if _, err := parse(lookup); err == nil {
		t.Error("a value with a newline was let into the key")
	}
}

// A tracked .env configures the run, but not whom to trust.
func TestLoad(t *testing.T) {
	top, home := t.TempDir(), t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	t.Setenv("FROM_ENVIRONMENT", "x")
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(top, ".env"), "CI_NET=all\nCI_SIGNERS=evil\nCI_ENV=FROM_ENVIRONMENT\n")
	write(filepath.Join(home, "9ci", "env"), "CI_NET=none\nCI_TIMEOUT=2h\n")
	c, err := Load(top, true, nil)
	if err != nil || c.Net != "all" || c.Timeout != 2*time.Hour || c.Signers != "" || len(c.Env) != 0 {
		t.Errorf("with a tracked .env: %+v, %v", c, err)
	}
	if c, err = Load(top, false, nil); err != nil || c.Signers != "evil" || len(c.Env) != 1 {
		t.Errorf("with a .env of one's own: %+v, %v", c, err)
	}
	if c, err = Load(top, true, map[string]string{"CI_NET": "build"}); err != nil || c.Net != "build" {
		t.Errorf("with CI_NET set: %+v, %v", c, err)
	}
	if _, err = Load(top, true, map[string]string{"CI_NOTHING": "1"}); err == nil || err.Error() != "unknown attribute nothing" {
		t.Errorf("with CI_NOTHING set: %v", err)
	}
}
