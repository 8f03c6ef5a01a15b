package vm

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// An apt is how this host reaches Debian's archive. The core OS is built with it,
// and reaches the archive in the same way when it runs. A machine gets it as files
// at boot; it never becomes part of an image.
type apt struct {
	sources []source
	options []string // lines of apt.conf(5)
}

// A source is a place of the archive, for release only.
type source struct {
	uri    string
	suites []string // of bookworm, bookworm-updates, bookworm-security
}

// release is the release of Debian of which the core OS is made.
const release = "bookworm"

// keyring is where the package debian-archive-keyring has its keys, here
// and in the core OS.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// hostAPT reads /etc/apt. It leaves out the places of other vendors. Those of a
// host with another release of Debian serve for the release that we need.
func hostAPT(ctx context.Context) (apt, error) {
	var a apt
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
func (a *apt) environment(getenv func(string) string) {
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

// conf is the options as a guest needs them: what is on this host's own
// loopback it finds at its gateway.
func (a apt) conf() string {
	var b strings.Builder
	r := strings.NewReplacer("://127.0.0.1", "://"+gateway, "://localhost", "://"+gateway, "://[::1]", "://"+gateway)
	for _, o := range a.options {
		b.WriteString(r.Replace(o) + "\n")
	}
	return b.String()
}

// gateway is where a guest of qemu's user network sees this host.
const gateway = "10.0.2.2"

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
		for _, c := range []string{codename, release} {
			for _, suffix := range []string{"", "-updates", "-security"} {
				if s == c+suffix && !slices.Contains(out, release+suffix) {
					out = append(out, release+suffix)
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

// list is the sources in the one-line style, for the guest too: its keys
// are where this host's are.
func (a apt) list() string {
	var b strings.Builder
	for _, s := range a.sources {
		for _, suite := range s.suites {
			fmt.Fprintf(&b, "deb [signed-by=%s] %s %s main\n", keyring, s.uri, suite)
		}
	}
	return b.String()
}

// withoutUsers takes the names and passwords out of URLs.
func withoutUsers(text string) string { return users.ReplaceAllString(text, "://") }

var users = regexp.MustCompile(`://[^\s"]*@`)

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
