package orchestrator

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/internal/wire"
	"9ci/orchestrator/report"
)

// reports is what a test says that forges were told.
type reports func(namespace, commit string) (report.Answer, error)

func (r reports) Told(namespace, commit string) (report.Answer, error) { return r(namespace, commit) }

// Clients of ours ask what a forge was told, by SSH and by TLS alike. A namespace that the
// client may not read is not found, as one that is not there, whatever is asked of it.
func TestToldChannel(t *testing.T) {
	const busy, lost, huge = "1111111111111111111111111111111111111111", "2222222222222222222222222222222222222222", "3333333333333333333333333333333333333333"
	m := startTLS(t, `namespace="`+hello+`",read ci:reader`+"\n")
	told := report.Answer{Page: "https://ci.example.org/rev/" + testCommit, Forge: "github.com"}
	m.s.Tells(reports(func(namespace, commit string) (report.Answer, error) {
		switch {
		case commit == busy:
			return report.Answer{}, fmt.Errorf("not read yet: %w", fs.ErrBusy)
		case commit == lost:
			return report.Answer{}, errors.New("the file is lost")
		case commit == huge:
			return report.Answer{Page: strings.Repeat("x", wire.MaxAnswer)}, nil
		case namespace != hello || commit != testCommit:
			t.Errorf("%s of %s is asked for", commit, namespace)
		}
		return told, nil
	}))
	reader, _ := m.key(`namespace="`+hello+`",read`, "alice@laptop")
	other, _ := m.key("", "bob@box")
	m.exportTo(other, "b", "github.com/bob/secret")
	for scheme, c := range map[string]*dial.Conn{"ssh": m.dial(reader), "tls": m.open(m.ca.issue(nil, "ci:reader"), newSigner(t))} {
		for _, test := range []struct {
			namespace, commit string
			answer            string
			is                error
			says              string
		}{
			{hello, testCommit, told.Text(), nil, ""},
			{hello, busy, "", fs.ErrBusy, "not read yet"},
			{hello, testCommit[:12], "", nil, `is not the whole name of a commit`},
			{hello, "HEAD\x1b[2J", "", nil, `is not the whole name of a commit`},
			{hello, strings.Repeat("x", 100<<10), "", nil, `is not the whole name of a commit`},
			{hello, lost, "", nil, `it says "the file is lost"`},
			{hello, huge, "", nil, "its answer has over"},
			{"github.com/bob/secret", testCommit, "", iofs.ErrNotExist, ""},
			{"github.com/bob/secret", "HEAD", "", iofs.ErrNotExist, ""},
			{"github.com/bob/none", testCommit, "", iofs.ErrNotExist, ""},
			{"github.com/bob/none", "HEAD", "", iofs.ErrNotExist, ""},
			{"../x", testCommit, "", iofs.ErrNotExist, ""},
			{"", testCommit, "", iofs.ErrNotExist, ""},
		} {
			answer, err := c.Told(t.Context(), test.namespace, test.commit)
			if answer != test.answer || (err == nil) != (test.answer != "") || test.is != nil && !errors.Is(err, test.is) ||
				err != nil && (!strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\x1b")) {
				t.Errorf("%s: Told(%.80q, %.80q) = %.80q, %v, want %q, %v %q", scheme, test.namespace, test.commit, answer, err, test.answer, test.is, test.says)
			}
		}
		// What is absent and what is forbidden are told by the same words.
		_, absent := c.Told(t.Context(), "github.com/bob/none", testCommit)
		if _, forbidden := c.Told(t.Context(), "github.com/bob/secret", testCommit); fmt.Sprint(forbidden) != fmt.Sprint(absent) {
			t.Errorf("%s: forbidden is %v, absent %v", scheme, forbidden, absent)
		}
		// It counts against the channels of its connection only while it is answered.
		for range 3 * wire.MaxChannels {
			if _, err := c.Told(t.Context(), hello, testCommit); err != nil {
				t.Fatalf("%s: again: %v", scheme, err)
			}
		}
	}
}

// An orchestrator that tells no forge says so.
func TestToldNothing(t *testing.T) {
	m := startMux(t)
	k, _ := m.key("", "")
	if answer, err := m.dial(k).Told(t.Context(), hello, testCommit); err != nil || answer != "page -\nforge -\n" {
		t.Errorf("Told = %q, %v", answer, err)
	}
}

// While an answer is looked for, the connection answers all else.
func TestToldSlowly(t *testing.T) {
	m := startTLS(t, `namespace="`+hello+`" ci:box`+"\n")
	asked, answer := make(chan struct{}), make(chan struct{})
	m.s.Tells(reports(func(string, string) (report.Answer, error) {
		asked <- struct{}{}
		<-answer
		return report.Answer{}, nil
	}))
	key, _ := m.key("", "alice@laptop")
	for scheme, connect := range map[string]func() *dial.Conn{
		"ssh": func() *dial.Conn { return m.dial(key) },
		"tls": func() *dial.Conn { return m.open(m.ca.issue(nil, "ci:box"), newSigner(t)) },
	} {
		c := connect()
		ended := make(chan error)
		go func() {
			_, err := c.Told(t.Context(), hello, testCommit)
			ended <- err
		}()
		<-asked
		_, release, err := c.Find(t.Context(), hello, []byte("commit="+testCommit), 0)
		if err != nil {
			t.Errorf("%s: find meanwhile: %v", scheme, err)
		} else {
			release()
		}
		m.export(c, dial.Announce{Name: scheme, Namespaces: []string{hello}}, newTestTree().root()) // a global request
		answer <- struct{}{}
		if err := <-ended; err != nil {
			t.Errorf("%s: Told: %v", scheme, err)
		}
		// A client that waits no more is not held.
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, err := c.Told(ctx, hello, testCommit)
			ended <- err
		}()
		<-asked
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: Told, cancelled: %v", scheme, err)
		}
		answer <- struct{}{}
	}
}

// A channel that carries no question is refused.
func TestToldMalformed(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "")
		l, _ := m.login(k)
		for _, payload := range []string{"", "\x00\x00\x00\x03abc", "\xff\xff\xff\xff"} {
			_, _, err := l.ssh.OpenChannel(wire.ChannelTold, []byte(payload))
			if refused, ok := errors.AsType[*ssh.OpenChannelError](err); !ok || refused.Reason != ssh.ConnectionFailed {
				t.Errorf("OpenChannel with %q: %v", payload, err)
			}
		}
	})
}
