package lend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/singleflight"

	"9ci/vm/network"
)

// A Registry is one that machines pull from through the host: images that are named
// after Name come from URL, its mirror or itself.
type Registry struct {
	Name string   // as it begins the names of images: docker.io, or HOST:PORT
	URL  *url.URL // http or https, with the path that repositories are below, if any; nil: the registry itself
}

// check completes r.
func (r Registry) check() (Registry, error) {
	if _, err := name.NewRegistry(r.Name, name.StrictValidation); err != nil || !registryName.MatchString(r.Name) {
		return r, fmt.Errorf("%.100q is not the name of a registry: want HOST or HOST:PORT", r.Name)
	}
	if r.URL == nil {
		r.URL = &url.URL{Scheme: "https", Host: r.Name}
		if r.Name == dockerHub {
			r.URL.Host = dockerHost
		}
	}
	return r, nil
}

// registryName is what may stand between quotes in a configuration of podman's.
var registryName = regexp.MustCompile(`^[A-Za-z0-9.\[\]:-]+$`)

// Docker Hub's images are named after one host and come from another, and its
// passwords have a key of their own.
const (
	dockerHub  = "docker.io"
	dockerHost = "registry-1.docker.io"
	dockerKey  = "https://index.docker.io/v1/"
)

const (
	maxAuthFile  = 1 << 20 // bytes
	maxClients   = 256     // repositories of a registry whose tokens are kept
	maxRedirects = 5
	pingTime     = 30 * time.Second // for a registry to say what it wants
)

// registries lends the registries of o, and those that o's AuthFile has passwords
// for.
func (l *Loan) registries(o Options) error {
	auth := &configfile.ConfigFile{}
	if o.AuthFile != "" {
		var err error
		if auth, err = readAuthFile(o.AuthFile); err != nil {
			return fmt.Errorf("credentials for registries: %w", err)
		}
	}
	var all []Registry
	for _, r := range o.Registries {
		r, err := r.check()
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	for _, key := range authKeys(auth) {
		if slices.ContainsFunc(all, func(r Registry) bool { return r.Name == key }) {
			continue
		}
		r, err := Registry{Name: key}.check()
		if err != nil {
			l.warn("a key of %s is not lent: %v", o.AuthFile, err)
			continue
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil
	}
	var conf strings.Builder
	for _, r := range all {
		at := l.forward(registryPort, newRegistry(r, auth))
		// The name of the mirror is a port of the gateway: nobody else
		// hears what passes there.
		fmt.Fprintf(&conf, "[[registry]]\nprefix = %q\nlocation = %[1]q\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n\n", r.Name, at)
	}
	l.file("/etc/containers/registries.conf.d/9ci.conf", conf.String())
	return nil
}

// readAuthFile reads the file of containers-auth.json(5), which is also Docker's
// config.json.
func readAuthFile(file string) (*configfile.ConfigFile, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAuthFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxAuthFile {
		return nil, fmt.Errorf("%s: over %d bytes: want a file as podman login --authfile writes it", file, maxAuthFile)
	}
	c, err := dockerconfig.LoadFromReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%s: not a file as podman login --authfile writes it: %w", file, err)
	}
	return c, nil
}

// authKeys returns the names of the registries that a file of passwords has.
func authKeys(c *configfile.ConfigFile) []string {
	seen := make(map[string]bool)
	for key := range c.AuthConfigs {
		seen[registryOf(key)] = true
	}
	for key := range c.CredentialHelpers {
		seen[registryOf(key)] = true
	}
	var names []string
	for n := range seen {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// registryOf returns the registry of a key, which may be a URL or have a path.
func registryOf(key string) string {
	if _, rest, ok := strings.Cut(key, "://"); ok {
		key = rest
	}
	key, _, _ = strings.Cut(key, "/")
	if key == "index.docker.io" || key == dockerHost {
		return dockerHub
	}
	return key
}

// credentials returns what logs in at a registry for a repository: that of the key
// that says most of it (containers-auth.json(5)), with helpers asked.
func credentials(c *configfile.ConfigFile, host, repository string) (authn.Authenticator, error) {
	keys := []string{host}
	for dir := repository; dir != "." && dir != ""; dir = path.Dir(dir) {
		keys = slices.Insert(keys, len(keys)-1, host+"/"+dir)
	}
	if host == dockerHost {
		for i := range keys {
			keys[i] = dockerHub + strings.TrimPrefix(keys[i], host)
		}
		keys = append(keys, dockerKey)
	}
	for _, key := range keys {
		a, err := c.GetAuthConfig(key)
		if err != nil {
			return nil, fmt.Errorf("credentials for %s: %w", key, err)
		}
		a.ServerAddress = ""
		if a != (types.AuthConfig{}) {
			return authn.FromConfig(authn.AuthConfig{
				Username: a.Username, Password: a.Password, Auth: a.Auth,
				IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
			}), nil
		}
	}
	return authn.Anonymous, nil
}

// A lentRegistry answers pulls of a machine with what a registry answers the host.
type lentRegistry struct {
	r    Registry
	auth *configfile.ConfigFile
	base http.RoundTripper

	logins  singleflight.Group // one for many layers
	mu      sync.Mutex         // guards what follows
	clients map[string]*http.Client
}

func newRegistry(r Registry, auth *configfile.ConfigFile) http.Handler {
	return &lentRegistry{r: r, auth: auth, clients: make(map[string]*http.Client), base: &http.Transport{
		Proxy:           func(q *http.Request) (*url.URL, error) { return hostProxy()(q.URL) },
		DialContext:     guarded(r.URL.Hostname(), hostProxies()),
		IdleConnTimeout: idleTime,
	}}
}

// hostProxies returns HOST:PORT of what this host's own requests go through.
func hostProxies() []string {
	var all []string
	for _, scheme := range []string{"http", "https"} {
		if u, err := hostProxy()(&url.URL{Scheme: scheme, Host: "registry.invalid"}); err == nil && u != nil {
			all = append(all, hostPort(u))
		}
	}
	return all
}

// guarded dials what a registry redirects to, or what hands out its tokens, as it
// would be dialled for the machine. The registry's own host and the proxies have a
// name in the host's configuration, and may be anywhere.
func guarded(registry string, proxies []string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, net_, address string) (net.Conn, error) {
		var d net.Dialer
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if host != registry && !slices.Contains(proxies, address) {
			d.Control = network.Control
		}
		return d.DialContext(ctx, net_, address)
	}
}

// pull is a path of a request that reads an image: GET of the distribution
// specification, end-2, -3, -8 and -12.
var pull = regexp.MustCompile(`^/v2/([a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)/((?:manifests|blobs|referrers)/[A-Za-z0-9_+.:-]+|tags/list)$`)

func (g *lentRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "images are only pulled through the host")
		return
	}
	if r.URL.Path == "/v2/" || r.URL.Path == "/v2" {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		return
	}
	m := pull.FindStringSubmatch(r.URL.Path)
	if m == nil || len(r.URL.Path) > 1024 {
		refuse(w, http.StatusNotFound, "UNSUPPORTED", "the host lends only images that are pulled by name")
		return
	}
	repository := strings.TrimPrefix(strings.Trim(g.r.URL.Path, "/")+"/"+m[1], "/")
	resp, err := g.ask(r, repository, m[2])
	if err != nil {
		var e *transport.Error
		status := http.StatusBadGateway
		if errors.As(err, &e) {
			status = e.StatusCode
		}
		refuse(w, status, "UNAVAILABLE", fmt.Sprintf("the host asked %s for %s: %v", g.r.URL.Host, repository, err))
		return
	}
	defer resp.Body.Close()
	for _, h := range []string{"Content-Type", "Content-Length", "Content-Range", "Accept-Ranges", "Docker-Content-Digest", "Docker-Distribution-Api-Version", "Etag", "Link", "Oci-Filters-Applied"} {
		if v := resp.Header.Values(h); v != nil {
			w.Header()[h] = v
		}
	}
	w.WriteHeader(resp.StatusCode)
	io.Copy(w, resp.Body)
}

// ask passes a request on, with credentials and no more of the machine's than what
// it may say of the answer.
func (g *lentRegistry) ask(r *http.Request, repository, what string) (*http.Response, error) {
	c, err := g.client(r.Context(), repository)
	if err != nil {
		return nil, err
	}
	to := url.URL{Scheme: g.r.URL.Scheme, Host: g.r.URL.Host, Path: "/v2/" + repository + "/" + what, RawQuery: r.URL.RawQuery}
	q, err := http.NewRequestWithContext(r.Context(), r.Method, to.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range []string{"Accept", "Range", "If-None-Match", "Accept-Encoding"} {
		if v := r.Header.Values(h); v != nil {
			q.Header[h] = v
		}
	}
	return c.Do(q)
}

// client returns what asks for a repository, logged in to pull. A registry that hangs
// for one repository holds up no request for another.
func (g *lentRegistry) client(ctx context.Context, repository string) (*http.Client, error) {
	g.mu.Lock()
	c := g.clients[repository]
	g.mu.Unlock()
	if c != nil {
		return c, nil
	}
	for {
		login := g.logins.DoChan(repository, func() (any, error) { return g.login(ctx, repository) })
		select {
		case l := <-login:
			if errors.Is(l.Err, context.Canceled) && ctx.Err() == nil {
				continue // it was another request's, which has ended
			}
			c, _ := l.Val.(*http.Client)
			return c, l.Err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (g *lentRegistry) login(ctx context.Context, repository string) (*http.Client, error) {
	a, err := credentials(g.auth, g.r.URL.Host, repository)
	if err != nil {
		return nil, err
	}
	var o []name.Option
	if g.r.URL.Scheme == "http" {
		o = append(o, name.Insecure)
	}
	repo, err := name.NewRepository(g.r.URL.Host+"/"+repository, o...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	t, err := transport.NewWithContext(ctx, repo.Registry, a, g.base, []string{repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	c := &http.Client{Transport: t, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		return nil
	}}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.clients) >= maxClients {
		clear(g.clients)
	}
	g.clients[repository] = c
	return c, nil
}

// refuse answers as registries do (distribution specification, Error Codes).
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": "9ci: " + message}}})
}
