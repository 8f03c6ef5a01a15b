package mk

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
)

// A variable is a list of words, and what was said about it.
type variable struct {
	name     string
	words    []string
	set      bool
	internal bool // of recipes only: target, stem, ...
	noExport bool
	override bool // set on the command line
	assigned bool // set by a mkfile or the command line
	bucket   int  // of mk's symbol table
	seq      int  // when it was first set
	file     string
	line     int
}

// internal are the variables of recipes, in the order of the environment.
var internal = []string{
	"target", "stem", "prereq", "pid", "nproc", "newprereq", "alltarget", "newmember",
	"stem0", "stem1", "stem2", "stem3", "stem4", "stem5", "stem6", "stem7", "stem8", "stem9",
}

// lookup returns the variable called name, which need not be set.
func (m *Mkfile) lookup(name string) *variable {
	v := m.vars[name]
	if v == nil {
		v = &variable{name: name, bucket: bucket(name)}
		m.vars[name] = v
	}
	return v
}

func (m *Mkfile) set(v *variable, words []string) {
	if !v.set {
		v.set = true
		v.seq = m.nvars
		m.nvars++
	}
	v.words = words
	m.version++
}

// sorted returns the variables that are set, in the order in which mk has
// them in its symbol table, and so in the environment.
func (m *Mkfile) sorted() []*variable {
	list := make([]*variable, 0, len(m.vars))
	for _, v := range m.vars {
		if v.set {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(a, b *variable) int {
		if d := a.bucket - b.bucket; d != 0 {
			return d
		}
		return b.seq - a.seq
	})
	return list
}

// bucket returns where mk's symbol table has a variable.
func bucket(name string) int {
	h := uint64(0)
	for i := 0; i < len(name); i++ {
		h = h*79 + uint64(int64(int8(name[i])))
	}
	return int(h % 4099)
}

// exports returns the environment of commands but for the internal
// variables, in sh's form or in rc's, where an empty list is not exported.
func (p *parser) exports(d *dialect) []string {
	if p.exported == nil || p.exportedAt != p.version {
		p.exported = make(map[*dialect][]string)
		p.exportedAt = p.version
	}
	env, ok := p.exported[d]
	if ok {
		return env
	}
	for _, v := range p.sorted() {
		if v.noExport || v.internal || d.rc && (len(v.words) == 0 || v.words[0] == "") {
			continue
		}
		env = append(env, export(v.name, v.words, d))
	}
	p.exported[d] = env
	return env
}

// environment is what a command that belongs to no recipe gets: the
// internal variables are empty.
func (p *parser) environment(s *shell) []string {
	return p.appendEnv(nil, s.dialect, nil)
}

// appendEnv appends to env the internal variables and all others.
func (p *parser) appendEnv(env []string, d *dialect, values [][]string) []string {
	exports := p.exports(d)
	env = slices.Grow(env, len(internal)+len(exports))
	for i, name := range internal {
		var words []string
		if values != nil {
			words = values[i]
		}
		if d.rc && (len(words) == 0 || words[0] == "") {
			continue
		}
		env = append(env, export(name, words, d))
	}
	return append(env, exports...)
}

// export returns a variable as a string of the environment.
func export(name string, words []string, d *dialect) string {
	return name + "=" + strings.Join(words, d.sep)
}

// tooLong is why the system does not take a command, in words for the user.
type tooLong string

func (e tooLong) Error() string { return string(e) }
func (e tooLong) Unwrap() error { return syscall.E2BIG }

// whyTooLong returns why execve(2) says E2BIG: a string is too long or, if none is,
// all together are.
func whyTooLong(argv, env []string) error {
	most := 32*os.Getpagesize() - 1 // Linux's MAX_ARG_STRLEN, but for the NUL
	for _, arg := range argv {
		if len(arg) > most {
			return tooLong(fmt.Sprintf("the command is %d bytes long, the system takes %d", len(arg), most))
		}
	}
	var name, value string // of the longest value, among those that are too long if there are any
	over := false
	total := 0
	for _, s := range env {
		total += len(s) + 1
		n, v, _ := strings.Cut(s, "=")
		if long := len(s) > most; long && !over || long == over && len(v) > len(value) {
			name, value, over = n, v, long
		}
	}
	if over {
		return tooLong(fmt.Sprintf("$%s is %d bytes long, the system takes %d; %s", name, len(value), most-len(name)-1, shorten(name)))
	}
	return tooLong(fmt.Sprintf("the environment is %d bytes long, more than the system takes; its longest variable is $%s with %d; %s",
		total, name, len(value), shorten(name)))
}

// shorten says what to do about a variable that is too long.
func shorten(name string) string {
	switch {
	case slices.Contains([]string{"prereq", "newprereq", "newmember"}, name):
		return "a virtual target without a recipe may have any number of prerequisites: depend on one"
	case name == "target", name == "alltarget":
		return "give the rule fewer targets"
	case slices.Contains(internal, name):
		return "give the target a shorter name"
	}
	return "with attribute U it is not exported: " + name + "=U=..."
}
