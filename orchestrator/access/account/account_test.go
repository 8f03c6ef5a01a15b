package account

import (
	"bytes"
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"9ci/orchestrator/access"
)

func open(t testing.TB) (*Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

// An account comes back from its file as it was, whatever people call themselves, and
// nobody else can read the file.
func TestAccountFile(t *testing.T) {
	s, dir := open(t)
	now := time.Now().UTC().Truncate(time.Second)
	want := &Account{
		Principal: "idp.example.org:a/b%2Fc", Name: "Al'ice <script>alert(1)</script> = \"x\"", Login: "alice", Forge: "github.com",
		Made: now, Last: now, Namespaces: []access.Pattern{"github.com/alice/...", "gitlab.com/a/b"},
		Handle: bytes.Repeat([]byte{7}, handleSize), ForgeToken: []byte{0, 1, 2, '\n'},
		Passkeys: []Passkey{{ID: []byte{9, 0xff}, Name: "my 'phone'", Public: []byte("cose"), Count: 1<<32 - 1, BackupEligible: true, Transports: []string{"internal", "hybrid"}, Made: now}},
		Keys:     []Key{{Fingerprint: "SHA256:abc", From: "192.0.2.1", Made: now}},
		Sessions: []Session{{ID: "00", By: "github.com", From: "::1", Agent: "Mozilla/5.0 (X11; Linux)", Made: now, Expires: now.Add(time.Hour)}},
	}
	if err := s.locked(func() error { return s.write(want) }); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(want.Principal)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Get = %+v, %v\nwant %+v", got, err, want)
	}
	path := filepath.Join(dir, "accounts", "idp.example.org:a%2Fb%252Fc")
	if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o600 {
		t.Errorf("%s: %v, %v, want mode 0600", path, fi, err)
	}
	if fi, err := os.Stat(filepath.Dir(path)); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v, want mode 0700", fi, err)
	}
}

// What is not an account's file as we write it is no account.
func TestAccountFileRefused(t *testing.T) {
	s, dir := open(t)
	if err := s.Enter(Person{Principal: "github:1", Login: "a"}, "github.com", nil); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "accounts", "github:1")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "nonsense\n",
		string(good) + "admin=true\n",
		string(good) + "namespace=github.com/a/b but=not\n",
		string(good) + "namespace=github.com//b\n",
		string(good) + "session=1\n",
		string(good) + "principal=github:1 name='' login='' forge='' made=- last=-\n",
		strings.Replace(string(good), "github:1", "github:2", 1),
		strings.Replace(string(good), "github:1", "github:1,github:2", 1),
	} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if a, err := s.Get("github:1"); err == nil {
			t.Errorf("Get of %q = %+v", bad, a)
		}
	}
	for _, principal := range []string{"", "github", "../github:1", "a:b,c:d", "a:\n", ".a:b", "a:" + strings.Repeat("/", 120), "a:" + strings.Repeat("x", 400)} {
		if _, err := s.Get(principal); err == nil || errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("Get(%q): %v", principal, err)
		}
	}
}

// A forge's word makes an account once. What else it has stays when it comes again under
// another login.
func TestEnter(t *testing.T) {
	s, _ := open(t)
	enter := func(login string) *Account {
		t.Helper()
		if err := s.Enter(Person{"github:1", login, "A\x1b[2J\u202e\n" + strings.Repeat("é", 300)}, "github.com", []byte(login)); err != nil {
			t.Fatal(err)
		}
		a, err := s.Get("github:1")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	enter("alice")
	if err := s.Change("github:1", func(a *Account) error { a.Approve("SHA256:x", "::1"); a.NewHandle(); return nil }); err != nil {
		t.Fatal(err)
	}
	a := enter("bob")
	if a.Login != "bob" || string(a.ForgeToken) != "bob" || len(a.Keys) != 1 || !strings.HasPrefix(a.Name, "A[2Jé") || len(a.Name) > 200 || strings.ContainsRune(a.Name, '\ufffd') {
		t.Errorf("the account is %+v", a)
	}
	if b, err := s.ByHandle(a.Handle); err != nil || b.Principal != "github:1" {
		t.Errorf("ByHandle = %+v, %v", b, err)
	}
	other, err := Open(string(s.dir)) // which has not seen it
	if err != nil {
		t.Fatal(err)
	}
	if b, err := other.ByHandle(a.Handle); err != nil || b.Principal != "github:1" {
		t.Errorf("ByHandle of another store = %+v, %v", b, err)
	}
	for _, h := range [][]byte{nil, {}, []byte("x"), bytes.Repeat([]byte{1}, handleSize)} {
		if b, err := other.ByHandle(h); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("ByHandle(%x) = %+v, %v", h, b, err)
		}
	}
	if err := s.Change("github:2", func(*Account) error { return nil }); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("Change of no account: %v", err)
	}
}

// A session is what a browser shows, for twelve hours, until it is ended or its line is
// deleted. No other text is one, and the oldest makes way.
func TestSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := open(t)
		if err := s.Enter(Person{Principal: "github:1"}, "github.com", []byte("token")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.NewSession("github:2", "x", "", ""); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("NewSession of no account: %v", err)
		}
		session := func() string {
			t.Helper()
			secret, err := s.NewSession("github:1", "github.com", "192.0.2.1", "browser\r\nX: y")
			if err != nil {
				t.Fatal(err)
			}
			return secret
		}
		live := func(secret string, want bool) {
			t.Helper()
			a, o, err := s.Session(secret)
			if want && (err != nil || a.Principal != "github:1" || o.By != "github.com") || !want && !errors.Is(err, iofs.ErrNotExist) {
				t.Errorf("Session = %+v, %+v, %v, want one: %v", a, o, err, want)
			}
		}
		first := session()
		live(first, true)
		name, random, _ := strings.Cut(first, ".")
		_, o, _ := s.Session(first)
		for _, bad := range []string{"", ".", name, name + ".", "." + random, name + "." + random + "A", name + "=." + random, random, o.ID, name + "." + o.ID,
			"Z2l0aHViOjI." + random, "Li4vYTpi." + random, strings.Repeat("A", 4096)} {
			live(bad, false)
		}
		if text, err := os.ReadFile(filepath.Join(dir, "accounts", "github:1")); err != nil || bytes.Contains(text, []byte(random)) {
			t.Errorf("the file has what the browser shows: %s, %v", text, err)
		}
		time.Sleep(SessionLife - time.Second)
		live(first, true)
		second := session()
		time.Sleep(time.Second)
		live(first, false)
		live(second, true)
		for range maxSessions {
			session()
		}
		live(second, false)
		third := session()
		if token, err := s.End("github:1"); err != nil || string(token) != "token" {
			t.Errorf("End = %q, %v", token, err)
		}
		live(third, false)
		if a, err := s.Get("github:1"); err != nil || a.ForgeToken != nil || a.Live(time.Now()) {
			t.Errorf("after End: %+v, %v", a, err)
		}
		if token, err := s.End("github:3"); err != nil || token != nil {
			t.Errorf("End of no account = %q, %v", token, err)
		}
	})
}

// Those that change an account at once lose nothing of each other's.
func TestChangeAtOnce(t *testing.T) {
	s, dir := open(t)
	if err := s.Enter(Person{Principal: "github:1"}, "f", nil); err != nil {
		t.Fatal(err)
	}
	other, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 20 {
		st := []*Store{s, other}[n%2]
		wg.Go(func() {
			if err := st.Change("github:1", func(a *Account) error { a.Approve(strings.Repeat("x", n+1), ""); return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if a, err := s.Get("github:1"); err != nil || len(a.Keys) != 20 {
		t.Errorf("%d keys, %v, want 20", len(a.Keys), err)
	}
}

// An invitation makes one account, once, in its time.
func TestInvite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := open(t)
		all, err := access.ParsePatterns([]string{"github.com/alice/...", "gitlab.com/a/b"})
		if err != nil {
			t.Fatal(err)
		}
		invite := func(i Invite) string {
			t.Helper()
			i.Expires = time.Now().Add(time.Hour)
			code, err := NewInvite(dir, i)
			if err != nil {
				t.Fatal(err)
			}
			return code
		}
		code := invite(Invite{Name: "O'Brien", Namespaces: all})
		if text, err := os.ReadFile(filepath.Join(dir, "invites")); err != nil || bytes.Contains(text, []byte(code)) {
			t.Errorf("the file has the code: %s, %v", text, err)
		}
		if i, err := s.Invite(code); err != nil || i.Name != "O'Brien" || !reflect.DeepEqual(i.Namespaces, all) {
			t.Errorf("Invite = %+v, %v", i, err)
		}
		none := func(code string) {
			t.Helper()
			if i, err := s.Invite(code); !errors.Is(err, ErrNoInvite) {
				t.Errorf("Invite(%q) = %+v, %v", code, i, err)
			}
			if err := s.Accept(code, "passkey:9", func(*Invite, *Account) error { return nil }); !errors.Is(err, ErrNoInvite) {
				t.Errorf("Accept(%q): %v", code, err)
			}
		}
		for _, bad := range []string{"", code[1:], code + "A", code[:len(code)-1] + "=", "expires", strings.Repeat("A", 43)} {
			none(bad)
		}
		boom := errors.New("boom")
		if err := s.Accept(code, "passkey:1", func(*Invite, *Account) error { return boom }); err != boom {
			t.Errorf("Accept: %v", err)
		}
		accept := func(i *Invite, a *Account) error { a.NewHandle(); return nil }
		if err := s.Accept(code, "passkey:1", accept); err != nil {
			t.Fatal(err)
		}
		if a, err := s.Get("passkey:1"); err != nil || a.Name != "O'Brien" || !reflect.DeepEqual(a.Namespaces, all) {
			t.Errorf("the account is %+v, %v", a, err)
		}
		none(code)
		if err := s.Accept(invite(Invite{}), "passkey:1", accept); !errors.Is(err, iofs.ErrExist) {
			t.Errorf("an invitation for a new account gives one that is there: %v", err)
		}

		again := invite(Invite{Account: "passkey:1"})
		if err := s.Accept(again, "passkey:2", accept); !errors.Is(err, ErrNoInvite) {
			t.Errorf("an invitation of another account: %v", err)
		}
		if err := s.Accept(again, "passkey:1", accept); err != nil {
			t.Error(err)
		}
		late := invite(Invite{})
		time.Sleep(time.Hour)
		none(late)

		for _, bad := range []Invite{
			{Expires: time.Now()},
			{Expires: time.Now().Add(time.Hour), Account: "passkey:7"},
			{Expires: time.Now().Add(time.Hour), Account: "passkey:1", Namespaces: all},
			{Expires: time.Now().Add(time.Hour), Name: "a\nb"},
		} {
			if code, err := NewInvite(dir, bad); err == nil {
				t.Errorf("NewInvite(%+v) = %q", bad, code)
			}
		}
	})
}

// Of many that take one invitation at once, one gets an account.
func TestInviteRace(t *testing.T) {
	s, dir := open(t)
	code, err := NewInvite(dir, Invite{Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := s.Accept(code, NewPrincipal(), func(*Invite, *Account) error { return nil }); err != nil && !errors.Is(err, ErrNoInvite) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if all, err := os.ReadDir(filepath.Join(dir, "accounts")); err != nil || len(all) != 1 {
		t.Errorf("%d accounts, %v, want 1", len(all), err)
	}
}

func TestURL(t *testing.T) {
	dir := t.TempDir()
	if u, err := URL(dir); u != "" || err != nil {
		t.Errorf("URL = %q, %v", u, err)
	}
	if err := SetURL(dir, "https://ci.example.org"); err != nil {
		t.Fatal(err)
	}
	if u, err := URL(dir); u != "https://ci.example.org" || err != nil {
		t.Errorf("URL = %q, %v", u, err)
	}
	if _, err := URL(filepath.Join(dir, "none")); err == nil {
		t.Error("URL of no directory: no error")
	}
}

func FuzzParse(f *testing.F) {
	a := Account{Principal: "github:1", Name: "x", Handle: []byte{1}, ForgeToken: []byte{2}, Namespaces: []access.Pattern{"a/b/c"},
		Passkeys: []Passkey{{ID: []byte{1}, Transports: []string{"usb"}}}, Keys: []Key{{}}, Sessions: []Session{{}}}
	f.Add(a.text())
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := parse(text)
		if err != nil {
			return
		}
		b, err := parse(a.text())
		if err != nil {
			t.Fatalf("parse of %q: %v", a.text(), err)
		}
		if !bytes.Equal(a.text(), b.text()) {
			t.Errorf("%q became %q", a.text(), b.text())
		}
	})
}

// The token of a forge is replaced by the next one of the same, and by no other: whoever
// has logged out, or in, meanwhile stays so.
func TestToken(t *testing.T) {
	s, _ := open(t)
	if token, err := s.Token("github:1"); token != nil || err != nil {
		t.Errorf("Token of no account: %q, %v", token, err)
	}
	if err := s.Enter(Person{Principal: "github:1"}, "github.com", []byte("a")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		principal, old, sealed string
		ok                     bool
		now                    string
	}{
		{"github:1", "b", "c", false, "a"},
		{"github:2", "a", "c", false, ""},
		{"github:2", "", "c", false, ""},
		{"github:1", "a", "b", true, "b"},
		{"github:1", "a", "c", false, "b"},
		{"github:1", "b", "", true, ""},
		{"github:1", "b", "c", false, ""},
		{"github:1", "", "c", false, ""},
	} {
		ok, err := s.SetToken(tt.principal, []byte(tt.old), []byte(tt.sealed))
		now, err2 := s.Token(tt.principal)
		if ok != tt.ok || err != nil || err2 != nil || string(now) != tt.now {
			t.Errorf("SetToken(%s, %q, %q) = %v, %v, and then it is %q, %v", tt.principal, tt.old, tt.sealed, ok, err, now, err2)
		}
	}
}
