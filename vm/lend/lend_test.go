package lend

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"9ci/vm/network"
)

const (
	user     = "bob"
	password = "hunter2hunter2"
)

func newLoan() *Loan {
	return &Loan{Forwards: make(map[uint16]http.Handler), proxies: make(map[string]string)}
}

// serve has a forward answer on this host's loopback, as the gateway does in a
// machine.
func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// unseen fails the test if what a machine gets has a word of the host's.
func unseen(t *testing.T, l *Loan, words ...string) {
	t.Helper()
	all := strings.Join(append(slices.Clone(l.Env), l.Warnings...), "\n")
	for _, f := range l.Files {
		all += f.Name + "\n" + string(f.Data)
	}
	for _, w := range words {
		if strings.Contains(all, w) {
			t.Errorf("a machine gets %q:\n%s", w, all)
		}
	}
}

// A hub is a registry that wants a login, by a password or by tokens that a
// password gets.
func hub(t *testing.T, bearer bool) *httptest.Server {
	t.Helper()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var s *httptest.Server
	s = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, ok := r.BasicAuth()
		in := ok && u == user && p == password
		switch {
		case bearer && r.URL.Path == "/token":
			if !in {
				http.Error(w, "no", http.StatusUnauthorized)
				return
			}
			json.NewEncoder(w).Encode(map[string]string{"token": "token-for-" + r.URL.Query().Get("scope")})
			return
		case bearer && !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer token-for-"):
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="hub"`, s.URL))
			http.Error(w, "no", http.StatusUnauthorized)
			return
		case !bearer && !in:
			w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	return s
}

// authFile writes a file as podman login --authfile does.
func authFile(t *testing.T, key, pass string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "auth.json")
	text := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, key, base64.StdEncoding.EncodeToString([]byte(user+":"+pass)))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A machine pulls through the host what takes a password, and has no password; it
// pulls only.
func TestRegistry(t *testing.T) {
	for _, bearer := range []bool{false, true} {
		t.Run(fmt.Sprintf("bearer=%v", bearer), func(t *testing.T) {
			s := hub(t, bearer)
			at, _ := url.Parse(s.URL + "/mirrored")
			ref, err := name.ParseReference(at.Host + "/mirrored/library/image:1")
			if err != nil {
				t.Fatal(err)
			}
			img, err := random.Image(64<<10, 3)
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: user, Password: password})); err != nil {
				t.Fatal(err)
			}
			l := newLoan()
			if err := l.registries(Options{[]Registry{{"docker.io", at}}, authFile(t, at.Host, password)}); err != nil {
				t.Fatal(err)
			}
			unseen(t, l, user, password, base64.StdEncoding.EncodeToString([]byte(user+":"+password)), "/mirrored")
			var conf string
			for _, f := range l.Files {
				conf += string(f.Data)
			}
			if want := "prefix = \"docker.io\"\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"10.0.2.2:5000\"\ninsecure = true\n"; !strings.Contains(conf, want) {
				t.Errorf("podman is told %s, want %s", conf, want)
			}
			m := serve(t, l.Forwards[5000])
			host := strings.TrimPrefix(m.URL, "http://")
			mine, err := name.ParseReference(host + "/library/image:1")
			if err != nil {
				t.Fatal(err)
			}
			got, err := remote.Image(mine)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Image(got); err != nil {
				t.Error(err)
			}
			if a, _ := img.Digest(); true {
				if b, err := got.Digest(); a != b {
					t.Errorf("pulled %v, %v, want %v", b, err, a)
				}
			}
			other, err := random.Image(1<<10, 1)
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(mine, other); err == nil {
				t.Error("pushed an image with the host's password")
			}
			if err := remote.Delete(mine); err == nil {
				t.Error("deleted an image with the host's password")
			}
			for _, p := range []string{
				"/v2/_catalog", "/token?scope=x", "/", "/v2/library/image/blobs/uploads/", "/v2/../token", "/v2/library/../../token/tags/list",
				"/v2/library%2fimage/../tags/list", "/v2//tags/list", "/v2/-x/tags/list",
			} {
				r, err := http.Get(m.URL + p)
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(r.Body)
				r.Body.Close()
				if r.StatusCode != 404 && r.StatusCode != 405 || bytes.Contains(b, []byte("token-for")) {
					t.Errorf("GET %s = %s, %s", p, r.Status, b)
				}
			}
			if r, err := http.Get(m.URL + "/v2/library/image/tags/list"); err != nil || r.StatusCode != 200 {
				t.Errorf("tags: %v, %v", r, err)
			} else if r.Header.Get("Www-Authenticate")+r.Header.Get("Authorization")+r.Header.Get("Set-Cookie") != "" {
				t.Errorf("a machine gets the headers %v", r.Header)
			}
			none, err := name.ParseReference(host + "/library/none:1")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := remote.Image(none); err == nil {
				t.Error("pulled an image that is not there")
			}
		})
	}
}

// A wrong password, and a registry that is not there, are told of by name.
func TestRegistryFails(t *testing.T) {
	at, _ := url.Parse(hub(t, true).URL)
	gone, _ := url.Parse("http://127.0.0.1:1")
	for _, test := range []struct {
		at   *url.URL
		auth string
		want string
	}{
		{at, authFile(t, at.Host, "wrongwrong"), at.Host},
		{gone, "", "127.0.0.1:1"},
	} {
		l := newLoan()
		if err := l.registries(Options{[]Registry{{"quay.io", test.at}}, test.auth}); err != nil {
			t.Fatal(err)
		}
		m := serve(t, l.Forwards[5000])
		r, err := http.Get(m.URL + "/v2/a/b/manifests/1")
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode < 400 || !bytes.Contains(b, []byte("the host asked "+test.want)) || bytes.Contains(b, []byte("wrongwrong")) {
			t.Errorf("%s: %s", r.Status, b)
		}
	}
	for text, want := range map[string]string{
		"{":                           "not a file as podman login",
		strings.Repeat(" ", 2<<20):    "over 1048576 bytes",
		`{"auths": {"a": {"auth":1}}`: "not a file as podman login",
	} {
		file := filepath.Join(t.TempDir(), "auth.json")
		os.WriteFile(file, []byte(text), 0o600)
		if err := newLoan().registries(Options{AuthFile: file}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
	if err := newLoan().registries(Options{Registries: []Registry{{Name: `a"b`}}}); err == nil {
		t.Error(`a registry named a"b: no error`)
	}
}

// Where a registry redirects to is dialled as the machine's own dials are: it cannot
// be a socket of this host with another name.
func TestRegistryRedirects(t *testing.T) {
	secret := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirect reached this host: %v", r.URL)
	}))
	to := strings.Replace(secret.URL, "127.0.0.1", "localhost", 1)
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			http.Redirect(w, r, to+"/secret", http.StatusTemporaryRedirect)
		}
	}))
	at, _ := url.Parse(s.URL)
	l := newLoan()
	if err := l.registries(Options{Registries: []Registry{{"quay.io", at}}}); err != nil {
		t.Fatal(err)
	}
	r, err := http.Get(serve(t, l.Forwards[5000]).URL + "/v2/a/blobs/sha256:00")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, _ := io.ReadAll(r.Body); r.StatusCode != http.StatusBadGateway || !bytes.Contains(b, []byte("refused to a machine")) {
		t.Errorf("%s: %s", r.Status, b)
	}
}

// A login that hangs for one repository holds up no other.
func TestRegistryHangs(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	var s *httptest.Server
	s = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v2/":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=\"x\"", s.URL+"/token"))
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path != "/token":
		case strings.Contains(r.URL.RawQuery, "hangs"):
			close(asked)
			<-release
		default:
			io.WriteString(w, `{"token": "t"}`)
		}
	}))
	at, _ := url.Parse(s.URL)
	l := newLoan()
	if err := l.registries(Options{Registries: []Registry{{"quay.io", at}}}); err != nil {
		t.Fatal(err)
	}
	m := serve(t, l.Forwards[5000])
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if r, err := http.Get(m.URL + "/v2/hangs/manifests/1"); err == nil {
			r.Body.Close()
		}
	}()
	defer func() {
		close(release)
		<-ended
	}()
	<-asked
	r, err := http.Get(m.URL + "/v2/other/manifests/1")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Errorf("another repository: %s", r.Status)
	}
}

// A proxy on this host's loopback is dialled, and what else is there is not.
func TestGuarded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := l.Addr().String()
	for _, test := range []struct {
		registry string
		proxies  []string
		ok       bool
	}{
		{"registry.example", nil, false},
		{"registry.example", []string{"127.0.0.1:1"}, false},
		{"registry.example", []string{to}, true},
		{"127.0.0.1", nil, true},
		{"localhost", nil, false},
	} {
		c, err := guarded(test.registry, test.proxies)(t.Context(), "tcp", to)
		if err == nil {
			c.Close()
		}
		if (err == nil) != test.ok || err != nil && !errors.Is(err, network.ErrRefused) {
			t.Errorf("for %s with the proxies %q: %v, want ok %v", test.registry, test.proxies, err, test.ok)
		}
	}
}

// The keys of a file of passwords are registries to pull from, and the longest that
// fits counts.
func TestAuthKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "auth.json")
	entry := func(u string) string {
		return fmt.Sprintf(`{"auth": %q}`, base64.StdEncoding.EncodeToString([]byte(u+":pppppppp")))
	}
	os.WriteFile(file, []byte(`{"auths": {"https://index.docker.io/v1/": `+entry("hub")+`, "quay.io": `+entry("quay")+`, "quay.io/org": `+entry("org")+`, "quay.io/org/one": `+entry("one")+`}}`), 0o600)
	c, err := readAuthFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := authKeys(c); !slices.Equal(got, []string{"docker.io", "quay.io"}) {
		t.Errorf("authKeys = %q", got)
	}
	for _, test := range []struct{ host, repo, want string }{
		{dockerHost, "library/alpine", "hub"},
		{"quay.io", "a/b", "quay"},
		{"quay.io", "org/two", "org"},
		{"quay.io", "org/one", "one"},
		{"ghcr.io", "org/one", ""},
	} {
		a, err := credentials(c, test.host, test.repo)
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.Authorization()
		if err != nil || got.Username != test.want {
			t.Errorf("credentials(%s, %s) = %q, %v, want %q", test.host, test.repo, got.Username, err, test.want)
		}
	}
}

// A hostProxyServer is a proxy that wants a password, and notes what it is asked.
// It answers everything itself.
type hostProxyServer struct {
	mu    sync.Mutex
	asked []string
}

func (p *hostProxyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	if r.Header.Get("Proxy-Authorization") != want {
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	p.note(r.Method + " " + r.RequestURI)
	if r.Method != http.MethodConnect {
		fmt.Fprintf(w, "of the proxy: %s", r.URL)
		return
	}
	w.WriteHeader(http.StatusOK)
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	rw.WriteString("hello\n") // before the client says a word
	rw.Flush()
	io.Copy(c, rw)
}

func (p *hostProxyServer) note(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, what)
}

func (p *hostProxyServer) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// A proxy on this host's loopback that wants a password serves a machine that has
// neither its address nor the password; what is this host's own it is not asked
// for.
func TestProxy(t *testing.T) {
	var p hostProxyServer
	s := serve(t, &p)
	with := strings.Replace(s.URL, "http://", "http://"+user+":"+password+"@", 1)
	l := newLoan()
	l.environment(func(name string) string {
		return map[string]string{"http_proxy": with, "HTTPS_PROXY": with, "no_proxy": "internal.example", "ftp_proxy": "nonsense://" + user + ":" + password + "@x"}[name]
	})
	unseen(t, l, user, password, strings.TrimPrefix(s.URL, "http://"))
	for _, want := range []string{
		"http_proxy=http://10.0.2.2:3128", "HTTP_PROXY=http://10.0.2.2:3128", "https_proxy=http://10.0.2.2:3128",
		"no_proxy=localhost,127.0.0.1,::1,10.0.2.2,internal.example",
	} {
		if !slices.Contains(l.Env, want) {
			t.Errorf("environment %q, want %q", l.Env, want)
		}
	}
	if len(l.Warnings) != 1 || !strings.Contains(l.Warnings[0], "ftp_proxy is not lent: a nonsense proxy") {
		t.Errorf("warnings %q", l.Warnings)
	}
	m := serve(t, l.Forwards[3128])
	at, _ := url.Parse(m.URL)
	c := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(at)}}
	r, err := c.Get("http://archive.invalid/x?y=z")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(r.Body)
	r.Body.Close()
	if want := "of the proxy: http://archive.invalid/x?y=z"; string(b) != want {
		t.Errorf("GET = %s %q, want %q", r.Status, b, want)
	}
	if line := raw(t, at.Host, "GET ftp://archive.invalid/x?y=z HTTP/1.1\r\nHost: archive.invalid"); line != "HTTP/1.1 200 OK\r\n" {
		t.Errorf("GET ftp = %q", line)
	}
	if got, want := p.all(), "GET ftp://archive.invalid/x?y=z"; got[len(got)-1] != want {
		t.Errorf("the proxy was asked %q, want %q", got, want)
	}
	if got := connect(t, at.Host, "archive.invalid:443"); got != "hello\nping\n" {
		t.Errorf("CONNECT = %q", got)
	}

	before := len(p.all())
	port := strings.Split(strings.TrimPrefix(s.URL, "http://"), ":")[1]
	targets := []string{
		"127.0.0.1", "127.0.0.2", "localhost", "LOCALHOST.", "x.Localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "0.0.0.0", "[::1]", "[::]",
		"[::ffff:127.0.0.1]", "[::127.0.0.1]", "169.254.169.254", "[fe80::1%25eth0]", "10.0.2.2", "[64:ff9b::7f00:1]",
	}
	own, _ := net.InterfaceAddrs()
	for _, a := range own {
		if ip := netip.MustParsePrefix(a.String()).Addr(); ip.Is4() {
			targets = append(targets, ip.String())
		} else {
			targets = append(targets, "["+ip.String()+"]")
		}
	}
	for _, to := range targets {
		for _, line := range []string{
			"GET http://" + to + ":" + port + "/ HTTP/1.1\r\nHost: archive.invalid",
			"GET http://u:p@" + to + "/ HTTP/1.1\r\nHost: archive.invalid",
			"CONNECT " + to + ":" + port + " HTTP/1.1\r\nHost: archive.invalid",
			"GET ftp://" + to + "/x HTTP/1.1\r\nHost: archive.invalid",
		} {
			if got := raw(t, at.Host, line); strings.HasPrefix(got, "HTTP/1.1 2") {
				t.Errorf("%s: %s", line, got)
			}
		}
	}
	for _, line := range []string{"GET / HTTP/1.1\r\nHost: 127.0.0.1", "GET gopher://x/ HTTP/1.1\r\nHost: x", "CONNECT x HTTP/1.1\r\nHost: x"} {
		if got := raw(t, at.Host, line); !strings.HasPrefix(got, "HTTP/1.1 400") {
			t.Errorf("%s: %s", line, got)
		}
	}
	if got := p.all(); len(got) != before {
		t.Errorf("the proxy was asked for this host's own: %q", got[before:])
	}
}

// raw sends the head of a request and returns the first line of the answer.
func raw(t *testing.T, at, head string) string {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, head+"\r\nConnection: close\r\n\r\n")
	line, _ := bufio.NewReader(c).ReadString('\n')
	return line
}

// connect asks a proxy for a connection and returns what comes of a line sent there.
func connect(t *testing.T, at, to string) string {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", to)
	br := bufio.NewReader(c)
	r, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	if err != nil || r.StatusCode != http.StatusOK || r.TransferEncoding != nil {
		return fmt.Sprint(r, err)
	}
	io.WriteString(c, "ping\n")
	c.(*net.TCPConn).CloseWrite()
	b, _ := io.ReadAll(br)
	return string(b)
}

// A SOCKS proxy of the host's is one for HTTP in the machine.
func TestSOCKSProxy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan string, 2)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // RFC 1928 and 1929
				defer c.Close()
				b := make([]byte, 512)
				c.Read(b)
				c.Write([]byte{5, 2})
				n, _ := c.Read(b)
				login := string(b[2:2+b[1]]) + ":" + string(b[3+b[1]:n])
				c.Write([]byte{1, 0})
				n, _ = c.Read(b)
				asked <- login + " " + string(b[5:n-2])
				c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
				br := bufio.NewReader(c)
				if first, _ := br.Peek(4); string(first) == "GET " {
					http.ReadRequest(br)
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")
					return
				}
				io.Copy(c, br)
			}()
		}
	}()
	loan := newLoan()
	loan.environment(func(name string) string {
		return map[string]string{"all_proxy": "socks5h://" + user + ":" + password + "@" + l.Addr().String()}[name]
	})
	unseen(t, loan, user, password)
	m := serve(t, loan.Forwards[3128])
	at, _ := url.Parse(m.URL)
	if got := connect(t, at.Host, "far.invalid:443"); got != "ping\n" {
		t.Errorf("CONNECT = %q", got)
	}
	r, err := (&http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(at)}}).Get("http://far.invalid/")
	if err != nil || r.StatusCode != 200 {
		t.Errorf("GET = %v, %v", r, err)
	}
	for range 2 {
		if got, want := <-asked, user+":"+password+" far.invalid"; got != want {
			t.Errorf("the proxy was asked %q, want %q", got, want)
		}
	}
}

// A machine's apt reaches the host's sources, with the host's passwords and
// proxies, by numbers; and nothing beside them.
func TestArchive(t *testing.T) {
	var asked []string
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, _ := r.BasicAuth()
		asked = append(asked, fmt.Sprintf("%s %s %s:%s %s%s", r.Method, r.URL.Path, u, p, r.Header.Get("Cookie"), r.Header.Get("Range")))
		switch {
		case strings.HasSuffix(r.URL.Path, "/moved"):
			http.Redirect(w, r, "/debian/dists/there", http.StatusFound)
		case strings.HasSuffix(r.URL.Path, "/away"):
			http.Redirect(w, r, "https://elsewhere.example/x", http.StatusFound)
		default:
			fmt.Fprint(w, "mirror of ", r.URL.Path)
		}
	}))
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "InRelease"), []byte("file\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	var p hostProxyServer
	proxied := serve(t, &p)
	with := strings.Replace(s.URL, "http://", "http://"+user+":"+password+"@", 1) + "/debian"
	l := newLoan()
	l.archive(APT{
		sources: []source{
			{with, []string{"bookworm"}}, {with, []string{"bookworm-updates"}}, {"file:" + dir, []string{"bookworm-security"}},
			{"http://far.invalid/debian/", []string{"bookworm"}}, {"cdrom:[x]/", []string{"bookworm"}},
		},
		options: []string{
			fmt.Sprintf("Acquire::http::Proxy %q;", strings.Replace(proxied.URL, "http://", "http://"+user+":"+password+"@", 1)),
			`Acquire::http::Proxy::127.0.0.1 "DIRECT";`, `Acquire::Check-Valid-Until "false";`,
		},
	})
	unseen(t, l, user, password, strings.TrimPrefix(s.URL, "http://"), dir, "far.invalid")
	files := make(map[string]string)
	for _, f := range l.Files {
		files[f.Name] = string(f.Data)
	}
	const key = "deb [signed-by=" + Keyring + "] http://10.0.2.2:3142/"
	if want := key + "0 bookworm main\n" + key + "0 bookworm-updates main\n" + key + "1 bookworm-security main\n" + key + "2 bookworm main\n"; files["/etc/apt/sources.list"] != want {
		t.Errorf("sources.list is %s, want %s", files["/etc/apt/sources.list"], want)
	}
	if got, want := files["/etc/apt/apt.conf.d/99host"], "Acquire::http::Proxy \"http://10.0.2.2:3128\";\nAcquire::http::Proxy::127.0.0.1 \"DIRECT\";\nAcquire::Check-Valid-Until \"false\";\nAcquire::http::Proxy::10.0.2.2 \"DIRECT\";\n"; got != want {
		t.Errorf("apt.conf is %s, want %s", got, want)
	}
	m := serve(t, l.Forwards[3142])
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	get := func(method, path string) string {
		r, err := http.NewRequest(method, m.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.Opaque = path
		r.Header.Set("Cookie", "mine")
		r.SetBasicAuth("mine", "mine")
		r.Header.Set("Range", "bytes=0-")
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return fmt.Sprintf("%d %s%s", resp.StatusCode, resp.Header.Get("Location"), b)
	}
	for _, test := range []struct{ path, want string }{
		{"/0/dists/bookworm/InRelease", "200 mirror of /debian/dists/bookworm/InRelease"},
		{"/0/pool/a%2bb.deb", "200 mirror of /debian/pool/a+b.deb"},
		{"/0/moved", "302 /0/dists/there"},
		{"/0/away", "302 https://elsewhere.example/x"},
		{"/1/InRelease", "206 file\n"},
		{"/2/InRelease", "200 of the proxy: http://far.invalid/debian/InRelease"},
	} {
		if got := get("GET", test.path); !strings.HasPrefix(got, test.want) {
			t.Errorf("GET %s = %s, want %s", test.path, got, test.want)
		}
	}
	for _, a := range asked {
		if !strings.Contains(a, user+":"+password+" bytes=0-") {
			t.Errorf("the mirror was asked %s", a)
		}
	}
	n := len(asked)
	for _, path := range []string{
		"/0/../secret", "/0/%2e%2e/secret", "/0/x/..%2f..%2fsecret", "/0/%252e%252e/secret", `/0/..\secret`, "/3/x", "/-1/x", "/x", "/",
		"/1/link", "/1/../passwd", "/1/%2e%2e/passwd", "//0/../x", "/00000000000000000000000/x",
	} {
		if got := get("GET", path); strings.HasPrefix(got, "2") {
			t.Errorf("GET %s = %s", path, got)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PROPFIND"} {
		if got := get(method, "/0/x"); !strings.HasPrefix(got, "405") {
			t.Errorf("%s = %s", method, got)
		}
	}
	if len(asked) != n {
		t.Errorf("the mirror was asked %q", asked[n:])
	}
}

// A host that trusts more than Debian does lends it all; a key that stands beside a
// certificate stays.
func TestAuthorities(t *testing.T) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	debian := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("Debian's")})
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte(password)})
	dir := t.TempDir()
	file := filepath.Join(dir, "bundle.pem")
	if err := os.WriteFile(file, bytes.Join([][]byte{[]byte("# a comment\n"), debian, key, cert, cert}, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", file)
	l := newLoan()
	l.authorities()
	unseen(t, l, strings.TrimSpace(strings.Split(string(key), "\n")[1]), "PRIVATE", "comment")
	names := make(map[string]string)
	for _, f := range l.Files {
		names[filepath.Dir(f.Name)] = string(f.Data)
	}
	if got := names["/etc/ssl/certs"]; got != string(debian)+string(cert) {
		t.Errorf("the bundle is %s", got)
	}
	if got := names["/usr/local/share/ca-certificates"]; got != string(cert) {
		t.Errorf("the host's own is %s, want %s", got, cert)
	}
	if !slices.Contains(l.Env, "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt") {
		t.Errorf("environment %q", l.Env)
	}

	l = newLoan()
	l.lendCAs(certificates(debian), sums(certificates(debian)))
	if len(l.Files)+len(l.Env) != 0 {
		t.Errorf("a host that trusts what Debian does lends %d files, %q", len(l.Files), l.Env)
	}
}

// Certificates that would not fit into the message that starts a machine are not lent,
// and the machine starts.
func TestAuthoritiesMany(t *testing.T) {
	l := newLoan()
	l.lendCAs([]*pem.Block{{Type: "CERTIFICATE", Bytes: make([]byte, maxCAs)}}, nil)
	if len(l.Files)+len(l.Env) != 0 || len(l.Warnings) != 1 || !strings.Contains(l.Warnings[0], "set SSL_CERT_FILE") {
		t.Errorf("%d files are lent, %q, with the warnings %q", len(l.Files), l.Env, l.Warnings)
	}
}

// Host puts all of it together.
func TestHost(t *testing.T) {
	t.Setenv("http_proxy", "127.0.0.1:1")
	l, err := Host(context.Background(), Options{Registries: []Registry{{Name: "docker.io"}, {Name: "ghcr.io"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []uint16{3128, 5000, 5001} {
		if l.Forwards[port] == nil {
			t.Errorf("nothing at port %d of %v", port, l.Forwards)
		}
	}
	if _, err := Host(context.Background(), Options{AuthFile: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("no file of passwords: no error")
	}
}
