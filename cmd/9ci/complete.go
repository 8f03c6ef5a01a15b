package main

import (
	"context"
	"embed"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"9ci/cmd/internal/manual"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/show"
	"9ci/fs"
)

// completions are what shells read. They ask complete what can stand where.
//
//go:embed completion/*
var completions embed.FS

// shells are the files in completions of each shell.
var shells = map[string]string{"bash": "9ci.bash", "zsh": "_9ci", "fish": "9ci.fish"}

func printCompletion(shell string) error {
	name, ok := shells[shell]
	if !ok {
		return fmt.Errorf("no completion for %s: want bash, zsh or fish", shell)
	}
	b, err := completions.ReadFile(path.Join("completion", name))
	if err != nil {
		return err
	}
	_, err = show.Out.Raw().Write(b)
	return err
}

// completeFor is how long a user who has typed a tab waits, at most, for a tree.
const completeFor = 3 * time.Second

// complete prints what can stand for the last of the words that follow 9ci, a line each,
// and returns the exit status: 1 if that is a file of this host. A name with a character
// that does not print is left out: a line would not be the name, nor a terminal show it.
func complete(ctx context.Context, words []string) int {
	ctx, cancel := context.WithTimeout(ctx, completeFor)
	defer cancel()
	list, files := candidates(ctx, words)
	if files {
		return 1
	}
	for _, name := range list {
		if name != "" && strings.IndexFunc(name, func(r rune) bool { return !strconv.IsPrint(r) }) < 0 {
			show.Out.Printf("%s\n", name)
		}
	}
	return 0
}

// candidates returns the words that begin as the last one does and can stand for it. If
// there are none and files is set, it is the name of a file of this host.
func candidates(ctx context.Context, words []string) (list []string, files bool) {
	if len(words) == 0 {
		words = []string{""}
	}
	list, files = possible(ctx, words)
	word := words[len(words)-1]
	list = slices.DeleteFunc(list, func(s string) bool { return !strings.HasPrefix(s, word) })
	return list, files && len(list) == 0
}

// possible returns what can stand for the last word, whatever that begins with.
func possible(ctx context.Context, words []string) (list []string, files bool) {
	word := words[len(words)-1]
	if len(words) == 1 && !strings.HasPrefix(word, "-") {
		return commandNames(), false
	}
	name, args := "run", words
	if !strings.HasPrefix(words[0], "-") {
		name, args = words[0], words[1:]
	}
	i := slices.IndexFunc(commands(), func(c command) bool { return c.name == name })
	if i < 0 {
		return nil, false
	}
	s := parseSyntax(commands()[i].args)
	kind, addr := s.kind(args)
	if kind == "flag" {
		return s.names, false
	}
	for alt := range strings.SplitSeq(kind, "|") {
		switch alt {
		case "rev":
			list = append(list, gitRevisions(ctx)...)
		case "REV":
			if name == "vouch" || slices.Contains(args, "-attest") || slices.Contains(args, "--attest") {
				list = append(list, gitRevisions(ctx)...) // they are told a commit, and not a run
			} else {
				list = append(list, runs(ctx, addr)...)
			}
		case "PATH":
			list = append(list, treePaths(ctx, addr, word)...)
		case "ADDR":
			addrs, _ := posted()
			for _, a := range addrs {
				list = append(list, "unix!"+strings.TrimPrefix(a, "unix!"))
			}
		case "DIR", "FILE":
			files = true
		case "TOPIC":
			list = append(list, commandNames()...)
			list = append(list, manual.Topics("9ci")...)
		default:
			if alt != kind && alt == strings.ToLower(alt) {
				list = append(list, alt)
			}
		}
	}
	return list, files
}

func commandNames() (names []string) {
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return names
}

// A syntax is what a command's synopsis says: [-flag ARG]... and what follows the flags.
type syntax struct {
	names    []string          // of the flags, with their dashes
	flags    map[string]string // what each takes, by its name without dashes; "" if nothing
	operands []string
	more     bool // the last operand may be repeated
}

var flagSyntax = regexp.MustCompile(`\[(--?\w+)(?: ([^][]+))?\](?:\.\.\.)?`)

func parseSyntax(args string) syntax {
	s := syntax{flags: make(map[string]string)}
	for _, m := range flagSyntax.FindAllStringSubmatch(args, -1) {
		s.names = append(s.names, m[1])
		s.flags[strings.TrimLeft(m[1], "-")] = m[2]
	}
	args = flagSyntax.ReplaceAllString(args, "")
	s.more = strings.Contains(args, "...")
	s.operands = strings.Fields(strings.NewReplacer("[", "", "]", "", "...", "").Replace(args))
	return s
}

// kind says what the last of a command's arguments is: "flag", or a word of the
// synopsis; "" if the command does not take it. Addr is the value of -a.
func (s syntax) kind(args []string) (kind, addr string) {
	last := len(args) - 1
	operand := 0
	for i := 0; i <= last; i++ {
		a := args[i]
		if operand == 0 && strings.HasPrefix(a, "-") {
			if i == last {
				return "flag", addr
			}
			name, value, given := strings.Cut(strings.TrimLeft(a, "-"), "=")
			if takes := s.flags[name]; takes != "" && !given {
				if i++; i == last {
					return takes, addr
				}
				value = args[i]
			}
			if name == "a" {
				addr = value
			}
			continue
		}
		if i == last {
			break
		}
		operand++
	}
	if n := len(s.operands); n > 0 && (operand < n || s.more) {
		return s.operands[min(operand, n-1)], addr
	}
	return "", addr
}

// gitRevisions returns HEAD, the branches, those of remotes too, and the tags of the
// repository.
func gitRevisions(ctx context.Context) []string {
	r, err := repo.Open(ctx, ".")
	if err != nil {
		return nil
	}
	list := []string{"HEAD"}
	for _, kind := range []string{"refs/heads/", "refs/tags/", "refs/remotes/"} {
		refs, err := r.Refs(ctx, kind)
		if err != nil {
			return nil
		}
		for _, ref := range refs {
			list = append(list, strings.TrimPrefix(ref, kind))
		}
	}
	return list
}

// aliases are names in ci that no listing has.
var aliases = []string{"last", "head", "green", "held"}

// runs returns the ids of the runs that there are, and the aliases.
func runs(ctx context.Context, addr string) []string {
	var list []string
	for _, p := range treePaths(ctx, addr, "ci/") {
		list = append(list, strings.TrimSuffix(strings.TrimPrefix(p, "ci/"), "/"))
	}
	return list
}

// treePaths returns the paths of a tree in the directory that word is in. Those of
// directories end in a slash.
func treePaths(ctx context.Context, addr, word string) []string {
	dir, _ := path.Split(word)
	at := dir
	if at == "" {
		at = "/"
	}
	n, p, err := search{addr: addr, store: true}.find(ctx, at)
	if err != nil {
		return nil
	}
	defer p.close()
	d, ok := n.(fs.Dir)
	if !ok {
		return nil
	}
	var list []string
	add := func(name string, isDir bool) {
		if isDir {
			name += "/"
		}
		if !slices.Contains(list, dir+name) {
			list = append(list, dir+name)
		}
	}
	if path.Base(path.Clean("/"+p.name)) == "ci" {
		for _, name := range aliases {
			if n, err := d.Walk(ctx, name); err == nil {
				_, isDir := n.(fs.Dir)
				add(name, isDir)
			}
		}
	}
	stats, _ := readDir(ctx, d, true)
	for _, st := range stats {
		add(st.Name, st.Mode.IsDir())
	}
	return list
}
