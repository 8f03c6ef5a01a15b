// Package config reads 9ci's configuration, which is shell-shaped: a variable
// comes from a flag, then from the environment, then from .env in the
// repository, then from ~/.config/9ci/env. The files are parsed, never sourced.
//
// A cloned repository brings its own .env. If git tracks the file, it sets only how
// the repository's runs are made, within the user's limits. Variables that say
// whom to trust are looked for in the environment and in ~/.config/9ci/env before
// any .env, and must not name files inside the work tree.
//
// The table has a row for each variable, and all that is known of it: its default,
// its line of the manual and of the .env that 9ci init writes, who may set it, and
// whether a daemon is told of it.
package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"9ci/cmd/internal/home"
	"9ci/cmd/internal/repo"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/orchestrator/dial"
)

// A Config is what the CI_ variables say, with their defaults.
type Config struct {
	Net       string        // build, all or none
	Timeout   time.Duration // of a run; 0 is no limit
	Idle      time.Duration // of a run that says nothing; 0 is no limit
	Output    int64         // bytes that a run may write to one stream; 0 is no limit
	Memory    int64         // the guest's RAM in bytes
	CPUs      int           // the guest's processors; 0: all that the host has
	Hold      time.Duration // of the machine of a run that fails
	MatchTree bool          // runs are of a tree, not of a commit
	Runs      bool          // every step sees /n/ci
	MaxAge    time.Duration // older runs are not replayed

	// ReplayTimeout is how long a replay waits for its peers, but for the
	// time in which a run comes at a least rate; 0 is no limit.
	ReplayTimeout time.Duration

	Ladder       []string      // of Rungs, each once: the ways to a run, in the order in which they are tried
	Env          []string      // NAME=VALUE let into the machine; no value has a newline
	Secrets      []string      // the same, masked in all output; a value is empty or has 8 bytes or more
	Registries   []Registry    // each once
	AuthFile     string        // credentials for registries, or empty
	Keep         store.Keep    // zero: KeepDefault
	Connected    time.Duration // how long to serve after a run; negative is until a signal
	Artifacts    string        // a directory artifacts are copied to, or empty
	Key          string        // the private key that signs and logs in
	Signers      string        // one more allowed_signers file, or empty
	Orchestrator string        // a URL without a password, or empty
	Token        string        // logs in there, or empty; a secret
	ProxyCommand string        // connects to it; as dial.Options has it
	TLSCert      string        // what logs in at a tls:// URL, its key, and the CAs of the server's certificate, or empty
	TLSKey       string
	TLSCA        string
	MaxTimeout   time.Duration // limits of a tracked .env
	MaxMemory    int64
	MaxCPUs      int
	MaxHold      time.Duration

	// Warnings say what is ignored, and why. They name variables, and of
	// values only those of limits.
	Warnings []string

	text map[string]string // the text of each variable that has one
}

// KeepDefault is Keep where CI_KEEP is not set: a daemon lives for others who come back
// for its runs.
func KeepDefault(daemon bool) store.Keep {
	if daemon {
		return store.Keep{Count: 20, Age: 7 * 24 * time.Hour}
	}
	return store.Keep{Once: true}
}

// Load reads the configuration for a repository, or for none if rp is nil. set
// holds variables by name, from flags or from a line of a ctl. They go before all
// other sources, and must be among those of Attrs.
//
// The error names each variable whose text is wrong, where it was found and what
// is wanted. It repeats no secret.
func Load(ctx context.Context, rp *repo.Repo, set map[string]string) (*Config, error) {
	for name := range set {
		if v := lookup(name); v == nil || !v.shape {
			return nil, fmt.Errorf("unknown attribute %.40q: a run has %s", attr(name), list(attrs()))
		}
	}
	l := loader{rp: rp, set: set, c: &Config{text: make(map[string]string)}, told: make(map[string]bool)}
	if err := l.read(ctx); err != nil {
		return nil, err
	}
	l.warn()
	// The limits come first: the others are held against them.
	for _, v := range slices.SortedStableFunc(slices.Values(table), func(a, b *variable) int { return cmp.Compare(b.from, a.from) }) {
		l.take(v)
	}
	l.resolve("CI_ENV", &l.c.Env)
	l.resolve("CI_SECRETS", &l.c.Secrets)
	l.keepApart()
	l.checkToken()
	l.keepLoginsOut()
	if len(l.errs) == 0 {
		l.checkTrust()
	}
	if len(l.errs) > 0 {
		return nil, errors.Join(l.errs...)
	}
	return l.c, nil
}

// A loader is one call of Load.
type loader struct {
	rp      *repo.Repo // or nil
	set     map[string]string
	dot     *envFile // .env, or nil
	tracked bool     // git tracks dot
	own     *envFile // ~/.config/9ci/env, or nil
	c       *Config
	errs    []error
	told    map[string]bool // the unknown variables that a warning has named
}

func (l *loader) read(ctx context.Context) error {
	dir, err := home.Config()
	if err != nil {
		return err
	}
	if l.own, err = readOwn(filepath.Join(dir, "env")); err != nil {
		return err
	}
	if l.rp == nil || l.rp.Bare {
		return nil
	}
	f, why, err := readDotenv(l.rp.Top)
	if err != nil {
		return err
	}
	if why != "" {
		l.say("%s is not read: %s", filepath.Join(l.rp.Top, ".env"), why)
	}
	if f == nil {
		return nil
	}
	if l.tracked, err = l.rp.Tracked(ctx, ".env"); err != nil {
		return fmt.Errorf("%s: whether git tracks it: %w", f.name, err)
	}
	l.dot = f
	return nil
}

func (l *loader) say(format string, args ...any) {
	l.c.Warnings = append(l.c.Warnings, fmt.Sprintf(format, args...))
}

// warn tells of the variables that are ignored.
func (l *loader) warn() {
	l.warnRefused()
	for _, f := range []*envFile{l.dot, l.own} {
		if f != nil {
			l.warnFile(f)
		}
	}
	l.warnSlips()
}

// warnRefused tells of the variables that the .env may not set.
func (l *loader) warnRefused() {
	if l.dot == nil {
		return
	}
	var refused []string
	for _, name := range l.dot.ours() {
		switch v := lookup(name); {
		case v == nil && l.tracked:
			refused = append(refused, l.unknown(name))
		case v != nil && (v.from >= starts || v.from != repository && l.tracked):
			refused = append(refused, name)
		}
	}
	l.warnToken()
	switch {
	case len(refused) > 0 && l.tracked:
		l.say("%s: ignored %s: a .env that git tracks sets %s and nothing else", l.dot.name, list(refused), list(names(repository)))
	case len(refused) > 0:
		l.say("%s: ignored %s: only the environment and ~/.config/9ci/env set that", l.dot.name, list(refused))
	}
}

// warnFile tells of the unknown variables of a file, and of one that is hidden in
// the value of another.
func (l *loader) warnFile(f *envFile) {
	var unknown []string
	for _, name := range f.ours() {
		if lookup(name) == nil && !l.told[name] {
			unknown = append(unknown, l.unknown(name))
		}
	}
	if len(unknown) > 0 {
		l.say("%s: ignored %s, which 9ci does not know", f.name, list(unknown))
	}
	for _, h := range f.hidden {
		if lookup(h.name) != nil {
			l.say("%s:%d: ignored %s: it stands between the quotes that begin in line %d", f.name, h.line, h.name, h.from)
			return // one of a file will do
		}
	}
}

// warnSlips tells of the unknown variables in the environment. Other CI has CI_
// variables of its own there, so only likely slips of the pen are named.
func (l *loader) warnSlips() {
	var slips []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, "CI_") || !validName(name) || lookup(name) != nil || l.told[name] {
			continue
		}
		if _, far := nearest(name); isSlip(name, far) {
			slips = append(slips, l.unknown(name))
		}
	}
	slices.Sort(slips)
	if len(slips) > 0 {
		l.say("the environment: ignored %s, which 9ci does not know", list(slips))
	}
}

// unknown returns the words for an unknown variable, and notes that it is told.
func (l *loader) unknown(name string) string {
	l.told[name] = true
	near, _ := nearest(name)
	return fmt.Sprintf("%.40s (nearest: %s)", name, near)
}

// A found is a setting and the file that it was found in.
type found struct {
	setting
	file *envFile // nil: a flag or the environment
}

func (f found) where() string {
	if f.file == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d: ", f.file.name, f.line)
}

// find looks for a variable in the sources that may set it. v is its row, or nil
// for a variable that CI_ENV or CI_SECRETS names.
func (l *loader) find(name string, v *variable) (found, bool) {
	if text, ok := l.set[name]; ok && v != nil {
		return found{setting: setting{value: text}}, true
	}
	if text, ok := lookupEnv(name); ok {
		return found{setting: setting{value: text}}, true
	}
	files := []*envFile{l.dot, l.own}
	switch {
	case l.tracked && (v == nil || v.from != repository), v != nil && v.from >= starts:
		files[0] = nil
	case v != nil && v.from == trust:
		files[0], files[1] = l.own, l.dot
	}
	for _, f := range files {
		if f != nil {
			if s, ok := f.vars[name]; ok {
				return found{s, f}, true
			}
		}
	}
	return found{}, false
}

// take sets the field of a variable from the first source that has the variable,
// or else to the default. An empty value stands for the default.
func (l *loader) take(v *variable) {
	f, text, err := l.value(v)
	if text == "" && err == nil {
		return
	}
	if err != nil {
		l.errs = append(l.errs, fmt.Errorf("%s%s: %w", f.where(), v.name, err))
		return
	}
	field := v.field(l.c)
	if err := field.set(text); err != nil {
		if v.hide {
			err = fmt.Errorf("%s%s: %w", f.where(), v.name, err)
		} else {
			err = fmt.Errorf("%s%s=%s: %w", f.where(), v.name, show(text), err)
		}
		l.errs = append(l.errs, err)
		return
	}
	if l.tracked && f.file == l.dot {
		text = l.limit(v, f, text)
	}
	l.c.text[v.name] = text
}

// value returns the text of a variable, and where it was found.
func (l *loader) value(v *variable) (found, string, error) {
	f, _ := l.find(v.name, v)
	if f.value != "" || f.err != nil {
		return f, f.value, f.err
	}
	if v.here == nil {
		return found{}, v.dflt, nil
	}
	text, err := v.here()
	return found{}, text, err
}

// limit holds the text of a variable, whose field is set, against the variable's
// limit. If it is beyond that, the field is set to the limit. limit returns the text
// that then counts.
func (l *loader) limit(v *variable, f found, text string) string {
	max := lookup(v.max)
	if max == nil || v.field(l.c).(amount).amount() <= max.field(l.c).(amount).amount() {
		return text
	}
	most := l.c.text[max.name]
	l.say("%s%s=%s is beyond %s=%s: the run gets %[5]s", f.where(), v.name, text, max.name, most)
	if err := v.field(l.c).set(most); err != nil {
		l.errs = append(l.errs, fmt.Errorf("%s=%s: %w", max.name, most, err))
	}
	return most
}

// secretLen is the least length of a secret in bytes. A shorter one would be
// masked in output that is no secret.
const secretLen = 8

// resolve makes each word of a list, NAME or NAME=VALUE, a NAME=VALUE. Its errors
// have no values.
func (l *loader) resolve(of string, to *[]string) {
	secret := of == "CI_SECRETS"
	bad := func(name, format string, args ...any) {
		l.errs = append(l.errs, fmt.Errorf("%s names %s, "+format, append([]any{of, name}, args...)...))
	}
	given := slices.ContainsFunc(*to, func(w string) bool { return strings.Contains(w, "=") })
	var list []string
	seen := make(map[string]bool)
	for i, word := range *to {
		name, value, ok := strings.Cut(word, "=")
		if !ok {
			f, set := l.find(name, nil)
			if set && f.err != nil {
				bad(name, "and %s%s: %w", f.where(), name, f.err)
				continue
			}
			value, ok = f.value, set
			if !set && secret && given {
				// This may be part of a value that has blanks and no quotes.
				name = fmt.Sprintf("a variable in word %d", i+1)
			}
		}
		switch {
		case !ok:
			bad(name, "which is not set")
		case seen[name]:
			bad(name, "and names it twice")
		case strings.Contains(value, "\x00"):
			bad(name, "whose value has a NUL in it")
		case !secret && strings.Contains(value, "\n"):
			bad(name, "whose value has a newline, and cannot be part of a key: CI_SECRETS may name it")
		case secret && (name == "PATH" || name == "CI"):
			bad(name, "which is no secret: CI_ENV may name it")
		case secret && value != "" && len(value) < secretLen:
			bad(name, "whose value has less than %d bytes: it would be masked in words that are no secret", secretLen)
		default:
			list = append(list, name+"="+value)
		}
		seen[name] = true
	}
	*to = list
	if list != nil {
		l.c.text[of] = ci.QuoteWords(list)
	}
}

// keepApart refuses secrets in CI_ENV: its values are in the key.
func (l *loader) keepApart() {
	for _, v := range l.c.Env {
		name, value, _ := strings.Cut(v, "=")
		for _, s := range l.c.Secrets {
			switch secret, hidden, _ := strings.Cut(s, "="); {
			case name == secret:
				l.errs = append(l.errs, fmt.Errorf("CI_ENV and CI_SECRETS both name %s: CI_ENV would put its value into the key", name))
			case hidden != "" && strings.Contains(value, hidden):
				l.errs = append(l.errs, fmt.Errorf("CI_ENV names %s, whose value holds that of the secret %s, and would put it into the key: CI_SECRETS may name it", name, secret))
			}
		}
	}
}

// Address returns the URL of the orchestrator for others to see, or "-". It leaves
// out the user, where some put a token.
func (c *Config) Address() string {
	u, err := dial.ParseURL(c.Orchestrator)
	if err != nil {
		return "-"
	}
	u.User = nil
	return u.String()
}

// Attrs returns the variables that say what a run is: with them another process,
// a daemon, runs what this one would. Each is named as its variable, in lower case
// and without CI_. They hold the values of secrets.
func (c *Config) Attrs() ci.Attrs {
	var a ci.Attrs
	for _, v := range table {
		if v.shape {
			a = append(a, ci.Attr{Name: attr(v.name), Value: c.text[v.name]})
		}
	}
	return a
}

// attrs returns the names of Attrs.
func attrs() []string {
	var names []string
	for _, v := range table {
		if v.shape {
			names = append(names, attr(v.name))
		}
	}
	return names
}

// attr returns the attribute of a run that stands for a variable.
func attr(name string) string { return strings.ToLower(strings.TrimPrefix(name, "CI_")) }

// Name returns the variable that an attribute of a run stands for.
func Name(attr string) string { return "CI_" + strings.ToUpper(attr) }

// list returns names as a sentence has them. The author of a file decides how many
// there are, so a sentence has ten at most.
func list(names []string) string {
	const most = 10
	if n := len(names); n > most {
		names = append(slices.Clone(names[:most]), fmt.Sprintf("%d more", n-most))
	}
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}
