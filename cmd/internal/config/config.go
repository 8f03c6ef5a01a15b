// Package config reads 9ci's configuration, which is shell-shaped: a variable
// comes from the environment, then from .env in the repository, then from
// ~/.config/9ci/env. The files are parsed, never sourced.
package config

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"9ci/cmd/internal/home"
	"9ci/fs"
)

// A Config is what the CI_ variables say, with their defaults.
type Config struct {
	Orchestrator string        // CI_ORCHESTRATOR: ssh://host:port[/namespace], or empty
	Keep         string        // CI_KEEP: once, a count, an age, a size, or several
	Connected    time.Duration // CI_CONNECTED: how long to serve after a run; negative is until a signal
	Timeout      time.Duration // CI_TIMEOUT: of a run
	Memory       int64         // CI_MEMORY: the guest's RAM in bytes
	CPUs         int           // CI_CPUS: the guest's processors
	Net          string        // CI_NET: build, all or none
	Env          []string      // CI_ENV: NAME=VALUE of the variables it names, or gives as such, let into the machine
	Secrets      []string      // CI_SECRETS: the same; masked in all output
	Runs         bool          // CI_RUNS: every step sees /n/ci
	MatchTree    bool          // CI_MATCH: tree rather than commit
	MaxAge       time.Duration // CI_MAXAGE: older runs are not replayed
	Signers      string        // CI_SIGNERS: one more allowed_signers file, or empty
	Artifacts    string        // CI_ARTIFACTS: a directory artifacts are copied to, or empty
	Key          string        // CI_KEY: the private key that signs and logs in
}

// trust holds the variables that a .env which git tracks cannot set: with
// them the tested tree would decide whom to trust and what it may see.
var trust = map[string]bool{"CI_SIGNERS": true, "CI_ENV": true, "CI_SECRETS": true}

// known holds every variable there is.
var known = func() map[string]bool {
	m := make(map[string]bool)
	parse(func(name string) (string, bool) {
		m[name] = true
		return "", false
	})
	return m
}()

// Names returns the names of all variables.
func Names() []string { return slices.Sorted(maps.Keys(known)) }

// Load reads the configuration for the repository whose work tree is top, or
// for none where top is empty. tracked says whether git tracks top's .env.
// What set holds goes before everything else: it comes from flags.
func Load(top string, tracked bool, set map[string]string) (*Config, error) {
	var files []map[string]string
	if top != "" {
		m, err := parseFile(filepath.Join(top, ".env"))
		if err != nil {
			return nil, err
		}
		if tracked {
			for name := range trust {
				delete(m, name)
			}
		}
		files = append(files, m)
	}
	dir, err := home.Config()
	if err != nil {
		return nil, err
	}
	m, err := parseFile(filepath.Join(dir, "env"))
	if err != nil {
		return nil, err
	}
	for name := range set {
		if !known[name] {
			return nil, fmt.Errorf("unknown attribute %s", strings.ToLower(strings.TrimPrefix(name, "CI_")))
		}
	}
	return parse(func(name string) (string, bool) {
		if v, ok := set[name]; ok {
			return v, true
		}
		if v, ok := os.LookupEnv(name); ok {
			return v, true
		}
		for _, m := range append(files, m) {
			if v, ok := m[name]; ok {
				return v, true
			}
		}
		return "", false
	})
}

// parse turns the variables that lookup knows into a Config. An empty value
// is an unset one.
func parse(lookup func(name string) (string, bool)) (*Config, error) {
	var errs []error
	get := func(name, dflt string) string {
		if v, ok := lookup(name); ok && v != "" {
			return v
		}
		return dflt
	}
	bad := func(name, value, want string) {
		errs = append(errs, fmt.Errorf("%s=%s: want %s", name, value, want))
	}
	duration := func(name, dflt string) time.Duration {
		v := get(name, dflt)
		d, err := Duration(v)
		if err != nil || d < 0 {
			bad(name, v, "a duration such as 90s, 1h30m or 7d")
		}
		return d
	}
	choice := func(name string, of ...string) string {
		v := get(name, of[0])
		for _, o := range of {
			if v == o {
				return v
			}
		}
		bad(name, v, strings.Join(of, ", "))
		return v
	}
	c := &Config{
		Orchestrator: get("CI_ORCHESTRATOR", ""),
		Keep:         get("CI_KEEP", "once"),
		Timeout:      duration("CI_TIMEOUT", "1h"),
		Net:          choice("CI_NET", "build", "all", "none"),
		Runs:         choice("CI_RUNS", "0", "1") == "1",
		MatchTree:    choice("CI_MATCH", "commit", "tree") == "tree",
		MaxAge:       duration("CI_MAXAGE", "7d"),
		Signers:      get("CI_SIGNERS", ""),
		Artifacts:    get("CI_ARTIFACTS", ""),
		Key:          get("CI_KEY", ""),
	}
	if c.Key == "" {
		dir, err := home.Config()
		if err != nil {
			return nil, err
		}
		c.Key = filepath.Join(dir, "id_ed25519")
	}
	switch v := get("CI_CONNECTED", ""); v {
	case "until-signal":
		c.Connected = -1
	case "":
		c.Connected = -1
		if os.Getenv("CI") == "true" {
			c.Connected = 0
		}
	default:
		c.Connected = duration("CI_CONNECTED", "")
	}
	v := get("CI_MEMORY", "2G")
	n, err := Size(v)
	if err != nil || n < 256<<20 {
		bad("CI_MEMORY", v, "a size of 256M or more, such as 2G")
	}
	c.Memory = n
	switch v := get("CI_CPUS", "all"); v {
	case "all":
		c.CPUs = runtime.NumCPU()
	default:
		c.CPUs, err = strconv.Atoi(v)
		if err != nil || c.CPUs < 1 || c.CPUs > 255 {
			bad("CI_CPUS", v, "all, or a number from 1 to 255")
		}
	}
	for _, l := range []struct {
		name string
		to   *[]string
	}{{"CI_ENV", &c.Env}, {"CI_SECRETS", &c.Secrets}} {
		words, err := fs.SplitWords(get(l.name, ""))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.name, err))
		}
		for _, name := range words {
			name, v, ok := strings.Cut(name, "=")
			if !validName(name) {
				bad(l.name, name, "names of variables, with blanks between them")
				continue
			}
			if !ok {
				v, ok = lookup(name)
			}
			if !ok {
				errs = append(errs, fmt.Errorf("%s names %s, which is not set", l.name, name))
				continue
			}
			if strings.ContainsAny(v, "\n\x00") {
				errs = append(errs, fmt.Errorf("%s names %s, whose value holds a newline: it cannot be part of a key", l.name, name))
				continue
			}
			*l.to = append(*l.to, name+"="+v)
		}
	}
	return c, errors.Join(errs...)
}

// Duration is time.ParseDuration with d for days and w for weeks, and a bare
// number for seconds.
func Duration(s string) (time.Duration, error) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	for unit, d := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if v, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.ParseUint(v, 10, 16)
			return time.Duration(n) * d, err
		}
	}
	return time.ParseDuration(s)
}

// Size reads a number of bytes with an optional K, M, G or T of powers of 1024.
func Size(s string) (int64, error) {
	shift := 0
	if i := len(s) - 1; i > 0 {
		if k := strings.IndexByte("KMGT", s[i]); k >= 0 {
			s, shift = s[:i], 10*(k+1)
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("bad size %q", s)
	}
	return n << shift, nil
}

func parseFile(name string) (map[string]string, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseEnv(name, string(b))
}

// parseEnv reads lines NAME=VALUE as sh(1) would read assignments, but
// expands nothing: blanks and # end an unquoted value, ” and "" quote, a
// backslash quotes the next character outside ”. Blank lines, comments and a
// leading export are skipped.
func parseEnv(name, text string) (map[string]string, error) {
	m := make(map[string]string)
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(strings.TrimSuffix(line, "\r"))
		if line == "" || line[0] == '#' {
			continue
		}
		if rest, ok := strings.CutPrefix(line, "export "); ok {
			line = strings.TrimSpace(rest)
		}
		k, v, ok := strings.Cut(line, "=")
		if !ok || !validName(k) {
			return nil, fmt.Errorf("%s:%d: want NAME=VALUE", name, i+1)
		}
		v, err := unquote(v)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
		m[k] = v
	}
	return m, nil
}

func unquote(s string) (string, error) {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && quote != '\'':
			i++
			if i == len(s) {
				return "", errors.New("a backslash ends the line")
			}
			// In "" sh takes \ away only before these.
			if quote == '"' && !strings.ContainsRune("\\\"$`", rune(s[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(s[i])
		case quote != 0:
			b.WriteByte(c)
		case c == '\'' || c == '"':
			quote = c
		case c == ' ' || c == '\t':
			rest := strings.TrimSpace(s[i:])
			if rest != "" && rest[0] != '#' {
				return "", fmt.Errorf("more than one word: quote the value")
			}
			return b.String(), nil
		default:
			b.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", fmt.Errorf("no closing %c", quote)
	}
	return b.String(), nil
}

func validName(s string) bool {
	for i, c := range []byte(s) {
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// Attrs are the variables that say what a run is, by their names without CI_
// in lower case: with them another process runs what this one would.
func (c *Config) Attrs() fs.Attrs {
	match, runs := "commit", "0"
	if c.MatchTree {
		match = "tree"
	}
	if c.Runs {
		runs = "1"
	}
	return fs.Attrs{
		{Name: "net", Value: c.Net},
		{Name: "match", Value: match},
		{Name: "runs", Value: runs},
		{Name: "timeout", Value: c.Timeout.String()},
		{Name: "memory", Value: strconv.FormatInt(c.Memory, 10)},
		{Name: "cpus", Value: strconv.Itoa(c.CPUs)},
		{Name: "maxage", Value: c.MaxAge.String()},
		{Name: "env", Value: fs.QuoteWords(c.Env)},
		{Name: "secrets", Value: fs.QuoteWords(c.Secrets)},
	}
}
