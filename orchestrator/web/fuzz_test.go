package web

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// Whatever a link says, a login leads to this page.
func FuzzNext(f *testing.F) {
	f.Add("/approve/AAAAAAAAAAAAAAAAAAAAAA")
	f.Add("//evil.example")
	f.Add("/")
	f.Add("/runs/github.com/alice/hello?rev=3f2a9c1&state=passed")
	f.Fuzz(func(t *testing.T, next string) {
		to, err := url.Parse("https://ci.example.org" + safeNext(next))
		if err != nil || to.Host != "ci.example.org" || to.User != nil || to.Fragment != "" {
			t.Fatalf("safeNext(%q) = %q", next, safeNext(next))
		}
		first, _, _ := strings.Cut(strings.TrimPrefix(to.Path, "/"), "/")
		switch first {
		case "", "account", "approve":
			if to.RawQuery != "" || first == "" && to.Path != "/" {
				t.Errorf("safeNext(%q) = %q", next, safeNext(next))
			}
		case "runs", "run", "rev", "log", "artifacts", "raw", "compare", "tests":
		default:
			t.Errorf("safeNext(%q) = %q", next, safeNext(next))
		}
	})
}

// Whatever a person types is a code as they are made, or none.
func FuzzCode(f *testing.F) {
	f.Add("bcdf-ghjk")
	f.Fuzz(func(t *testing.T, typed string) {
		if c := cleanCode(typed); c != "" && (len(c) != codeSize || strings.Trim(c, codeLetters) != "") {
			t.Errorf("cleanCode(%q) = %q", typed, c)
		}
	})
}

// Whatever headers say, a client has an address, and only a proxy on this machine names
// another than its own.
func FuzzClient(f *testing.F) {
	f.Add("192.0.2.1:1", "10.0.0.1, [::1%lo]:2")
	f.Add("@", "::ffff:192.0.2.1")
	f.Fuzz(func(t *testing.T, remote, forwarded string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = remote
		r.Header["X-Forwarded-For"] = []string{forwarded}
		from, proxied := client(r)
		if !from.IsValid() || from.Zone() != "" || from.Is4In6() || source(from) == "?" {
			t.Errorf("client(%q, %q) = %v", remote, forwarded, from)
		}
		r.Header.Del("X-Forwarded-For")
		if own, _ := client(r); own != from && !proxied {
			t.Errorf("client(%q, %q) = %v, and it is %v", remote, forwarded, from, own)
		}
	})
}

// Whatever is given as sealed is opened by nobody.
func FuzzSealed(f *testing.F) {
	s := newSealer()
	good, err := s.seal("login", "owner", 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("login", "owner", good[1:])
	f.Add("login\x00", "owner", good)
	f.Fuzz(func(t *testing.T, purpose, owner, text string) {
		var v int
		if err := s.open(purpose, owner, text, &v); err == nil && (purpose != "login" || owner != "owner") {
			t.Errorf("open(%q, %q, %q) = %d", purpose, owner, text, v)
		}
	})
}
