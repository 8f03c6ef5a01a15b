package sh

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// tester evaluates the expression of test(1).
type tester struct {
	s    *shell
	args []string
	err  string
}

func test(s *shell, args []string) int {
	rest := args[1:]
	if args[0] == "[" {
		if len(rest) == 0 || rest[len(rest)-1] != "]" {
			s.errorf("[: missing ]")
			return 2
		}
		rest = rest[:len(rest)-1]
	}
	if len(rest) == 0 {
		return 1
	}
	t := &tester{s: s, args: rest}
	ok := t.short()
	if t.err == "" && len(t.args) > 0 {
		t.fail("%s: unexpected operator", t.args[0])
	}
	if t.err != "" {
		s.errorf("%s: %s", args[0], t.err)
		return 2
	}
	return b2i(!ok)
}

func (t *tester) fail(format string, args ...any) {
	if t.err == "" {
		t.err = fmt.Sprintf(format, args...)
	}
	t.args = nil
}

// short does the expressions of up to four words, for which POSIX says which word
// is what.
func (t *tester) short() bool {
	a := t.args
	switch {
	case len(a) == 1:
		t.args = nil
		return a[0] != ""
	case len(a) == 2 && a[0] == "!":
		t.args = nil
		return a[1] == ""
	case len(a) == 3 && binary[a[1]]:
		t.args = nil
		return t.compare(a[0], a[1], a[2])
	case len(a) == 3 && a[0] == "(" && a[2] == ")":
		t.args = nil
		return a[1] != ""
	case len(a) == 3 && a[0] == "!", len(a) == 4 && a[0] == "!":
		t.args = a[1:]
		return !t.short()
	}
	return t.or()
}

func (t *tester) next() (string, bool) {
	if len(t.args) == 0 {
		return "", false
	}
	arg := t.args[0]
	t.args = t.args[1:]
	return arg, true
}

func (t *tester) or() bool {
	ok := t.and()
	for len(t.args) > 0 && t.args[0] == "-o" {
		t.args = t.args[1:]
		right := t.and()
		ok = ok || right
	}
	return ok
}

func (t *tester) and() bool {
	ok := t.not()
	for len(t.args) > 0 && t.args[0] == "-a" {
		t.args = t.args[1:]
		right := t.not()
		ok = ok && right
	}
	return ok
}

func (t *tester) not() bool {
	if len(t.args) > 1 && t.args[0] == "!" && !(len(t.args) > 2 && binary[t.args[1]]) {
		t.args = t.args[1:]
		return !t.not()
	}
	return t.primary()
}

func (t *tester) primary() bool {
	arg, ok := t.next()
	if !ok {
		t.fail("argument expected")
		return false
	}
	if len(t.args) > 1 && binary[t.args[0]] {
		op, right := t.args[0], t.args[1]
		t.args = t.args[2:]
		return t.compare(arg, op, right)
	}
	if arg == "(" {
		ok := t.or()
		if end, _ := t.next(); end != ")" {
			t.fail("closing paren expected")
		}
		return ok
	}
	if len(arg) == 2 && arg[0] == '-' && strings.IndexByte("bcdefgGhkLnOprsStuwxz", arg[1]) >= 0 && len(t.args) > 0 {
		operand, _ := t.next()
		return t.unary(arg[1], operand)
	}
	if len(t.args) == 1 && binary[t.args[0]] {
		t.fail("%s: argument expected", t.args[0])
		return false
	}
	return arg != ""
}

// binary are the operators between two words.
var binary = map[string]bool{
	"=": true, "!=": true, "<": true, ">": true, "-eq": true, "-ne": true, "-gt": true,
	"-ge": true, "-lt": true, "-le": true, "-nt": true, "-ot": true, "-ef": true,
}

func (t *tester) compare(a, op, b string) bool {
	switch op {
	case "=":
		return a == b
	case "!=":
		return a != b
	case "<":
		return a < b
	case ">":
		return a > b
	case "-nt", "-ot", "-ef":
		x, err := os.Stat(a)
		y, err2 := os.Stat(b)
		switch {
		case op == "-ef":
			return err == nil && err2 == nil && os.SameFile(x, y)
		case op == "-nt":
			return err == nil && err2 == nil && x.ModTime().After(y.ModTime())
		}
		return err == nil && err2 == nil && x.ModTime().Before(y.ModTime())
	}
	x, y := t.number(a), t.number(b)
	switch op {
	case "-eq":
		return x == y
	case "-ne":
		return x != y
	case "-gt":
		return x > y
	case "-ge":
		return x >= y
	case "-lt":
		return x < y
	}
	return x <= y
}

func (t *tester) number(text string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		t.fail("Illegal number: %s", text)
	}
	return n
}

func (t *tester) unary(op byte, arg string) bool {
	switch op {
	case 'n':
		return arg != ""
	case 'z':
		return arg == ""
	case 'r':
		return unix.Faccessat(unix.AT_FDCWD, arg, unix.R_OK, unix.AT_EACCESS) == nil
	case 'w':
		return unix.Faccessat(unix.AT_FDCWD, arg, unix.W_OK, unix.AT_EACCESS) == nil
	case 'x':
		return unix.Faccessat(unix.AT_FDCWD, arg, unix.X_OK, unix.AT_EACCESS) == nil
	case 't':
		n := t.number(arg)
		fd, ok := t.s.fds[int(n)]
		if !ok {
			return false
		}
		_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		return err == nil
	}
	var st syscall.Stat_t
	var err error
	if op == 'h' || op == 'L' {
		err = syscall.Lstat(arg, &st)
	} else {
		err = syscall.Stat(arg, &st)
	}
	if err != nil {
		return false
	}
	is := func(kind uint32) bool { return st.Mode&syscall.S_IFMT == kind }
	switch op {
	case 'b':
		return is(syscall.S_IFBLK)
	case 'c':
		return is(syscall.S_IFCHR)
	case 'd':
		return is(syscall.S_IFDIR)
	case 'f':
		return is(syscall.S_IFREG)
	case 'h', 'L':
		return is(syscall.S_IFLNK)
	case 'p':
		return is(syscall.S_IFIFO)
	case 'S':
		return is(syscall.S_IFSOCK)
	case 's':
		return st.Size > 0
	case 'g':
		return st.Mode&syscall.S_ISGID != 0
	case 'u':
		return st.Mode&syscall.S_ISUID != 0
	case 'k':
		return st.Mode&syscall.S_ISVTX != 0
	case 'O':
		return int(st.Uid) == os.Geteuid()
	case 'G':
		return int(st.Gid) == os.Getegid()
	}
	return true // -e
}
