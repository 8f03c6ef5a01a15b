package lend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// idleTime is how long a connection of this host to a mirror or a registry is kept
// for the next request.
const idleTime = 30 * time.Second

// source returns what answers for a source of packages, whose own URI is the
// directory / of it.
func (a APT) source(uri string) (http.Handler, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, errors.New("its URI cannot be parsed") // which the error would repeat
	}
	switch u.Scheme {
	case "file", "copy":
		return directory(u.Path + u.Opaque)
	case "http", "https":
		return a.mirror(u), nil
	}
	return nil, fmt.Errorf("%s: only http, https, file and copy are", u.Scheme)
}

// directory answers with what is in a directory of this host, and nothing that a link
// has elsewhere.
func directory(name string) (http.Handler, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	root.Close() // a Loan has no end: each request opens it
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		root, err := os.OpenRoot(name)
		if err != nil {
			// The error has a path of the host.
			http.Error(w, "9ci: the host's directory of packages is gone", http.StatusBadGateway)
			return
		}
		defer root.Close()
		http.FileServerFS(root.FS()).ServeHTTP(w, r)
	}), nil
}

// mirror answers with what is below u. Redirects are for the machine to follow,
// by its own ways.
func (a APT) mirror(u *url.URL) http.Handler {
	user := u.User
	base := *u
	base.User = nil
	return &httputil.ReverseProxy{
		Transport: &http.Transport{Proxy: func(r *http.Request) (*url.URL, error) { return a.proxy(r.URL) }, IdleConnTimeout: idleTime},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&base)
			bare(r.Out.Header)
			if user != nil {
				password, _ := user.Password()
				r.Out.SetBasicAuth(user.Username(), password)
			}
		},
		ModifyResponse: func(r *http.Response) error {
			to, err := r.Location()
			if err != nil {
				return nil // none
			}
			r.Header.Set("Location", to.String())
			if below, ok := strings.CutPrefix(to.Path, strings.TrimSuffix(base.Path, "/")+"/"); ok && to.Scheme == base.Scheme && to.Host == base.Host {
				// The request's own path has the source's number.
				number := r.Request.Context().Value(numberKey{}).(string)
				r.Header.Set("Location", "/"+number+"/"+(&url.URL{Path: below}).EscapedPath())
			}
			return nil
		},
		ErrorHandler: unreachable("mirror " + base.Host),
		ErrorLog:     nobody,
	}
}

// nobody is to read what a machine does with its connections.
var nobody = log.New(io.Discard, "", 0)

// bare takes out of a header what says who asks.
func bare(h http.Header) {
	for _, name := range []string{"Authorization", "Cookie", "Proxy-Authorization", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		h.Del(name)
	}
}

// unreachable answers a request that this host could not pass on. The error names no
// password: url.Error leaves it out.
func unreachable(what string) func(http.ResponseWriter, *http.Request, error) {
	return func(w http.ResponseWriter, r *http.Request, err error) {
		http.Error(w, fmt.Sprintf("9ci: the host does not reach the %s: %v", what, err), http.StatusBadGateway)
	}
}

// numberKey is the context key of a source's number.
type numberKey struct{}

// serveSource answers a request for /N/PATH by the source N.
func serveSource(sources []http.Handler, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "9ci: packages are only read", http.StatusMethodNotAllowed)
		return
	}
	number, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n >= len(sources) || strconv.Itoa(n) != number || !cleanPath(r.URL) {
		http.NotFound(w, r)
		return
	}
	r = r.WithContext(context.WithValue(r.Context(), numberKey{}, number))
	http.StripPrefix("/"+number, sources[n]).ServeHTTP(w, r)
}
