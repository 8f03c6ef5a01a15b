package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"9ci/orchestrator/dial"
)

// A browser is a command that opens a page: its words, of which one may have %s in it
// for the URL. Without, the URL is the last word.
type browser []string

// browsers returns the commands that may open a page on the screen that the user sees,
// in the order in which they are to be tried: those of BROWSER, a list with colons as
// xdg-open(1) reads it, or else the system's own.
func browsers() []browser {
	if os.Getenv("SSH_CONNECTION") != "" { // the screen is at another machine
		return nil
	}
	if list := os.Getenv("BROWSER"); list != "" {
		var all []browser
		for command := range strings.SplitSeq(list, ":") {
			if words := strings.Fields(command); len(words) > 0 {
				all = append(all, words)
			}
		}
		return all
	}
	if runtime.GOOS == "darwin" {
		return []browser{{"open"}}
	}
	if os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "" {
		if path, err := exec.LookPath("xdg-open"); err == nil {
			return []browser{{path}}
		}
	}
	return nil
}

// openIn opens a page in the first of these browsers that can do so. It returns when that
// has ended, which may be at once or when the user closes it. Signals of the terminal do
// not reach it.
func openIn(commands []browser, page string) error {
	var all error
	for _, b := range commands {
		words := make([]string, 0, len(b)+1)
		named := false
		for _, w := range b {
			named = named || strings.Contains(w, "%s")
			words = append(words, strings.ReplaceAll(w, "%s", page))
		}
		if !named {
			words = append(words, page)
		}
		cmd := exec.Command(words[0], words[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		err := cmd.Run()
		if err == nil {
			return nil
		}
		if _, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%s: %w", b[0], err)
		}
		if all == nil {
			all = err
		} else {
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

const (
	// landingTime is for a request of the browser to come, and maxRequest how many
	// bytes it has. maxVisitors is how many clients are heard at once.
	landingTime = 10 * time.Second
	maxRequest  = 16 << 10
	maxVisitors = 16
)

// A landing is where the page sends the browser back to: a port of 127.0.0.1. One
// request is answered, the one that brings the state of this login back, and nothing else
// gets a byte.
type landing struct {
	listener net.Listener
	port     uint16
	state    string
	brought  chan brought    // has room for one
	ctx      context.Context // done when it is closed
	cancel   context.CancelFunc
	wg       sync.WaitGroup // of serve and its connections
}

// brought is what the browser has brought back.
type brought struct {
	code string
	err  error
}

var errRefusedThere = fmt.Errorf("%w: on the page, in the browser", dial.ErrLogin)

func listenLanding() (*landing, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &landing{listener: l, port: uint16(l.Addr().(*net.TCPAddr).Port), state: rand.Text(), brought: make(chan brought, 1)}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.wg.Go(b.serve)
	return b, nil
}

// Close ends the listener and its connections.
func (b *landing) Close() error {
	err := b.listener.Close()
	b.cancel() // a browser may hold connections on which it has asked nothing yet
	b.wg.Wait()
	return err
}

// code waits for what the browser brings. It reports dial.ErrBrowser if there is an error
// in noBrowser before.
func (b *landing) code(ctx context.Context, noBrowser <-chan error) (string, error) {
	for {
		select {
		case got := <-b.brought:
			return got.code, got.err
		case err := <-noBrowser:
			if err != nil {
				return "", fmt.Errorf("%w: %w", dial.ErrBrowser, err)
			}
			noBrowser = nil // it has handed the page to a browser that runs
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

func (b *landing) serve() {
	slots := make(chan struct{}, maxVisitors)
	for {
		nc, err := b.listener.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			nc.Close()
			continue
		}
		b.wg.Go(func() {
			defer func() { <-slots }()
			defer nc.Close()
			defer context.AfterFunc(b.ctx, func() { nc.Close() })()
			nc.SetDeadline(time.Now().Add(landingTime))
			b.answer(nc)
		})
	}
}

// answer answers a request that brings the state back.
func (b *landing) answer(nc net.Conn) {
	r, err := http.ReadRequest(bufio.NewReader(io.LimitReader(nc, maxRequest)))
	if err != nil || r.Method != http.MethodGet || r.URL.Path != "/" || r.Host != fmt.Sprintf("127.0.0.1:%d", b.port) {
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || subtle.ConstantTimeCompare([]byte(query.Get("state")), []byte(b.state)) == 0 {
		return
	}
	got, words := brought{code: query.Get("code")}, "Go back to the terminal: it goes on by itself."
	if query.Get("error") != "" {
		got, words = brought{err: errRefusedThere}, "The key was refused."
	} else if got.code == "" || len(got.code) > 1<<10 {
		return
	}
	fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n"+
		"Content-Security-Policy: default-src 'none'\r\nReferrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"+
		"<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>9ci</title>\n<p>%s</p>\n", words)
	select {
	case b.brought <- got:
	default: // it came again
	}
}
