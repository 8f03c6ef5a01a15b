package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"9ci/orchestrator/dial"
)

// HOST is a name, an address or a URL, and the host of CI_ORCHESTRATOR alone stands for
// that.
func TestOrchestratorURL(t *testing.T) {
	const own = "ssh://x@ci.example.org:2222/github.com/alice/hello"
	for _, tt := range []struct{ arg, configured, want string }{
		{"", own, "ssh://ci.example.org:2222"},
		{"CI.example.org", own, "ssh://ci.example.org:2222"},
		{"ssh://ci.example.org", own, "ssh://ci.example.org:2222"},
		{"ci.example.org:22", own, "ssh://ci.example.org:22"},
		{"other.example.org", own, "ssh://other.example.org"},
		{"other.example.org:2200", "", "ssh://other.example.org:2200"},
		{"[::1]:2200", "", "ssh://[::1]:2200"},
		{"ssh://alice@other/github.com/alice/hello", "", "ssh://other"},
		{"ci.example.org", "tls://ci.example.org:443", "ssh://ci.example.org"},
		{"", "", "which orchestrator?"},
		{"", "tls://ci.example.org:443", "people log in at ssh://"},
		{"tls://ci.example.org:443", own, "people log in at ssh://"},
		{"https://ci.example.org", own, "want ssh://"},
		{"a b", own, "want ssh://"},
		{"ssh://alice:hunter2@ci.example.org", own, "password"},
	} {
		got, err := orchestratorURL(tt.arg, tt.configured)
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("orchestratorURL(%q, %q): %v", tt.arg, tt.configured, err)
		}
		if got != tt.want && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("orchestratorURL(%q, %q) = %q, %v, want %q", tt.arg, tt.configured, got, err, tt.want)
		}
	}
	for _, tt := range []struct {
		a, b string
		want bool
	}{{"ssh://a", "ssh://A:22", true}, {"ssh://a:2", "ssh://a:22", false}, {"ssh://a", "ssh://b", false}, {"ssh://[::1]:22", "ssh://[::1]", true}} {
		if got := same(tt.a, tt.b); got != tt.want {
			t.Errorf("same(%q, %q) = %t", tt.a, tt.b, got)
		}
	}
}

// setBrowsers sets what browsers looks at, and nothing else.
func setBrowsers(t *testing.T, vars ...string) {
	t.Helper()
	for _, name := range []string{"BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"} {
		t.Setenv(name, "")
	}
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
}

// A browser is opened where the user sees it.
func TestBrowsers(t *testing.T) {
	dir := t.TempDir()
	xdg := filepath.Join(dir, "xdg-open")
	if err := os.WriteFile(xdg, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		vars []string
		want []browser
	}{
		{nil, nil},
		{[]string{"DISPLAY=:0"}, []browser{{xdg}}},
		{[]string{"WAYLAND_DISPLAY=wayland-0"}, []browser{{xdg}}},
		{[]string{"DISPLAY=:0", "BROWSER=firefox -P 9ci:chromium %s:"}, []browser{{"firefox", "-P", "9ci"}, {"chromium", "%s"}}},
		{[]string{"BROWSER=firefox"}, []browser{{"firefox"}}},
		{[]string{"BROWSER=firefox", "DISPLAY=:0", "SSH_CONNECTION=192.0.2.1 1 192.0.2.2 22"}, nil},
		{[]string{"DISPLAY=:0", "PATH=/nonexistent"}, nil},
	} {
		t.Setenv("PATH", dir)
		setBrowsers(t, tt.vars...)
		if got := browsers(); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("with %q browsers = %q, want %q", tt.vars, got, tt.want)
		}
	}
}

// The next browser is tried if one does not start, or fails, and the URL is one word
// for no shell.
func TestOpenIn(t *testing.T) {
	const page = "https://ci.example.org/approve/A?x=$(id)&y=%s;z"
	dir := t.TempDir()
	script := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
		return file
	}
	bad := script("bad", "exit 3\n")
	good := script("good", `printf '%s\n' $# "$1" "$2" >`+dir+"/opened\n")
	if err := openIn([]browser{{dir + "/nosuch"}, {bad}, {good, "--new", "--url=%s"}, {bad}}, page); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "opened"))
	if want := "2\n--new\n--url=" + page + "\n"; err != nil || string(got) != want {
		t.Errorf("opened %q, %v, want %q", got, err, want)
	}
	err = openIn([]browser{{dir + "/nosuch"}, {bad}}, page)
	if err == nil || !strings.Contains(err.Error(), "nosuch") || !strings.Contains(err.Error(), "bad: exit status 3") {
		t.Errorf("openIn without a browser that works: %v", err)
	}
}

// What brings the state of the login back to the port is answered, once. Anything else
// gets not a byte and changes nothing.
func TestLanding(t *testing.T) {
	l, err := listenLanding()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	host := fmt.Sprintf("127.0.0.1:%d", l.port)
	send := func(text string) string {
		t.Helper()
		nc, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		io.WriteString(nc, text)
		nc.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(nc) // a reset is nothing too
		return string(b)
	}
	get := func(target, host string) string { return "GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	good := "/?" + url.Values{"code": {"proof"}, "state": {l.state}}.Encode()
	for what, text := range map[string]string{
		"nothing":        "",
		"noise":          "SSH-2.0-OpenSSH_9.9\r\n",
		"TLS":            "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"another path":   get("/favicon.ico", host),
		"another form":   get(strings.Replace(good, "/?", "/x?", 1), host),
		"no state":       get("/?code=proof", host),
		"another state":  get("/?code=evil&state=AAAAAAAAAAAAAAAAAAAAAAAAAA", host),
		"half a state":   get("/?code=evil&state="+l.state[:10], host),
		"no code":        get("/?state="+l.state, host),
		"an empty code":  get("/?code=&state="+l.state, host),
		"a long code":    get("/?code="+strings.Repeat("x", 2000)+"&state="+l.state, host),
		"a long header":  "GET " + good + " HTTP/1.1\r\nHost: " + host + "\r\nX: " + strings.Repeat("x", maxRequest) + "\r\n\r\n",
		"a rebound name": get(good, "evil.example:"+fmt.Sprint(l.port)),
		"another port":   get(good, "127.0.0.1:1"),
		"a form":         strings.Replace(get(good, host), "GET", "POST", 1),
		"a bad query":    get(good+"&x=%zz", host),
		"half a request": strings.TrimSuffix(get(good, host), "\r\n"),
		"a preflight":    strings.Replace(get(good, host), "GET", "OPTIONS", 1),
		"two requests":   get("/x", host) + get(good, host),
	} {
		if got := send(text); got != "" {
			t.Errorf("%s: answered with %q", what, got)
		}
		select {
		case b := <-l.brought:
			t.Errorf("%s: brought %+v", what, b)
		default:
		}
	}
	answer := send(get(good, host))
	r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
	if err != nil || r.StatusCode != http.StatusOK || !strings.Contains(answer, "Go back to the terminal") || r.Header.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("answer %q, %v", answer, err)
	}
	// A reload says the same, and another code is not taken.
	if again := send(get(strings.Replace(good, "proof", "evil", 1), host)); again != answer {
		t.Errorf("again: %q", again)
	}
	if code, err := l.code(t.Context(), nil); code != "proof" || err != nil {
		t.Errorf("code = %q, %v", code, err)
	}
}

// A refusal on the page, a browser that does not open, and one that hands the page on.
func TestLandingEnds(t *testing.T) {
	for _, tt := range []struct {
		name    string
		browser error
		query   string
		is      error
	}{
		{"refused", nil, "error=access_denied&state=", dial.ErrLogin},
		{"no browser", os.ErrNotExist, "", dial.ErrBrowser},
	} {
		l, err := listenLanding()
		if err != nil {
			t.Fatal(err)
		}
		opened := make(chan error, 1)
		opened <- tt.browser
		if tt.query != "" {
			resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/?%s%s", l.port, tt.query, l.state))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		if code, err := l.code(t.Context(), opened); code != "" || !errors.Is(err, tt.is) {
			t.Errorf("%s: code = %q, %v, want %v", tt.name, code, err, tt.is)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.code(ctx, opened); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: after the end: %v", tt.name, err)
		}
		l.Close()
		if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", l.port)); err == nil {
			t.Errorf("%s: the port is open after the end", tt.name)
		}
	}
}

// More clients than there is room for do not keep the browser out for long: they are
// hung up on.
func TestLandingFull(t *testing.T) {
	l, err := listenLanding()
	if err != nil {
		t.Fatal(err)
	}
	host := fmt.Sprintf("127.0.0.1:%d", l.port)
	var held []net.Conn
	for range 4 * maxVisitors {
		nc, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, nc)
	}
	io.Copy(io.Discard, held[len(held)-1]) // ends at once
	held[0].Close()
	for {
		resp, err := http.Get("http://" + host + "/?code=proof&state=" + l.state)
		if err != nil {
			continue // the place that has become free is not seen yet
		}
		resp.Body.Close()
		break
	}
	if code, err := l.code(t.Context(), nil); code != "proof" || err != nil {
		t.Errorf("code = %q, %v", code, err)
	}
	l.Close() // which does not wait for those that are silent
	for _, nc := range held {
		nc.Close()
	}
}
