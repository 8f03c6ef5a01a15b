package dial

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
)

// A certFile is a CertificateFile in memory.
type certFile struct {
	mu    sync.Mutex // guards what follows
	cert  *ssh.Certificate
	full  bool // nothing can be written
	told  []time.Time
	wrote int
}

func (f *certFile) Read() (*ssh.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cert, nil
}

// put has the file be another's.
func (f *certFile) put(cert *ssh.Certificate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cert = cert
}

func (f *certFile) Write(next *ssh.Certificate) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full {
		return errors.New("no space left")
	}
	f.cert = next
	f.wrote++
	return nil
}

func (f *certFile) Refused(end time.Time, _ error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, end)
}

// inStay runs f with a double and n executors that export what beats, by one certificate
// of a person, of twelve hours.
func inStay(t *testing.T, n int, f func(d *double, file *certFile, cert func() *ssh.Certificate)) {
	t.Helper()
	dir := t
	synctest.Test(t, func(t *testing.T) {
		d := newDouble(dir)
		d.t, d.life = t, 12*time.Hour
		key := newSigner(t)
		cert := func() *ssh.Certificate {
			d.mu.Lock()
			defer d.mu.Unlock()
			c, err := wire.ParseCertificate(d.certify(key.PublicKey(), as), key.PublicKey())
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		d.person = func(*ssh.Certificate) ([]byte, bool) {
			c, err := wire.ParseCertificate(d.certify(key.PublicKey(), as), key.PublicKey())
			if err != nil {
				t.Error(err)
			}
			return c.Marshal(), true
		}
		file := &certFile{cert: cert()}
		s := NewStay(file)
		login := func() ([]ssh.Signer, error) {
			cert, _ := file.Read()
			if cert == nil {
				return []ssh.Signer{key}, nil
			}
			signer, err := ssh.NewCertSigner(cert, key)
			return []ssh.Signer{signer, key}, err
		}
		var log syncBuffer
		var conns []*Conn
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{}, n)
		for i := range n {
			o := d.options(NewPass(key, Token{}), &log)
			o.Pass, o.Login, o.Stay = nil, login, s
			c, err := Open("ssh://mux", o)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
			go func() {
				c.Export(ctx, Announce{Name: fmt.Sprintf("box%d", i), Namespaces: []string{"example.org/alice/hello"}, Waits: true, Lost: func(err error) { fmt.Fprintln(&log, err) }}, beat)
				done <- struct{}{}
			}()
		}
		synctest.Wait()
		f(d, file, cert)
		cancel()
		for _, c := range conns {
			<-done
			c.Close()
		}
		d.cut()
		d.wg.Wait()
		if t.Failed() {
			t.Logf("log:\n%s", log.String())
		}
	})
}

// The daemon of a person stays for a day: its connections take over one certificate each
// time, which stands in the file, and nothing that is served ends.
func TestStay(t *testing.T) {
	inStay(t, 2, func(d *double, f *certFile, _ func() *ssh.Certificate) {
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		got := d.tally()
		if got.enters != 2 || got.lost != 0 || got.ends != 0 || got.logins != 0 || len(f.told) > 0 {
			d.t.Errorf("%+v, told %v, want 2 connections and no more", got, f.told)
		}
		if len(d.asks) != 3 || f.wrote != 3 || got.renews != 3 {
			d.t.Errorf("%d were made, %d written and %d taken over: want 3, and each taken over by the other connection", len(d.asks), f.wrote, got.renews)
		}
	})
}

// When the orchestrator renews no more, the user is told once, hours before the end. A new
// login is taken over without a gap.
func TestStayAgain(t *testing.T) {
	inStay(t, 2, func(d *double, f *certFile, cert func() *ssh.Certificate) {
		d.set(func() {
			d.person = func(*ssh.Certificate) ([]byte, bool) { return []byte("renewal: log in again"), false }
		})
		time.Sleep(9 * time.Hour)
		synctest.Wait()
		if len(f.told) != 1 || time.Until(f.told[0]) < 2*time.Hour || len(d.asks) > 4 {
			d.t.Errorf("told %v, %d asked", f.told, len(d.asks))
		}
		f.put(cert())
		time.Sleep(2 * lookEvery)
		synctest.Wait()
		if got := d.tally(); got.renews != 2 || got.enters != 2 || got.ends != 0 {
			d.t.Errorf("after the next login: %+v", got)
		}
		time.Sleep(12*time.Hour + time.Minute)
		synctest.Wait()
		if got := d.tally(); got.lost != 2 || len(f.told) != 2 {
			d.t.Errorf("after its end: %+v, told %v", got, f.told)
		}
	})
}

// A file of another login, or without any, is left alone; one that cannot be written
// renews the connection all the same.
func TestStayLeaves(t *testing.T) {
	inStay(t, 1, func(d *double, f *certFile, _ func() *ssh.Certificate) {
		f.put(nil)
		time.Sleep(11 * time.Hour)
		synctest.Wait()
		if got := d.tally(); got.lost != 0 || len(d.asks) > 0 || f.cert != nil {
			d.t.Errorf("logged out: %+v, asked at %v, file %v", got, d.asks, f.cert)
		}
	})
	inStay(t, 1, func(d *double, f *certFile, cert func() *ssh.Certificate) {
		other := *f.cert
		other.ValidPrincipals, other.ValidBefore = []string{"github:2"}, other.ValidBefore+3600
		f.put(&other)
		time.Sleep(11 * time.Hour)
		synctest.Wait()
		if got := d.tally(); got.lost != 0 || len(d.asks) > 0 || got.renews > 0 || f.cert != &other {
			d.t.Errorf("somebody else: %+v, asked at %v", got, d.asks)
		}
	})
	inStay(t, 1, func(d *double, f *certFile, _ func() *ssh.Certificate) {
		f.mu.Lock()
		f.full = true
		f.mu.Unlock()
		time.Sleep(30 * time.Hour)
		synctest.Wait()
		if got := d.tally(); got.lost != 0 || got.enters != 1 || len(d.asks) < 3 {
			d.t.Errorf("a full disk: %+v, asked at %v", got, d.asks)
		}
	})
}

// An orchestrator that is busy, lies or knows nothing of this is asked with a pause.
func TestStayRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		answer    string
		ok        bool
		from, til int // questions
	}{
		"busy":          {"many at once: " + fs.ErrBusy.Error(), false, 50, 1000},
		"an older one":  {"renewal: ssh: short read", false, 6, 9},
		"nonsense":      {"nonsense", true, 50, 1000},
		"another login": {"", true, 50, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			inStay(t, 1, func(d *double, f *certFile, cert func() *ssh.Certificate) {
				answer := []byte(tt.answer)
				if name == "another login" {
					other := *cert()
					other.ValidPrincipals = []string{"github:2"}
					answer = other.Marshal()
				}
				d.set(func() { d.person = func(*ssh.Certificate) ([]byte, bool) { return answer, tt.ok } })
				was := f.cert
				time.Sleep(11 * time.Hour)
				synctest.Wait()
				if n := len(d.asks); n < tt.from || n > tt.til || f.cert != was || (len(f.told) == 1) != (name == "an older one") {
					d.t.Errorf("%d questions, want %d to %d; told %v, written %d", n, tt.from, tt.til, f.told, f.wrote)
				}
			})
		})
	}
}
