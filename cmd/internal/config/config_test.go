package config

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"9ci/cmd/internal/repo"
	"9ci/fs/store"
)

// A desk is a user's: a home, an environment without CI_ variables, and a
// repository.
type desk struct {
	*testing.T
	home, top string
	rp        *repo.Repo
}

func newDesk(t *testing.T) *desk {
	d := &desk{T: t, home: t.TempDir(), top: t.TempDir()}
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); name == "CI" || strings.HasPrefix(name, "CI_") || name == "SUDO_UID" {
			t.Setenv(name, "") // restores it
			os.Unsetenv(name)
		}
	}
	t.Setenv("HOME", d.home)
	t.Setenv("XDG_CONFIG_HOME", "")
	d.git("init", "-q")
	d.git("commit", "-q", "--allow-empty", "-m", "one")
	var err error
	if d.rp, err = repo.Open(t.Context(), d.top); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *desk) git(args ...string) {
	d.Helper()
	cmd := exec.Command("git", append([]string{"-C", d.top, "-c", "user.name=a", "-c", "user.email=a@b"}, args...)...)
	cmd.Env = append(noGit(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		d.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func (d *desk) write(name, text string) {
	d.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		d.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		d.Fatal(err)
	}
}

func (d *desk) env(text string) { d.write(filepath.Join(d.top, ".env"), text) }
func (d *desk) own(text string) { d.write(filepath.Join(d.home, ".config/9ci/env"), text) }

// load wants a Config and so many warnings, which hold the words.
func (d *desk) load(warnings int, words ...string) *Config {
	d.Helper()
	c, err := Load(d.Context(), d.rp, nil)
	if err != nil {
		d.Fatal(err)
	}
	told := strings.Join(c.Warnings, "\n")
	if len(c.Warnings) != warnings {
		d.Errorf("%d warnings, want %d: %s", len(c.Warnings), warnings, told)
	}
	for _, w := range words {
		if !strings.Contains(told, w) {
			d.Errorf("no warning has %q: %s", w, told)
		}
	}
	return c
}

// refuse wants an error that has the words.
func (d *desk) refuse(words ...string) {
	d.Helper()
	_, err := Load(d.Context(), d.rp, nil)
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			d.Errorf("Load: %v, want an error with %q", err, w)
		}
	}
}

func TestDefaults(t *testing.T) {
	d := newDesk(t)
	c := d.load(0)
	if c.Keep != (store.Keep{}) || c.Connected >= 0 || c.Timeout != time.Hour || c.Memory != 2<<30 || c.CPUs != 0 || c.Net != "build" || c.Runs ||
		c.MatchTree || c.MaxAge != 7*24*time.Hour || c.Key != filepath.Join(d.home, ".config/9ci/id_ed25519") || c.Artifacts != "" ||
		c.Idle != 0 || c.Output != 4<<30 || c.MaxTimeout != 6*time.Hour || c.MaxMemory < 256<<20 || c.MaxCPUs != 0 {
		t.Errorf("the defaults are %+v", c)
	}
	t.Setenv("CI", "true")
	if c := d.load(0); c.Connected != 0 {
		t.Errorf("with CI=true it stays connected for %v, want 0", c.Connected)
	}
}

func TestValues(t *testing.T) {
	d := newDesk(t)
	d.own(`
CI_CONNECTED=90
CI_TIMEOUT=0
CI_IDLE=10m
CI_OUTPUT=64M
CI_MEMORY=512M
CI_CPUS=3
CI_NET=all
CI_RUNS=1
CI_MATCH=tree
CI_MAXAGE=2w
CI_KEEP='20 7d'
CI_ENV="A 'B=b c'"
CI_ARTIFACTS=out
CI_KEY=~/key
CI_SIGNERS=/etc/signers
A=a
`)
	c := d.load(0)
	if c.Connected != 90*time.Second || c.Timeout != 0 || c.Idle != 10*time.Minute || c.Output != 64<<20 || c.Memory != 512<<20 || c.CPUs != 3 || c.Net != "all" || !c.Runs || !c.MatchTree ||
		c.MaxAge != 14*24*time.Hour || c.Keep.Count != 20 || strings.Join(c.Env, "|") != "A=a|B=b c" || c.Artifacts != "out" ||
		c.Key != filepath.Join(d.home, "key") || c.Signers != "/etc/signers" {
		t.Errorf("Load = %+v", c)
	}
	d.own("")
	for _, v := range []string{"CI_CONNECTED=ever", "CI_TIMEOUT=-1s", "CI_TIMEOUT=99999999w", "CI_IDLE=long", "CI_OUTPUT=-1", "CI_OUTPUT=lots", "CI_MEMORY=1M", "CI_CPUS=0", "CI_NET=some", "CI_RUNS=yes",
		"CI_MATCH=blob", "CI_MAXAGE=soon", "CI_KEEP=most", "CI_KEY=key", "CI_SIGNERS=../signers", "CI_KEY=~bob/key", "CI_NET=\x1b[2J"} {
		name, value, _ := strings.Cut(v, "=")
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			_, err := Load(t.Context(), d.rp, nil)
			if err == nil || !strings.HasPrefix(err.Error(), name+"=") || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%q: %v, want an error that names it", v, err)
			}
		})
	}
	t.Setenv("CI_SECRETS", "PATH=/home/alice/bin")
	d.refuse("CI_SECRETS names PATH, which is no secret: CI_ENV may name it")
	t.Setenv("CI_SECRETS", "")
	d.env("\nCI_NET=some\n")
	d.refuse(d.top + "/.env:2: CI_NET=some: want build, all, none")
}

// Registries are names, each with a mirror or without.
func TestRegistries(t *testing.T) {
	d := newDesk(t)
	t.Setenv("CI_REGISTRIES", "docker.io=http://127.0.0.1:5000/hub ghcr.io quay.io=mirror.example.org localhost:5000")
	t.Setenv("CI_AUTHFILE", "~/auth.json")
	c := d.load(0)
	var got []string
	for _, r := range c.Registries {
		got = append(got, fmt.Sprint(r.Name, " ", r.Mirror))
	}
	if want := []string{"docker.io http://127.0.0.1:5000/hub", "ghcr.io <nil>", "quay.io https://mirror.example.org", "localhost:5000 <nil>"}; !slices.Equal(got, want) {
		t.Errorf("registries %q, want %q", got, want)
	}
	if want := filepath.Join(d.home, "auth.json"); c.AuthFile != want {
		t.Errorf("CI_AUTHFILE is %s, want %s", c.AuthFile, want)
	}
	for text, want := range map[string]string{
		"a=ftp://x":                    "the mirror of a is no URL: want http or https",
		"a=https://":                   "the mirror of a is no URL",
		"a=https://x?y":                "the mirror of a is no URL",
		"a=https://bob:hunter2@x":      "the mirror of a has a user: CI_AUTHFILE is the place for passwords",
		"=https://bob:hunter2@x":       "word 1 is not NAME or NAME=MIRROR",
		"https://bob:hunter2@x/y":      "word 1 is not NAME or NAME=MIRROR",
		"a a=x":                        "it names a twice",
		"'":                            "CI_REGISTRIES: ",
		"ok b=https://bob:hunter2@x:y": "the mirror of b is no URL",
	} {
		t.Setenv("CI_REGISTRIES", text)
		_, err := Load(t.Context(), d.rp, nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("CI_REGISTRIES=%q: %v, want %q", text, err, want)
		}
	}
}

// An attribute of a run is a variable of the table that says what a run is, and
// goes before all else.
func TestAttrs(t *testing.T) {
	d := newDesk(t)
	t.Setenv("CI_NET", "all")
	t.Setenv("CI_SECRETS", "TOKEN")
	t.Setenv("TOKEN", "one's own\nsecret")
	t.Setenv("CI_TIMEOUT", "90")
	c := d.load(0)
	set := make(map[string]string)
	var names []string
	for _, a := range c.Attrs() {
		names = append(names, a.Name)
		set["CI_"+strings.ToUpper(a.Name)] = a.Value
	}
	if !slices.Equal(names, attrs()) || !slices.Contains(names, "net") || !slices.Contains(names, "secrets") || slices.Contains(names, "keep") {
		t.Errorf("Attrs are %q, want %q", names, attrs())
	}
	// Another process, of another environment, with a .env of the repository.
	for name := range set {
		os.Unsetenv(name)
	}
	os.Unsetenv("TOKEN")
	t.Setenv("CI_MEMORY", "512M")
	d.env("CI_NET=none\nCI_CPUS=1\nCI_SECRETS=OTHER\n")
	got, err := Load(t.Context(), d.rp, set)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got.Attrs()) != fmt.Sprint(c.Attrs()) || got.Net != "all" || got.Timeout != 90*time.Second || got.Memory != 2<<30 ||
		got.CPUs != c.CPUs || !slices.Equal(got.Secrets, []string{"TOKEN=one's own\nsecret"}) {
		t.Errorf("handed on: %+v, want %+v", got, c)
	}
	for _, name := range []string{"CI_NOTHING", "CI_KEY", "CI_ORCHESTRATOR", "CI_MAX_TIMEOUT", "CI_ARTIFACTS"} {
		if _, err := Load(t.Context(), d.rp, map[string]string{name: "1"}); err == nil || !strings.HasPrefix(err.Error(), "unknown attribute ") {
			t.Errorf("with %s set: %v", name, err)
		}
	}
}

// Whatever a .env that git tracks holds, it says no more than how its runs are
// made.
func TestTracked(t *testing.T) {
	d := newDesk(t)
	t.Setenv("FROM_ENVIRONMENT", "x")
	d.own("CI_NET=none\nCI_MAXAGE=2h\n")
	text := `
CI_NET=all
CI_MATCH=tree
CI_RUNS=1
CI_ARTIFACTS=.git/hooks
CI_CONNECTED=1h
CI_ENV=FROM_ENVIRONMENT
CI_KEEP=1
CI_KEY=/w/k
CI_MAXAGE=1w
CI_MAX_TIMEOUT=99h
CI_ORCHESTRATOR=ssh://evil.example
CI_SECRETS=FROM_ENVIRONMENT
CI_SIGNERS=/w/s
CI_SLEEP=1
`
	d.env(text)
	d.git("add", ".env")
	c := d.load(1, ".env: ignored CI_ARTIFACTS, CI_CONNECTED, CI_ENV, CI_KEEP, CI_KEY, CI_MAXAGE, CI_MAX_TIMEOUT, CI_ORCHESTRATOR, CI_SECRETS, CI_SIGNERS and 1 more: ",
		"sets "+list(names(repository))+" and nothing else")
	if c.Net != "all" || !c.MatchTree || !c.Runs || c.MaxAge != 2*time.Hour || c.Artifacts != "" || c.Connected >= 0 || c.Env != nil || c.Keep != (store.Keep{}) ||
		c.Key != filepath.Join(d.home, ".config/9ci/id_ed25519") || c.Orchestrator != "" || c.Secrets != nil || c.Signers != "" || c.MaxTimeout != 6*time.Hour {
		t.Errorf("with a tracked .env: %+v", c)
	}
	// Nor has it the value of a variable that the user lets in.
	t.Setenv("CI_ENV", "THEIRS")
	d.env("THEIRS=x\n")
	d.refuse("CI_ENV names THEIRS, which is not set")
	os.Unsetenv("CI_ENV")

	d.git("commit", "-q", "-m", "env")
	d.git("rm", "-q", "--cached", ".env")
	d.env(text)
	if c := d.load(1); c.Artifacts != "" {
		t.Errorf("with a .env in HEAD alone: %+v", c)
	}
	d.write(filepath.Join(d.top, ".git/index"), "nonsense")
	d.refuse("whether git tracks it")
}

// CI_LADDER is some of its words, in the order given. A tracked .env does not set
// it.
func TestLadder(t *testing.T) {
	d := newDesk(t)
	for text, want := range map[string]string{"": "direct e2e relay", "relay": "relay", "relay, direct": "relay direct", "e2e,relay": "e2e relay"} {
		d.own("CI_LADDER='" + text + "'\n")
		if c := d.load(0); strings.Join(c.Ladder, " ") != want {
			t.Errorf("CI_LADDER=%q: %q, want %q", text, c.Ladder, want)
		}
	}
	for text, want := range map[string]string{"relai": "did you mean relay?", "direct,e2": "did you mean e2e?", "relay,": "none of direct, e2e, relay", "e2e,e2e": "it has e2e twice"} {
		d.own("CI_LADDER='" + text + "'\n")
		d.refuse("CI_LADDER="+text, want)
	}
	d.own("")
	d.env("CI_LADDER=relay\n")
	d.git("add", ".env")
	if c := d.load(1, "CI_LADDER"); len(c.Ladder) != 3 {
		t.Errorf("a tracked .env sets CI_LADDER to %q", c.Ladder)
	}
}

// What git does not track is the user's; but of whom to trust .env comes last,
// and it raises no limit.
func TestUntracked(t *testing.T) {
	d := newDesk(t)
	d.env("CI_NET=all\nCI_ENV=A\nA=a\nCI_KEY=/dotenv\nCI_SIGNERS=/dotenv\nCI_TIMEOUT=99h\nCI_MAX_TIMEOUT=9h\nCI_MEMORY=900G\nCI_PROXY_COMMAND=id\n")
	c := d.load(1, ".env: ignored CI_MAX_TIMEOUT and CI_PROXY_COMMAND: only the environment and ~/.config/9ci/env set that")
	if c.Net != "all" || c.Timeout != 99*time.Hour || c.Memory != 900<<30 || strings.Join(c.Env, " ") != "A=a" || c.Key != "/dotenv" || c.Signers != "/dotenv" || c.ProxyCommand != "" {
		t.Errorf("with a .env of one's own: %+v", c)
	}
	d.own("CI_NET=none\nCI_KEY=/own\nCI_SIGNERS=/own\nCI_PROXY_COMMAND='ssh -W %h:%p bastion'\n")
	t.Setenv("CI_SIGNERS", "/environment")
	if c := d.load(1); c.Net != "all" || c.Key != "/own" || c.Signers != "/environment" || c.ProxyCommand != "ssh -W %h:%p bastion" {
		t.Errorf("with all three: %+v", c)
	}
}

func TestLimits(t *testing.T) {
	d := newDesk(t)
	t.Setenv("CI_MAX_CPUS", "2")
	d.own("CI_MAX_MEMORY=1G\n")
	d.env("CI_TIMEOUT=0\nCI_MEMORY=64G\nCI_CPUS=64\n")
	d.git("add", ".env")
	c := d.load(3, ".env:1: CI_TIMEOUT=0 is beyond CI_MAX_TIMEOUT=6h: the run gets 6h", "CI_MEMORY=64G is beyond CI_MAX_MEMORY=1G", "CI_CPUS=64 is beyond CI_MAX_CPUS=2")
	if c.Timeout != 6*time.Hour || c.Memory != 1<<30 || c.CPUs != 2 {
		t.Errorf("beyond the limits: %+v", c)
	}
	if a := c.Attrs(); a.Get("timeout") != "6h" || a.Get("memory") != "1G" || a.Get("cpus") != "2" {
		t.Errorf("what is handed on: %v", a)
	}
	d.env("CI_TIMEOUT=6h\nCI_MEMORY=512M\nCI_CPUS=1\n")
	d.load(0)
	t.Setenv("CI_MAX_TIMEOUT", "0")
	d.env("CI_TIMEOUT=0\n")
	if c := d.load(0); c.Timeout != 0 {
		t.Errorf("without a limit: %+v", c)
	}
	// Of CI_HOLD, 0 is none.
	d.env("CI_HOLD=10m\n")
	if c := d.load(1, ".env:1: CI_HOLD=10m is beyond CI_MAX_HOLD=0: the run gets 0"); c.Hold != 0 {
		t.Errorf("held without leave: %+v", c)
	}
	t.Setenv("CI_MAX_HOLD", "1h")
	if c := d.load(0); c.Hold != 10*time.Minute {
		t.Errorf("held with leave: %+v", c)
	}
	d.env("CI_HOLD=0\nCI_TIMEOUT=0\n")
	d.load(0)
	// The user's own is not limited.
	t.Setenv("CI_TIMEOUT", "0")
	t.Setenv("CI_MAX_TIMEOUT", "1h")
	if c := d.load(0); c.Timeout != 0 {
		t.Errorf("from the environment: %+v", c)
	}
}

// A .env is read if it is a plain file that only the user can write.
func TestPlain(t *testing.T) {
	d := newDesk(t)
	name := filepath.Join(d.top, ".env")
	check := func(what string, warnings int, words string, net string) {
		t.Helper()
		if c := d.load(warnings, words); c.Net != net {
			t.Errorf("%s: CI_NET is %s, want %s", what, c.Net, net)
		}
		if err := os.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
	}
	d.env("CI_NET=all\n")
	check("a plain file", 0, "", "all")
	d.env("CI_NET=all\n")
	os.Chmod(name, 0o646)
	check("others write it", 1, ".env is not read: others can write it: chmod o-w", "build")
	d.env("CI_NET=all\n")
	os.Chmod(name, 0o664)
	if os.Getuid() == 0 {
		check("the user's own group writes it", 0, "", "all")
		d.env("CI_NET=all\n")
		os.Chmod(name, 0o664)
		os.Chown(name, 0, 7777)
	}
	check("a group writes it", 1, "its group can write it: chmod g-w", "build")
	d.env("APP=1\n")
	os.Chmod(name, 0o666)
	check("others write what is not ours", 0, "", "build")
	if os.Getuid() == 0 {
		d.env("CI_NET=all\n")
		os.Chown(name, 7777, 0)
		check("another user's", 1, "user id 7777 is the owner, and not you", "build")
		d.env("CI_NET=all\n")
		os.Chown(name, 7777, 0)
		t.Setenv("SUDO_UID", "7777")
		check("that of the user who called sudo", 0, "", "all")
	}
	d.env("CI_NET=all\n")
	os.Chmod(d.top, 0o777)
	check("others may replace it", 1, "of its directory, others can write it: chmod o-w "+d.top, "build")
	os.Chmod(d.top, 0o777|os.ModeSticky)
	d.env("CI_NET=all\n")
	check("others may not replace it", 0, "", "all")
	if os.Getuid() == 0 {
		d.env("CI_NET=all\n")
		os.Chown(d.top, 7778, 0)
		check("the directory's owner may replace it", 1, "of its directory, user id 7778 is the owner", "build")
		os.Chown(d.top, 0, 0)
	}
	os.Chmod(d.top, 0o755)
	other := filepath.Join(d.top, "other")
	d.write(other, "CI_NET=all\n")
	os.Symlink(other, name)
	check("a link", 1, "it is a symbolic link", "build")
	os.Link(other, name)
	check("a hard link", 1, "it has 2 names", "build")
	if err := exec.Command("mkfifo", name).Run(); err != nil {
		t.Fatal(err)
	}
	check("a pipe", 1, "it is no plain file", "build")
	os.Mkdir(name, 0o755)
	check("a directory", 0, "", "build")
	d.env("CI_NET=all\n" + strings.Repeat("#", maxFile))
	check("a long one", 1, "it has more than 1048576 bytes", "build")
	// A bare repository has no .env.
	d.git("clone", "-q", "--bare", d.top, filepath.Join(d.home, "bare"))
	d.write(filepath.Join(d.home, "bare/.env"), "CI_NET=all\n")
	var err error
	if d.rp, err = repo.Open(t.Context(), filepath.Join(d.home, "bare")); err != nil {
		t.Fatal(err)
	}
	check("in a bare repository", 0, "", "build")

	os.Mkdir(filepath.Join(d.home, ".config"), 0o755)
	os.Mkdir(filepath.Join(d.home, ".config/9ci"), 0o755)
	os.Mkdir(filepath.Join(d.home, ".config/9ci/env"), 0o755)
	d.refuse("9ci/env is no plain file")
}

// An access control list lets others write where the group's bits say only
// that somebody may.
func TestAccessControlList(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root's group is known to be of one")
	}
	d := newDesk(t)
	name := filepath.Join(d.top, ".env")
	d.env("CI_NET=all\n")
	os.Chmod(name, 0o664)
	d.load(0)
	// acl(5): version 2; user::rw user:7777:rw group::r mask::rw other::r
	acl := []byte{2, 0, 0, 0}
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, ^uint32(0)}, {2, 6, 7777}, {4, 4, ^uint32(0)}, {16, 6, ^uint32(0)}, {32, 4, ^uint32(0)}} {
		acl = append(acl, byte(e.tag), 0, byte(e.perm), 0, byte(e.id), byte(e.id>>8), byte(e.id>>16), byte(e.id>>24))
	}
	if err := setACL(name, acl); err != nil {
		t.Skipf("this file system has no access control lists: %v", err)
	}
	d.load(1, "its group can write it")
}

// Nothing in the repository says whom to trust.
func TestTrust(t *testing.T) {
	d := newDesk(t)
	inside := func(what string) {
		t.Helper()
		d.refuse(what, " is inside ", "which does not decide whom to trust: ")
	}
	key := filepath.Join(d.top, ".9ci/k")
	t.Setenv("CI_KEY", key) // it need not be there
	inside("CI_KEY: the key " + key)
	d.write(key, "k")
	inside("CI_KEY: the key " + key)
	link := filepath.Join(d.home, "k")
	os.Symlink(key, link)
	t.Setenv("CI_KEY", link)
	inside("CI_KEY: the key " + link)
	os.Remove(key)
	inside("CI_KEY: the key " + link)
	t.Setenv("CI_KEY", filepath.Join(d.home, "../"+filepath.Base(d.home), "..", filepath.Base(d.top), "k"))
	inside("CI_KEY: the key ")
	t.Setenv("CI_KEY", filepath.Join(d.top, ".git/k"))
	inside("CI_KEY: the key ")
	t.Setenv("CI_KEY", d.top+"k")
	d.load(0)
	os.Unsetenv("CI_KEY")
	d.env("CI_KEY=" + key + "\n")
	inside("CI_KEY: the key ")
	d.env("CI_SIGNERS=" + filepath.Join(d.top, "allowed_signers") + "\n")
	inside("CI_SIGNERS: the list of trusted signers ")
	d.env("CI_AUTHFILE=" + filepath.Join(d.top, "auth.json") + "\n")
	inside("CI_AUTHFILE: the credentials ")
	d.env("")

	linked := filepath.Join(d.home, "linked")
	d.git("worktree", "add", "-q", linked)
	main := d.rp
	var err error
	if d.rp, err = repo.Open(t.Context(), linked); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CI_KEY", key)
	inside("CI_KEY: the key ")
	os.Unsetenv("CI_KEY")
	d.rp = main

	signers := filepath.Join(d.home, ".config/9ci/allowed_signers")
	d.own("")
	os.Symlink(filepath.Join(d.top, "allowed_signers"), signers)
	inside("the list of trusted signers " + signers)
	os.Remove(signers)
	// Who writes the list of revoked keys can empty it.
	revoked := filepath.Join(d.home, ".config/9ci/revoked")
	os.Symlink(filepath.Join(d.top, "revoked"), revoked)
	inside("the list of revoked keys " + revoked)
	os.Remove(revoked)
	os.Symlink(filepath.Join(d.top, "revoked"), filepath.Join(d.home, "revoked"))
	t.Setenv("CI_SIGNERS", filepath.Join(d.home, "signers"))
	inside("CI_SIGNERS: the list of revoked keys " + filepath.Join(d.home, "revoked"))
	os.Unsetenv("CI_SIGNERS")
	os.Remove(filepath.Join(d.home, ".config/9ci/env"))
	os.Symlink(filepath.Join(d.top, "env"), filepath.Join(d.home, ".config/9ci/env"))
	inside("the configuration " + d.home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(d.top, ".config"))
	inside("the configuration directory " + d.top)
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("HOME", d.top)
	inside("the configuration directory " + d.top)
}

func TestSecrets(t *testing.T) {
	d := newDesk(t)
	t.Setenv("TOKEN", "hunter2 hunter2")
	t.Setenv("PEM", "-----BEGIN\nKEY-----\n")
	t.Setenv("SHORT", "hunter2")
	t.Setenv("NONE", "")
	t.Setenv("URL", "https://bob:hunter2 hunter2@example.org")
	for _, tt := range []struct{ env, secrets, err string }{
		{"", "TOKEN PEM NONE 'A=b c d e f'", ""},
		{"", "SHORT", "CI_SECRETS names SHORT, whose value has less than 8 bytes"},
		{"", "A=hunter2", "CI_SECRETS names A, whose value has less than 8 bytes"},
		{"", "UNSET", "CI_SECRETS names UNSET, which is not set"},
		{"", "a-b", "CI_SECRETS: word 1 is not NAME or NAME=VALUE"},
		{"", "A=hunter22 -hunter2", "CI_SECRETS: word 2 is not NAME"},
		{"", "A=hunter22 hunter2", "CI_SECRETS names a variable in word 2, which is not set"},
		{"", "TOKEN TOKEN", "CI_SECRETS names TOKEN, and names it twice"},
		{"PEM", "", "CI_ENV names PEM, whose value has a newline"},
		{"UNSET", "", "CI_ENV names UNSET, which is not set"},
		{"TOKEN", "TOKEN", "CI_ENV and CI_SECRETS both name TOKEN"},
		{"URL", "TOKEN", "CI_ENV names URL, whose value holds that of the secret TOKEN"},
		{"NONE", "TOKEN", ""},
	} {
		t.Setenv("CI_ENV", tt.env)
		t.Setenv("CI_SECRETS", tt.secrets)
		switch c, err := Load(t.Context(), d.rp, nil); {
		case tt.err == "" && err != nil:
			t.Errorf("CI_ENV=%q CI_SECRETS=%q: %v", tt.env, tt.secrets, err)
		case tt.err == "" && tt.env == "" && len(c.Secrets) != 4:
			t.Errorf("CI_SECRETS=%q: %q", tt.secrets, c.Secrets)
		case tt.err != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.err) || strings.Contains(err.Error(), "hunter")):
			t.Errorf("CI_ENV=%q CI_SECRETS=%q: %v, want %q", tt.env, tt.secrets, err, tt.err)
		}
	}
	os.Unsetenv("CI_ENV")
	// A secret may stand in a .env over several lines; one that cannot be read
	// says so only if it is named.
	d.env("PRIVATE_KEY=\"-----BEGIN\nKEY-----\n\"\nAPP=My App\n")
	t.Setenv("CI_SECRETS", "PRIVATE_KEY")
	if c := d.load(0); len(c.Secrets) != 1 || c.Secrets[0] != "PRIVATE_KEY=-----BEGIN\nKEY-----\n" {
		t.Errorf("of a .env: %q", c.Secrets)
	}
	t.Setenv("CI_SECRETS", "APP")
	d.refuse("CI_SECRETS names APP, and ", ".env:4: APP: more than one word: quote the value")
	os.Unsetenv("CI_SECRETS")
	d.env("CI_SECRETS='A=hunter2hunter2\n")
	d.refuse(".env:1: CI_SECRETS: no closing '")
}

// A password of the orchestrator's URL is refused, wherever a slip puts it, and
// not repeated.
func TestPassword(t *testing.T) {
	d := newDesk(t)
	for _, url := range []string{"ssh://bob:hunter2@ci.example.org", "ssh://bob:hunter2@x@ci.example.org", "ssh://ci.example.org?hunter2", "ssh://ci.example.org#hunter2",
		"ssh://ci.example.org/?", "ssh://ci.example.org#", "ssh://ci.example.org:hunter2/", "ssh://ci.example.org/alice:hunter2@example.org/x", "ssh://bob:hunter2%@ci.example.org",
		"https://bob:hunter2@ci.example.org", "tls://bob:hunter2@ci.example.org", "hunter2", "ssh:hunter2"} {
		t.Setenv("CI_ORCHESTRATOR", url)
		if _, err := Load(t.Context(), d.rp, nil); err == nil || !strings.HasPrefix(err.Error(), "CI_ORCHESTRATOR: ") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("CI_ORCHESTRATOR=%s: %v", url, err)
		}
	}
	t.Setenv("CI_ORCHESTRATOR", "ssh://token@ci.example.org:2222/example.org/alice/hello")
	if got := d.load(0).Address(); got != "ssh://ci.example.org:2222/example.org/alice/hello" {
		t.Errorf("Address = %s", got)
	}
	os.Unsetenv("CI_ORCHESTRATOR")
	if got := d.load(0).Address(); got != "-" {
		t.Errorf("Address without an orchestrator = %s", got)
	}
}

// An unknown variable is named once with the nearest that is known; in the
// environment, where other CI has its own, only what looks like a slip.
func TestUnknown(t *testing.T) {
	d := newDesk(t)
	for _, name := range otherCI {
		t.Setenv(name, "1")
	}
	d.load(0)
	t.Setenv("CI_TIMOUT", "1h")
	t.Setenv("CI_CPU", "1")
	d.load(1, "the environment: ignored CI_CPU (nearest: CI_CPUS) and CI_TIMOUT (nearest: CI_TIMEOUT), which 9ci does not know")
	d.env("CI_TIMOUT=1h\nCI_SECRET=x\nCI_FROBNICATE=1m\n")
	d.own("CI_SECRET=x\nCI_MEMROY=1G\n")
	d.load(3, ".env: ignored CI_FROBNICATE (nearest: CI_", "CI_SECRET (nearest: CI_SECRETS) and CI_TIMOUT (nearest: CI_TIMEOUT), which",
		"9ci/env: ignored CI_MEMROY (nearest: CI_MEMORY), which", "the environment: ignored CI_CPU (")
	d.own("")
	d.env("CI_AVERYLONGNAMEOFMORETHANFORTYBYTESWHICHISTOOLONG=1\n")
	d.load(2, "ignored CI_AVERYLONGNAMEOFMORETHANFORTYBYTESWHIC (nearest")
}

// otherCI are variables that GitLab, Woodpecker, Drone and Codeship set.
var otherCI = strings.Fields(`CI_API_V4_URL CI_BUILDS_DIR CI_COMMIT_AUTHOR CI_COMMIT_BEFORE_SHA CI_COMMIT_BRANCH
	CI_COMMIT_MESSAGE CI_COMMIT_REF_NAME CI_COMMIT_REF_SLUG CI_COMMIT_SHA CI_COMMIT_SHORT_SHA CI_COMMIT_TAG CI_COMMIT_TIMESTAMP CI_CONCURRENT_ID
	CI_CONFIG_PATH CI_DEBUG_TRACE CI_DEFAULT_BRANCH CI_DEPLOY_FREEZE CI_DEPLOY_PASSWORD CI_DEPLOY_USER CI_ENVIRONMENT_NAME CI_ENVIRONMENT_URL
	CI_GITLAB_FIPS_MODE CI_HAS_OPEN_REQUIREMENTS CI_JOB_ID CI_JOB_IMAGE CI_JOB_JWT CI_JOB_NAME CI_JOB_STAGE CI_JOB_STATUS CI_JOB_TIMEOUT CI_JOB_TOKEN
	CI_JOB_URL CI_KUBERNETES_ACTIVE CI_MERGE_REQUEST_ID CI_NODE_INDEX CI_NODE_TOTAL CI_OPEN_MERGE_REQUESTS CI_PAGES_URL CI_PIPELINE_ID CI_PIPELINE_URL
	CI_PROJECT_DIR CI_PROJECT_NAME CI_PROJECT_PATH CI_PROJECT_URL CI_REGISTRY CI_REGISTRY_IMAGE CI_REGISTRY_PASSWORD CI_REPOSITORY_URL CI_RUNNER_ID
	CI_RUNNER_TAGS CI_SERVER CI_SERVER_HOST CI_SERVER_NAME CI_SERVER_TLS_KEY_FILE CI_SERVER_URL CI_SHARED_ENVIRONMENT CI_TEMPLATE_REGISTRY_HOST
	CI_UPSTREAM_JOB_ID CI_REPO CI_REPO_NAME CI_REPO_OWNER CI_REPO_URL CI_STEP_NAME CI_STEP_NUMBER CI_STEP_STARTED CI_PREV_COMMIT_SHA CI_WORKSPACE
	CI_FORGE_TYPE CI_FORGE_URL CI_SYSTEM_NAME CI_SYSTEM_HOST CI_MACHINE CI_NAME CI_BRANCH CI_BUILD_ID CI_BUILD_NUMBER CI_BUILD_URL CI_COMMITTER_NAME
	CI_COMMITTER_EMAIL CI_MESSAGE CI_STATUS CI_STRING_TIME CI_TIMESTAMP CI_PULL_REQUEST CI_NUMBER CI_ENGINE`)

// The table is whole: its defaults are values, its limits are of the same kind
// as what they limit, and 9ci init's .env is one that can be used.
func TestTable(t *testing.T) {
	d := newDesk(t)
	for _, v := range table {
		if v.dflt != "" && v.here == nil {
			if err := v.field(new(Config)).set(v.dflt); err != nil {
				t.Errorf("%s=%s: %v", v.name, v.dflt, err)
			}
		}
		if v.max != "" {
			max := lookup(v.max)
			if max == nil || max.from != limit || v.from != repository {
				t.Fatalf("%s is limited by %s", v.name, v.max)
			}
			if got, want := fmt.Sprintf("%T", max.field(new(Config))), fmt.Sprintf("%T", v.field(new(Config))); got != want {
				t.Errorf("%s is of %s, %s of %s", v.name, want, v.max, got)
			}
			if _, ok := v.field(new(Config)).(amount); !ok {
				t.Errorf("%s is no amount", v.name)
			}
		}
	}
	want := *d.load(0)
	example := Example()
	d.env(example)
	d.load(0)
	var lines []string
	for line := range strings.Lines(example) {
		if rest, ok := strings.CutPrefix(line, "#CI_"); ok {
			line = "CI_" + rest
		}
		lines = append(lines, line)
	}
	d.env(strings.Join(lines, ""))
	got := *d.load(0)
	got.text, want.text = nil, nil // of the default of CI_KEY it is ~
	want.Keep = KeepDefault(false)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("with the example's lines: %+v, want %+v", got, want)
	}
}

// noGit returns the environment without git's variables: in a hook of git they name
// the repository that is worked on, and not that of a test.
func noGit() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") })
}
