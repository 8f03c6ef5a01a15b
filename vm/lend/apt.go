package lend

import (
	"bufio"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// An APT is how this host reaches Debian's archive. The core OS is built with it.
// A machine reaches the archive through it, and has no address or password of it.
type APT struct {
	sources []source
	options []string // lines of apt.conf(5)
}

// A source is a place of the archive, for release only.
type source struct {
	uri    string
	suites []string // of bookworm, bookworm-updates, bookworm-security
}

// Release is the release of Debian of which the core OS is made.
const Release = "bookworm"

// Keyring is where the package debian-archive-keyring has its keys, here
// and in the core OS.
const Keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// HostAPT reads /etc/apt. It leaves out the places of other vendors. Those of a
// host with another release of Debian serve for the release that we need.
func HostAPT(ctx context.Context) (APT, error) {
	var a APT
	codename := osRelease("VERSION_CODENAME")
	files, _ := filepath.Glob("/etc/apt/sources.list.d/*")
	for _, name := range append([]string{"/etc/apt/sources.list"}, files...) {
		var parse func(string, string) []source
		switch filepath.Ext(name) {
		case ".list":
			parse = parseList
		case ".sources":
			parse = parseDeb822
		default:
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			continue // none, or not ours to read: apt would not either
		}
		for _, s := range parse(string(b), codename) {
			if !slices.ContainsFunc(a.sources, func(o source) bool { return o.uri == s.uri && slices.Equal(o.suites, s.suites) }) {
				a.sources = append(a.sources, s)
			}
		}
	}
	if len(a.sources) == 0 {
		return a, fmt.Errorf("no place for Debian's packages in /etc/apt/sources.list or /etc/apt/sources.list.d (component main of %s)", codename)
	}
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return a, fmt.Errorf("apt-config dump: %w", err)
	}
	a.options = aptOptions(string(out))
	a.environment(os.Getenv)
	return a, nil
}

// environment adds the proxies of the environment, which apt heeds where
// its configuration has none.
func (a *APT) environment(getenv func(string) string) {
	for _, scheme := range []string{"http", "https"} {
		option := "Acquire::" + scheme + "::Proxy"
		proxy := getenv(scheme + "_proxy")
		if proxy == "" || strings.ContainsAny(proxy, "\"\n;") ||
			slices.ContainsFunc(a.options, func(o string) bool { return strings.HasPrefix(o, option+" ") }) {
			continue
		}
		a.options = append(a.options, fmt.Sprintf("%s %q;", option, proxy))
	}
}

// Options returns lines of apt.conf(5). The URLs of proxies may have passwords.
func (a APT) Options() []string { return a.options }

// option returns the value of an option, or "".
func (a APT) option(name string) string {
	for _, o := range a.options {
		if v, ok := strings.CutPrefix(o, name+" "); ok {
			return strings.Trim(v, `"; `)
		}
	}
	return ""
}

// proxy returns what a source's requests go through, or nil, as apt on this host
// has it.
func (a APT) proxy(u *url.URL) (*url.URL, error) {
	switch own := a.option("Acquire::" + u.Scheme + "::Proxy::" + u.Hostname()); own {
	case "":
	case "DIRECT":
		return nil, nil
	default:
		return url.Parse(own)
	}
	c := httpproxy.Config{
		HTTPProxy:  direct(a.option("Acquire::http::Proxy")),
		HTTPSProxy: direct(a.option("Acquire::https::Proxy")),
		NoProxy:    httpproxy.FromEnvironment().NoProxy,
	}
	return c.ProxyFunc()(u)
}

// direct returns the URL of a proxy, and none for apt.conf's word for none.
func direct(proxy string) string {
	if proxy == "DIRECT" {
		return ""
	}
	return proxy
}

// aptOptions picks those of apt-config dump that say how to reach the archive.
func aptOptions(dump string) []string {
	var out []string
	for line := range strings.Lines(dump) {
		line = strings.TrimSpace(line)
		name, value, _ := strings.Cut(line, " ")
		if value == `"";` {
			continue
		}
		for _, p := range []string{
			"Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::ftp::Proxy",
			"Acquire::Check-Valid-Until", "Acquire::Check-Date", "Acquire::Retries", "Acquire::ForceIPv4",
		} {
			if name == p || strings.HasPrefix(name, p+"::") {
				out = append(out, line)
			}
		}
	}
	return out
}

// suitesOf picks the suites that are of Debian's release codename, and
// names them as ours.
func suitesOf(all []string, codename string) []string {
	var out []string
	for _, s := range all {
		for _, c := range []string{codename, Release} {
			for _, suffix := range []string{"", "-updates", "-security"} {
				if s == c+suffix && !slices.Contains(out, Release+suffix) {
					out = append(out, Release+suffix)
				}
			}
		}
	}
	return out
}

// parseList reads sources.list(5)'s one-line style.
func parseList(text, codename string) []source {
	var out []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "deb" {
			continue
		}
		f = f[1:]
		if len(f) > 0 && strings.HasPrefix(f[0], "[") {
			i := slices.IndexFunc(f, func(s string) bool { return strings.HasSuffix(s, "]") })
			if i < 0 {
				continue
			}
			f = f[i+1:]
		}
		if len(f) < 3 || !slices.Contains(f[2:], "main") {
			continue
		}
		if s := suitesOf(f[1:2], codename); s != nil {
			out = append(out, source{f[0], s})
		}
	}
	return out
}

// parseDeb822 reads sources.list(5)'s deb822 style.
func parseDeb822(text, codename string) []source {
	var out []source
	for stanza := range strings.SplitSeq(text+"\n", "\n\n") {
		field := make(map[string][]string)
		var last string
		sc := bufio.NewScanner(strings.NewReader(stanza))
		for sc.Scan() {
			line := sc.Text()
			if strings.HasPrefix(line, "#") {
				continue
			}
			if !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") {
				var ok bool
				if last, line, ok = strings.Cut(line, ":"); !ok {
					continue
				}
				last = strings.ToLower(last)
			}
			field[last] = append(field[last], strings.Fields(line)...)
		}
		if !slices.Contains(field["types"], "deb") || !slices.Contains(field["components"], "main") ||
			slices.Equal(field["enabled"], []string{"no"}) {
			continue
		}
		s := suitesOf(field["suites"], codename)
		if s == nil {
			continue
		}
		for _, uri := range field["uris"] {
			out = append(out, source{uri, s})
		}
	}
	return out
}

// List returns the sources in the one-line style of sources.list(5), for programs
// of this host: a URL may have a password.
func (a APT) List() string {
	return a.list(func(uri string) string { return uri })
}

// list is List with other URIs. A source whose URI becomes "" is left out. The keys
// of a guest are where this host's are.
func (a APT) list(rename func(uri string) string) string {
	var b strings.Builder
	for _, s := range a.sources {
		uri := rename(s.uri)
		if uri == "" {
			continue
		}
		for _, suite := range s.suites {
			fmt.Fprintf(&b, "deb [signed-by=%s] %s %s main\n", Keyring, uri, suite)
		}
	}
	return b.String()
}

// osRelease is a value of os-release(5).
func osRelease(name string) string {
	b, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}
