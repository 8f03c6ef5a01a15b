package config

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"9ci/orchestrator/dial"
)

// logins are the variables of the environment by which whoever has their value logs
// in somewhere: CI_TOKEN, those that CI gives to its jobs, and users' tokens of forges.
var logins = []string{"CI_TOKEN", "CI_ID_TOKEN", "CI_JOB_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
	"GITHUB_TOKEN", "GH_TOKEN", "GITLAB_TOKEN", "FORGEJO_TOKEN", "GITEA_TOKEN"}

// withheld has the variables that Withhold has taken, by name.
var withheld sync.Map

// Withhold takes the variables by which one logs in out of the environment of this
// process, so that no program which it starts is given them. Getenv still has them.
func Withhold() {
	for _, name := range logins {
		if value, ok := os.LookupEnv(name); ok {
			withheld.Store(name, value)
			os.Unsetenv(name)
		}
	}
}

// Getenv returns a variable of the environment that this process was started in, or "".
func Getenv(name string) string {
	value, _ := lookupEnv(name)
	return value
}

func lookupEnv(name string) (string, bool) {
	if value, ok := withheld.Load(name); ok {
		return value.(string), true
	}
	return os.LookupEnv(name)
}

// A token is a repository's token. Its form is checked if it is used: other programs
// may have a CI_TOKEN of their own.
type token string

func (f *token) set(text string) error {
	*f = token(text)
	return nil
}

// checkToken sees to it that Token is a token that logs in at Orchestrator, or empty.
func (l *loader) checkToken() {
	if l.c.Token == "" {
		return
	}
	f, _ := l.find("CI_TOKEN", lookup("CI_TOKEN"))
	switch {
	case l.c.Orchestrator == "":
		l.c.Token = ""
	case strings.HasPrefix(l.c.Orchestrator, "tls:"):
		l.say("%sCI_TOKEN is not used: at tls:// a certificate logs in, of CI_TLS_CERT", f.where())
		l.c.Token = ""
	default:
		if err := dial.CheckToken(l.c.Token); err != nil {
			l.errs = append(l.errs, fmt.Errorf("%sCI_TOKEN: %w", f.where(), err))
		}
		if f.file != nil {
			if fi, err := os.Stat(f.file.name); err == nil && fi.Mode().Perm()&0o044 != 0 {
				l.say("%s has a token, and others can read it: chmod 600 %[1]s", f.file.name)
			}
		}
	}
}

// warnToken tells of a token in the .env of the work tree, which is not used.
func (l *loader) warnToken() {
	if s, ok := l.dot.vars["CI_TOKEN"]; ok && l.tracked && s.value != "" {
		l.say("%s:%d: git tracks CI_TOKEN, so all that have the repository have it: have it revoked, and put the next one into the environment or ~/.config/9ci/env", l.dot.name, s.line)
	}
}

// keepLoginsOut refuses what would let a token into the machine or, by a value of
// CI_ENV, into the key, which others see. A job's own tokens may be secrets of its
// runs.
func (l *loader) keepLoginsOut() {
	bad := func(format string, args ...any) { l.errs = append(l.errs, fmt.Errorf(format, args...)) }
	for _, list := range []struct {
		of    string
		words []string
	}{{"CI_ENV", l.c.Env}, {"CI_SECRETS", l.c.Secrets}} {
		for _, word := range list.words {
			name, value, _ := strings.Cut(word, "=")
			switch {
			case name == "CI_TOKEN":
				bad("%s names CI_TOKEN, which logs in at the orchestrator: no machine gets it", list.of)
				continue
			case list.of == "CI_SECRETS":
				continue
			case slices.Contains(logins, name):
				bad("CI_ENV names %s, a token, and would put it into the key: CI_SECRETS may name it", name)
				continue
			}
			for _, login := range logins {
				if s := Getenv(login); len(s) >= secretLen && strings.Contains(value, s) || login == "CI_TOKEN" && l.c.Token != "" && strings.Contains(value, l.c.Token) {
					bad("CI_ENV names %s, whose value holds that of %s, and would put it into the key", name, login)
					break
				}
			}
		}
	}
}
