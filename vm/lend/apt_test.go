package lend

import (
	"reflect"
	"testing"
)

func TestParseSources(t *testing.T) {
	for _, test := range []struct {
		name     string
		parse    func(text, codename string) []source
		codename string
		text     string
		want     []source
	}{
		{"list", parseList, "bookworm", `
# deb http://old.example/debian bookworm main
deb http://a.example/debian bookworm main contrib # comment
deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian bookworm-updates main
deb [ arch=amd64 ] http://s.example/security bookworm-security main
deb-src http://a.example/debian bookworm main
deb http://a.example/debian bookworm-backports main
deb http://v.example/apt bookworm stable
deb http://p.example/apt bookworm-pgdg main
deb http://x.example/apt
deb [
`, []source{
			{"http://a.example/debian", []string{"bookworm"}},
			{"http://a.example/debian", []string{"bookworm-updates"}},
			{"http://s.example/security", []string{"bookworm-security"}},
		}},
		{"deb822", parseDeb822, "bookworm", `Types: deb deb-src
# a comment
URIs: http://a.example/debian http://b.example/debian
Suites: bookworm
 bookworm-updates
	bookworm-backports
Components: main contrib
Signed-By: /k.gpg

Types: deb
URIs: http://v.example/apt
Suites: nodistro
Components: main

Types: deb
Enabled: no
URIs: http://c.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://s.example/security
Suites: bookworm-security
Components: main`, []source{
			{"http://a.example/debian", []string{"bookworm", "bookworm-updates"}},
			{"http://b.example/debian", []string{"bookworm", "bookworm-updates"}},
			{"http://s.example/security", []string{"bookworm-security"}},
		}},
		{"another release", parseList, "trixie", "deb http://a.example/debian trixie main\ndeb http://s.example/security trixie-security main",
			[]source{
				{"http://a.example/debian", []string{"bookworm"}},
				{"http://s.example/security", []string{"bookworm-security"}},
			}},
		{"another vendor", parseList, "noble", "deb http://a.example/ubuntu noble universe", nil},
		{"nothing", parseDeb822, "bookworm", "", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.parse(test.text, test.codename); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %v\nwant %v", got, test.want)
			}
		})
	}
}

func TestAPTOptions(t *testing.T) {
	dump := `APT::Architecture "amd64";
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://127.0.0.1:3142";
Acquire::http::Proxy::far.example "DIRECT";
Acquire::https::Proxy "";
Acquire::http::User-Agent "x";
Acquire::Check-Valid-Until "false";
DPkg::Post-Invoke:: "rm -rf /";
`
	a := APT{options: aptOptions(dump)}
	want := []string{
		`Acquire::http::Proxy "http://127.0.0.1:3142";`,
		`Acquire::http::Proxy::far.example "DIRECT";`,
		`Acquire::Check-Valid-Until "false";`,
	}
	if !reflect.DeepEqual(a.options, want) {
		t.Errorf("aptOptions = %q, want %q", a.options, want)
	}
	a = APT{}
	a.environment(func(name string) string {
		return map[string]string{"http_proxy": "http://localhost:8080/", "https_proxy": "bad\"quote"}[name]
	})
	if want := []string{`Acquire::http::Proxy "http://localhost:8080/";`}; !reflect.DeepEqual(a.options, want) {
		t.Errorf("environment = %q, want %q", a.options, want)
	}
}
