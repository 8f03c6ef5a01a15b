package config

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"9ci/cmd/internal/home"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/orchestrator/dial"
)

// A scope says which sources a variable is taken from.
type scope int

const (
	repository scope = iota // all, a .env that git tracks included
	own                     // all but a .env that git tracks
	trust                   // the same, but .env comes last
	starts                  // the environment and ~/.config/9ci/env: what a .env names must not be run
	logsIn                  // the same: what logs in does not lie in a work tree
	limit                   // the same
)

// A variable is a row of the table. All there is to say of a variable stands in
// its row; its value is the Config's field.
type variable struct {
	name string
	dflt string // the default, as the manual has it
	doc  string // the rest of the line in the manual
	from scope

	// max names the variable that limits what a tracked .env may ask for.
	max string

	// shape says that the variable says what a run is: it is one of Attrs,
	// which a daemon is told.
	shape bool

	// hide says that errors must not repeat the value.
	hide bool

	// here, if not nil, returns the default on this machine. Otherwise it is
	// dflt.
	here func() (string, error)

	// field returns the field of a Config that has the value.
	field func(c *Config) field
}

// A field of a Config is set from the text of a variable. The error says what
// is wanted.
type field interface{ set(text string) error }

// An amount is a field that can be limited.
type amount interface {
	field
	amount() int64
}

// The table has every variable there is, in the order of the manual.
var table = []*variable{
	{name: "CI_NET", dflt: "build", from: repository, shape: true,
		doc:   "network for prepare-runtime, base-image and post-test; all: for the test too; none",
		field: func(c *Config) field { return choice{&c.Net, []string{"build", "all", "none"}} }},
	{name: "CI_MATCH", dflt: "commit", from: repository, shape: true,
		doc:   "what is run and replayed; tree: any commit of the same tree",
		field: func(c *Config) field { return toggle{&c.MatchTree, "commit", "tree"} }},
	{name: "CI_RUNS", dflt: "0", from: repository, shape: true,
		doc:   "1: all steps see the kept runs at /n/ci; such a run is never replayed",
		field: func(c *Config) field { return toggle{&c.Runs, "0", "1"} }},
	{name: "CI_TIMEOUT", dflt: "1h", from: repository, max: "CI_MAX_TIMEOUT", shape: true,
		doc:   "how long a run may take, without the building of the core OS; 0: no limit",
		field: func(c *Config) field { return (*duration)(&c.Timeout) }},
	{name: "CI_IDLE", dflt: "0", from: repository, shape: true,
		doc:   "how long a run may say nothing, from prepare-runtime on; 0: no limit",
		field: func(c *Config) field { return (*duration)(&c.Idle) }},
	{name: "CI_MEMORY", dflt: "2G", from: repository, max: "CI_MAX_MEMORY", shape: true,
		doc:   "the machine's RAM",
		field: func(c *Config) field { return (*memory)(&c.Memory) }},
	{name: "CI_CPUS", dflt: "all", from: repository, max: "CI_MAX_CPUS", shape: true,
		doc:   "its processors: all that the host has, shared with other runs, or a number",
		field: func(c *Config) field { return (*cpus)(&c.CPUs) }},
	{name: "CI_HOLD", dflt: "0", from: repository, max: "CI_MAX_HOLD", shape: true,
		doc:   "how long the machine of a run that fails is held for 9ci sh",
		field: func(c *Config) field { return (*span)(&c.Hold) }},

	{name: "CI_OUTPUT", dflt: "4G", from: own, shape: true,
		doc:   "how much a run, and a service of it, may write to stdout, and to stderr; 0: no limit but that of a run's files",
		field: func(c *Config) field { return (*bytes)(&c.Output) }},
	{name: "CI_MAXAGE", dflt: "7d", from: own, shape: true,
		doc:   "older runs are not replayed",
		field: func(c *Config) field { return (*duration)(&c.MaxAge) }},
	{name: "CI_REPLAY_TIMEOUT", dflt: "60s", from: own, shape: true,
		doc:   "how long a replay waits for peers, while less than 64 KiB/s comes of a signed run; 0: no limit",
		field: func(c *Config) field { return (*duration)(&c.ReplayTimeout) }},
	{name: "CI_LADDER", dflt: "direct,e2e,relay", from: own, shape: true,
		doc:   "ways to a run of another executor, in this order: at its address, end to end, or relayed",
		field: func(c *Config) field { return order{&c.Ladder, Rungs} }},
	{name: "CI_KEEP", dflt: "once", from: own,
		doc:   "which runs are kept: once, the last and the last that passed; a count, an age, a size, or several; the daemon has 20 7d",
		here:  func() (string, error) { return "", nil }, // see KeepDefault
		field: func(c *Config) field { return (*keep)(&c.Keep) }},
	{name: "CI_CONNECTED", dflt: "until-signal", from: own,
		doc:   "or a duration: how long a run is served after its end; 0 where CI=true",
		here:  connectedHere,
		field: func(c *Config) field { return (*connected)(&c.Connected) }},
	{name: "CI_ARTIFACTS", from: own,
		doc:   "a directory that artifacts are copied to, as a whole",
		field: func(c *Config) field { return path{&c.Artifacts, true} }},
	{name: "CI_ENV", from: own, shape: true, hide: true,
		doc:   "variables let into the machine, each NAME or NAME=VALUE; they are in the key",
		field: func(c *Config) field { return (*words)(&c.Env) }},
	{name: "CI_SECRETS", from: own, shape: true, hide: true,
		doc:   "the same, but only names are in the key, and values are masked in all output",
		field: func(c *Config) field { return (*words)(&c.Secrets) }},
	{name: "CI_REGISTRIES", from: own, shape: true, hide: true,
		doc:   "registries to pull from through the host, each NAME or NAME=MIRROR, a URL",
		field: func(c *Config) field { return (*registries)(&c.Registries) }},
	{name: "CI_AUTHFILE", from: own, shape: true,
		doc:   "logs in there, at the host: a file as podman login --authfile writes it",
		field: func(c *Config) field { return path{&c.AuthFile, false} }},

	{name: "CI_KEY", dflt: "~/.config/9ci/id_ed25519", from: trust,
		doc: "signs and logs in; made on first use; an agent's key by its .pub",
		here: func() (string, error) {
			dir, err := home.Config()
			return filepath.Join(dir, "id_ed25519"), err
		},
		field: func(c *Config) field { return path{&c.Key, false} }},
	{name: "CI_SIGNERS", from: trust,
		doc:   "an allowed_signers file, besides ~/.config/9ci/allowed_signers",
		field: func(c *Config) field { return path{&c.Signers, false} }},
	{name: "CI_ORCHESTRATOR", from: trust, hide: true,
		doc:   "ssh://HOST[:PORT][/NAMESPACE], or tls://HOST:PORT[/NAMESPACE], which relays alone",
		field: func(c *Config) field { return (*address)(&c.Orchestrator) }},
	{name: "CI_TLS_CERT", from: trust,
		doc:   "logs in at tls://: a certificate in PEM whose only URI is ci:NAME or spiffe://...",
		field: func(c *Config) field { return path{&c.TLSCert, false} }},
	{name: "CI_TLS_KEY", from: trust,
		doc:   "its key; none: it stands in CI_TLS_CERT",
		field: func(c *Config) field { return path{&c.TLSKey, false} }},
	{name: "CI_TLS_CA", from: trust,
		doc:   "the CAs of the orchestrator's certificate at tls://; none: the system's",
		field: func(c *Config) field { return path{&c.TLSCA, false} }},

	{name: "CI_PROXY_COMMAND", from: starts,
		doc:   "connects to the orchestrator: ssh -W %h:%p BASTION; %r is the user",
		field: func(c *Config) field { return (*text)(&c.ProxyCommand) }},

	{name: "CI_TOKEN", from: logsIn, hide: true,
		doc:   "a repository's token, of orchestrator token NAMESPACE: logs in at ssh://, and no key does",
		field: func(c *Config) field { return (*token)(&c.Token) }},

	{name: "CI_MAX_TIMEOUT", dflt: "6h", from: limit,
		doc:   "or another time; 0: no limit",
		field: func(c *Config) field { return (*duration)(&c.MaxTimeout) }},
	{name: "CI_MAX_MEMORY", dflt: "half the host's", from: limit,
		doc:   "or a size",
		here:  halfTheMemory,
		field: func(c *Config) field { return (*memory)(&c.MaxMemory) }},
	{name: "CI_MAX_CPUS", dflt: "all", from: limit,
		doc:   "or a number",
		field: func(c *Config) field { return (*cpus)(&c.MaxCPUs) }},
	{name: "CI_MAX_HOLD", dflt: "0", from: limit,
		doc:   "or a time",
		field: func(c *Config) field { return (*span)(&c.MaxHold) }},
}

// lookup returns the row of a variable, or nil if there is none.
func lookup(name string) *variable {
	for _, v := range table {
		if v.name == name {
			return v
		}
	}
	return nil
}

// names returns the variables of a scope, in the table's order.
func names(of scope) []string {
	var names []string
	for _, v := range table {
		if v.from == of {
			names = append(names, v.name)
		}
	}
	return names
}

// groups are the scopes in the words of the manual.
var groups = []struct {
	of   scope
	text string
}{
	{repository, "Any source sets these, a .env that git tracks too, within the CI_MAX_ limits:"},
	{own, "These a .env that git tracks does not set:"},
	{trust, "These say whom to trust. A .env comes last, and one that git tracks does not set them:"},
	{starts, "These start a program of the host. No .env sets them:"},
	{logsIn, "This logs in, and is a secret. No .env sets it:"},
	{limit, "These limit what a .env that git tracks asks for. No .env sets them:"},
}

// Manual returns the part of the manual that lists every variable.
func Manual() string {
	var b strings.Builder
	for i, g := range groups {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s\n\n", g.text)
		for _, v := range table {
			if v.from != g.of {
				continue
			}
			fmt.Fprintf(&b, "\t%-17s  %-15s  %s\n", v.name, cmp.Or(v.dflt, "none"), v.doc)
		}
	}
	return b.String()
}

// Example returns a .env with every variable that it may set, commented out.
func Example() string {
	var b strings.Builder
	b.WriteString("# 9ci's configuration here: 9ci help environment\n")
	for _, g := range groups {
		if g.of >= starts {
			continue
		}
		fmt.Fprintf(&b, "\n# %s\n", g.text)
		for _, v := range table {
			if v.from == g.of {
				fmt.Fprintf(&b, "#%s=%s # %s\n", v.name, v.dflt, v.doc)
			}
		}
	}
	return b.String()
}

// choice is one of several words.
type choice struct {
	to *string
	of []string
}

func (f choice) set(text string) error {
	for _, o := range f.of {
		if text == o {
			*f.to = text
			return nil
		}
	}
	return fmt.Errorf("want %s", strings.Join(f.of, ", "))
}

// Rungs are the words of CI_LADDER.
var Rungs = []string{"direct", "e2e", "relay"}

// order is some of several words, each once, with commas between them.
type order struct {
	to *[]string
	of []string
}

func (f order) set(text string) error {
	var list []string
	for w := range strings.SplitSeq(text, ",") {
		w = strings.TrimSpace(w)
		switch {
		case !slices.Contains(f.of, w):
			known := slices.MinFunc(f.of, func(a, b string) int { return cmp.Compare(distance(w, a), distance(w, b)) })
			return fmt.Errorf("%.20q is none of %s (did you mean %s?)", w, strings.Join(f.of, ", "), known)
		case slices.Contains(list, w):
			return fmt.Errorf("it has %s twice", w)
		}
		list = append(list, w)
	}
	*f.to = list
	return nil
}

// toggle is one of two words: off is false, on is true.
type toggle struct {
	to      *bool
	off, on string
}

func (f toggle) set(text string) error {
	if text != f.off && text != f.on {
		return fmt.Errorf("want %s, %s", f.off, f.on)
	}
	*f.to = text == f.on
	return nil
}

type duration time.Duration

func (f *duration) set(text string) error {
	d, err := ci.ParseDuration(text)
	if err != nil {
		return errors.New("want a duration such as 90s, 1h30m or 7d")
	}
	*f = duration(d)
	return nil
}

// amount returns the time in nanoseconds. No limit is more than any time.
func (f *duration) amount() int64 {
	if *f == 0 {
		return math.MaxInt64
	}
	return int64(*f)
}

// span is a time of which 0 is none, rather than no limit.
type span time.Duration

func (f *span) set(text string) error { return (*duration)(f).set(text) }

func (f *span) amount() int64 { return int64(*f) }

// memory is a machine's RAM in bytes.
type memory int64

func (f *memory) set(text string) error {
	n, err := Size(text)
	if err != nil || n < 256<<20 {
		return errors.New("want a size of 256M or more, such as 2G")
	}
	*f = memory(n)
	return nil
}

func (f *memory) amount() int64 { return int64(*f) }

// bytes is a count of bytes.
type bytes int64

func (f *bytes) set(text string) error {
	n, err := Size(text)
	if err != nil {
		return errors.New("want a size such as 64M or 4G")
	}
	*f = bytes(n)
	return nil
}

// Size reads a number of bytes, with an optional K, M, G or T: powers of 1024.
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

// halfTheMemory returns half the memory of the host, in whole MiB and at least
// what a machine needs.
func halfTheMemory() (string, error) {
	all, err := HostMemory()
	return fmt.Sprintf("%dM", max(all/2>>20, 256)), err
}

// cpus is a number of processors. 0 means all.
type cpus int

func (f *cpus) set(text string) error {
	if text == "all" {
		*f = 0
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 255 {
		return errors.New("want all, or a number from 1 to 255")
	}
	*f = cpus(n)
	return nil
}

func (f *cpus) amount() int64 { return int64(cmp.Or(int(*f), runtime.NumCPU())) }

type keep store.Keep

func (f *keep) set(text string) error {
	k, err := store.ParseKeep(text)
	*f = keep(k)
	return err
}

// connected is a duration. Negative means until a signal.
type connected time.Duration

func (f *connected) set(text string) error {
	if text == "until-signal" {
		*f = -1
		return nil
	}
	d, err := ci.ParseDuration(text)
	if err != nil {
		return errors.New("want until-signal, a duration such as 90s or 10m, or 0")
	}
	*f = connected(d)
	return nil
}

func connectedHere() (string, error) {
	if os.Getenv("CI") == "true" {
		return "0", nil
	}
	return "until-signal", nil
}

// path is the name of a file. A leading ~/ is the home directory. The path is
// absolute, for a process in any working directory to find, unless it is one that
// may be relative.
type path struct {
	to       *string
	relative bool
}

func (f path) set(text string) error {
	name, err := home.Expand(text)
	if err != nil {
		return err
	}
	if !f.relative && !filepath.IsAbs(name) {
		return errors.New("want an absolute path, or one that begins with ~/")
	}
	*f.to = name
	return nil
}

// words are variables to let into the machine, each NAME or NAME=VALUE.
type words []string

func (f *words) set(text string) error {
	list, err := ci.SplitWords(text)
	if err != nil {
		return err
	}
	for i, w := range list {
		if name, _, _ := strings.Cut(w, "="); !validName(name) {
			return fmt.Errorf("word %d is not NAME or NAME=VALUE: want names of variables, with blanks between them", i+1)
		}
	}
	*f = list
	return nil
}

// A Registry is one that images are pulled from through the host.
type Registry struct {
	Name   string
	Mirror *url.URL // nil: the registry itself
}

// registries are words NAME or NAME=MIRROR. A mirror without a scheme is https.
type registries []Registry

func (f *registries) set(text string) error {
	words, err := ci.SplitWords(text)
	if err != nil {
		return err
	}
	var list []Registry
	for i, w := range words {
		name, mirror, ok := strings.Cut(w, "=")
		r := Registry{Name: name}
		if name == "" || strings.ContainsAny(name, "/\"\\") {
			return fmt.Errorf("word %d is not NAME or NAME=MIRROR: want registries such as docker.io=https://mirror.example.org", i+1)
		}
		if slices.ContainsFunc(list, func(o Registry) bool { return o.Name == name }) {
			return fmt.Errorf("it names %s twice", name)
		}
		if ok {
			if !strings.Contains(mirror, "://") {
				mirror = "https://" + mirror
			}
			u, err := url.Parse(mirror)
			switch {
			case err != nil, u.Host == "", u.Scheme != "http" && u.Scheme != "https", u.RawQuery != "", u.Fragment != "":
				return fmt.Errorf("the mirror of %s is no URL: want http or https, a host, and a path if need be", name)
			case u.User != nil:
				return fmt.Errorf("the mirror of %s has a user: CI_AUTHFILE is the place for passwords", name)
			}
			r.Mirror = u
		}
		list = append(list, r)
	}
	*f = list
	return nil
}

// text is any text.
type text string

func (f *text) set(s string) error {
	*f = text(s)
	return nil
}

// address is an orchestrator's URL.
type address string

func (f *address) set(text string) error {
	if _, err := dial.ParseURL(text); err != nil {
		return err
	}
	*f = address(text)
	return nil
}

// show returns a value as errors have it.
func show(text string) string {
	if strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }) || len(text) > 100 {
		return fmt.Sprintf("%.100q", text)
	}
	return text
}
