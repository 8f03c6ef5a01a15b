package dial

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
)

// inLogin runs f with a double and a client of it, and returns what f does.
func inLogin(t *testing.T, f func(d *double, c *Conn, key ssh.Signer)) {
	t.Helper()
	dir := t
	synctest.Test(t, func(t *testing.T) {
		d := newDouble(dir)
		d.t = t
		c, err := Open("ssh://Mux", Options{KnownHosts: d.hosts, Dial: d.dial})
		if err != nil {
			t.Fatal(err)
		}
		f(d, c, newSigner(t))
		c.Close()
		d.cut()
		d.wg.Wait()
	})
}

// A person types the code that the orchestrator says, and what it says is shown as it
// comes, but for its last word.
func TestLoginByCode(t *testing.T) {
	inLogin(t, func(d *double, c *Conn, key ssh.Signer) {
		d.give = func(shown string, k ssh.PublicKey) given {
			return given{out: d.certify(k, as), asks: "open https://ci.example.org/approve\r\ntype BCDF-GHJK\n\n", words: "login: this key is github:1\n"}
		}
		var said []string
		began := time.Now()
		cert, err := c.LogIn(d.t.Context(), key, func(line string) {
			if time.Since(began) > 0 {
				d.t.Errorf("%q is said after %v", line, time.Since(began))
			}
			said = append(said, line)
		}, nil)
		if err != nil || wire.Fingerprint(cert) != wire.Fingerprint(key.PublicKey()) {
			d.t.Errorf("LogIn = %v, %v", cert, err)
		}
		if want := []string{"open https://ci.example.org/approve", "type BCDF-GHJK"}; !slices.Equal(said, want) {
			d.t.Errorf("said %q, want %q", said, want)
		}
		if !slices.Equal(d.tokens, []string{""}) {
			d.t.Errorf("shown: %q", d.tokens)
		}
	})
}

// What the browser brings back is shown on the connection that asked for the page.
func TestLoginByBrowser(t *testing.T) {
	inLogin(t, func(d *double, c *Conn, key ssh.Signer) {
		var asked, opened string
		d.page = func(command string) given {
			asked = command
			return given{out: []byte("https://ci.example.org/approve/AbC\n")}
		}
		cert, err := c.LogIn(d.t.Context(), key, nil, &Browser{
			Port: 34567, State: "XYZ",
			Open: func(url string) error { opened = url; return nil },
			Code: func(context.Context) (string, error) { return "proof", nil },
		})
		if err != nil || cert == nil {
			d.t.Fatalf("LogIn = %v, %v", cert, err)
		}
		if asked != "page 34567 XYZ" || opened != "https://ci.example.org/approve/AbC" || !slices.Equal(d.tokens, []string{"code_proof"}) {
			d.t.Errorf("asked %q, opened %q, shown %q", asked, opened, d.tokens)
		}
	})
}

// Whatever goes wrong, the error says what, and can be told apart.
func TestLoginFails(t *testing.T) {
	refuse := func(words string, status uint32) func(string, ssh.PublicKey) given {
		return func(string, ssh.PublicKey) given { return given{words: words, status: status} }
	}
	page := func(line string) func(string) given {
		return func(string) given { return given{out: []byte(line)} }
	}
	here := func(open, code error) *Browser {
		return &Browser{Port: 1, State: "s", Open: func(string) error { return open }, Code: func(ctx context.Context) (string, error) {
			if code == nil {
				<-ctx.Done()
				return "", ctx.Err()
			}
			return "", code
		}}
	}
	const good = "https://ci.example.org/approve/AbC\n"
	mine := errors.New("mine")
	for _, tt := range []struct {
		name    string
		prepare func(*double)
		browser *Browser
		is      error
		says    string
		takes   time.Duration
	}{
		{"refused", func(d *double) { d.give = refuse("do this\nlogin: the key was refused on the page\n", 1) }, nil, ErrLogin, `the orchestrator says "the key was refused on the page"`, 0},
		{"busy", func(d *double) { d.give = refuse("login: too many keys wait", 75) }, nil, fs.ErrBusy, "too many keys wait", 0},
		{"another status", func(d *double) { d.give = refuse("bash: login: not found", 127) }, nil, nil, "status 127", 0},
		{"nothing", func(d *double) { d.give = refuse("", 0) }, nil, nil, "is no certificate", 0},
		{"another's certificate", func(d *double) {
			d.give = func(string, ssh.PublicKey) given { return given{out: d.certify(newSigner(d.t).PublicKey(), as)} }
		}, nil, nil, "not for SHA256:", 0},
		{"too much", func(d *double) {
			d.give = func(string, ssh.PublicKey) given { return given{out: make([]byte, 1<<20)} }
		}, nil, nil, "more than 16384 bytes", 0},
		{"hung up", func(d *double) { d.give = func(string, ssh.PublicKey) given { return given{hangUp: true} } }, nil, nil, "cut short", 0},
		{"nobody comes", func(d *double) { d.give = func(string, ssh.PublicKey) given { return given{hang: true} } }, nil, errLoginLate, "within 10m0s", LoginTime + answerTime},
		{"down", func(d *double) { d.down = true }, nil, nil, "connection refused", 0},
		{"another host", func(d *double) { d.host = newSigner(d.t) }, nil, ErrHostKeyChanged, "", 0},
		{"no page", func(d *double) {}, here(nil, nil), ErrLogin, "log in with a token first", 0},
		{"no browser", func(d *double) { d.page = page(good) }, here(mine, nil), ErrBrowser, "mine", 0},
		{"nothing brought", func(d *double) { d.page = page(good) }, here(nil, nil), errLoginLate, "", LoginTime + answerTime},
		{"the browser breaks", func(d *double) { d.page = page(good) }, here(nil, mine), mine, "", 0},
		{"a wrong code", func(d *double) {
			d.page, d.give = page(good), refuse("login: this is not what the browser was given", 1)
		}, &Browser{Port: 1, State: "s", Open: func(string) error { return nil }, Code: func(context.Context) (string, error) { return "x", nil }}, ErrLogin, "not what the browser", 0},
		{"a file", func(d *double) { d.page = page("file:///etc/passwd\n") }, here(mine, nil), nil, "which is no URL", 0},
		{"in the clear", func(d *double) { d.page = page("http://ci.example.org/approve/AbC\n") }, here(mine, nil), nil, "only https:// is opened", 0},
		{"an option", func(d *double) { d.page = page("--profile=/tmp/x\n") }, here(mine, nil), nil, "which is no URL", 0},
		{"two lines", func(d *double) { d.page = page("https://a/\nhttps://b/\n") }, here(mine, nil), nil, "which is no URL", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inLogin(t, func(d *double, c *Conn, key ssh.Signer) {
				tt.prepare(d)
				began := time.Now()
				cert, err := c.LogIn(d.t.Context(), key, func(string) {}, tt.browser)
				if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) || strings.HasPrefix(err.Error(), "orchestrator: Mux:22: ") == (tt.is == ErrBrowser) {
					d.t.Errorf("LogIn = %v, %v, want %v and %q", cert, err, tt.is, tt.says)
				}
				if took := time.Since(began); took != tt.takes {
					d.t.Errorf("it took %v, want %v", took, tt.takes)
				}
			})
		})
	}
}

// A page on this machine may be in the clear, and what is no URL is given to no program.
func TestCheckPage(t *testing.T) {
	for page, good := range map[string]bool{
		"https://ci.example.org/approve/AbC": true, "https://ci.example.org:8443/approve?x=y&z": true, "http://127.0.0.1:8080/a": true, "http://localhost/a": true, "http://[::1]:80/a": true,
		"": false, "https://": false, "https:///x": false, "javascript:alert(1)": false, "file://host/x": false, "https://a@b/": false, "http://127.0.0.1.evil.example/": false,
		"https://a/ b": false, "https://a/'x": false, "https://a/`x`": false, "https://a/\x1b]0;": false, "https://a/\u202e": false, "-https://a/": false, "ssh://-oProxyCommand=x/": false,
	} {
		if err := checkPage(page); (err == nil) != good {
			t.Errorf("checkPage(%q) = %v", page, err)
		}
	}
}

// If the user interrupts it, a login ends at once, whoever is waited for.
func TestLoginInterrupted(t *testing.T) {
	why := errors.New("interrupted")
	for _, browser := range []*Browser{nil, {Port: 1, State: "s", Open: func(string) error { return nil }, Code: func(ctx context.Context) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}}} {
		inLogin(t, func(d *double, c *Conn, key ssh.Signer) {
			d.give = func(string, ssh.PublicKey) given { return given{hang: true} }
			d.page = func(string) given { return given{out: []byte("https://a/b\n")} }
			ctx, cancel := context.WithCancelCause(d.t.Context())
			time.AfterFunc(time.Minute, func() { cancel(why) })
			began := time.Now()
			if _, err := c.LogIn(ctx, key, nil, browser); !errors.Is(err, why) || time.Since(began) != time.Minute {
				d.t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
	}
}

// A command of the orchestrator's ends with its output or with words, and one that does not
// answer does not hold the client.
func TestExec(t *testing.T) {
	for name, tt := range map[string]struct {
		given
		out, says string
		takes     time.Duration
	}{
		"output":   {given{out: []byte("key=x\n")}, "key=x\n", "", 0},
		"refused":  {given{out: []byte("x"), words: "logout: not\nmore\n", status: 1}, "", `the orchestrator says "logout: not"`, 0},
		"too much": {given{out: make([]byte, 2*maxOut)}, "", "more than 1048576 bytes", 0},
		"silent":   {given{hang: true}, "", "within 30s", execTimeout},
		"lost":     {given{hangUp: true}, "", "whoami is cut short", 0},
	} {
		t.Run(name, func(t *testing.T) {
			inLogin(t, func(d *double, c *Conn, key ssh.Signer) {
				d.keys, c.opts.Signers = [][]byte{key.PublicKey().Marshal()}, []ssh.Signer{key}
				d.exec = func(command string) given {
					if command != "whoami" {
						d.t.Errorf("asked %q", command)
					}
					return tt.given
				}
				began := time.Now()
				out, err := c.Exec(d.t.Context(), CommandWhoami)
				if out != tt.out || (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) || time.Since(began) != tt.takes {
					d.t.Errorf("Exec = %.80q, %v after %v, want %q, %q", out, err, time.Since(began), tt.out, tt.says)
				}
				ce, ok := errors.AsType[*CommandError](err)
				if ok != (tt.status != 0) || ok && ce.Status != int(tt.status) {
					d.t.Errorf("its error is %+v", ce)
				}
			})
		})
	}
}

// An orchestrator that does not know the question is named as such.
func TestToldOlder(t *testing.T) {
	inLogin(t, func(d *double, c *Conn, key ssh.Signer) {
		d.keys, c.opts.Signers = [][]byte{key.PublicKey().Marshal()}, []ssh.Signer{key}
		if _, err := c.Told(d.t.Context(), "github.com/alice/hello", strings.Repeat("3f", 20)); err == nil || !strings.Contains(err.Error(), "it is older than this 9ci") {
			d.t.Errorf("Told: %v", err)
		}
	})
}
