package config

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// An envFile holds the assignments of a file of lines NAME=VALUE.
type envFile struct {
	name   string
	vars   map[string]setting
	hidden []hidden
}

// A setting is an assignment, the last of its name in the file.
type setting struct {
	value string
	line  int
	err   error // why the line has no value
}

// A hidden is a line that looks like an assignment to a CI_ variable, but stands
// inside the quotes that begin in line from.
type hidden struct {
	name       string
	line, from int
}

// ours returns the names that begin with CI_, sorted.
func (f *envFile) ours() []string {
	var names []string
	for name := range f.vars {
		if strings.HasPrefix(name, "CI_") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// maxFile is how many bytes a file of variables may have.
const maxFile = 1 << 20

// openOwn opens a file of the user's configuration, which is to hold what holds says. It
// returns nil if there is no such file.
func openOwn(name, holds string) (*os.File, iofs.FileInfo, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // the open of a pipe must not block
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is no plain file: it is to hold %s", name, holds)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

// readOwn reads ~/.config/9ci/env. It returns nil if there is no such file.
func readOwn(name string) (*envFile, error) {
	f, _, err := openOwn(name, "lines CI_NAME=VALUE")
	if f == nil {
		return nil, err
	}
	defer f.Close()
	text, err := readText(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return parseEnv(name, text), nil
}

// readDotenv reads the .env of a work tree. It returns nil if there is no such
// file, if nothing is in it, or if it must not be read: why, if not empty, then
// says the reason. A directory called .env has another purpose and is passed over.
func readDotenv(top string) (f *envFile, why string, err error) {
	name := filepath.Join(top, ".env")
	fi, err := os.Lstat(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	switch {
	case fi.IsDir():
		return nil, "", nil
	case fi.Mode()&iofs.ModeSymlink != 0:
		return nil, "it is a symbolic link, and is to be a plain file", nil
	case !fi.Mode().IsRegular():
		return nil, "it is no plain file", nil
	}
	r, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, "", err
	}
	defer r.Close()
	if fi, err = r.Stat(); err != nil {
		return nil, "", err
	}
	if !fi.Mode().IsRegular() {
		return nil, "it is no plain file", nil
	}
	text, err := readText(r)
	if errors.Is(err, errLong) {
		return nil, err.Error(), nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", name, err)
	}
	f = parseEnv(name, text)
	if len(f.vars) == 0 {
		return nil, "", nil
	}
	if why := othersWrite(r, fi); why != "" {
		if len(f.ours()) == 0 {
			why = "" // nothing in it is for 9ci
		}
		return nil, why, nil
	}
	return f, "", nil
}

var errLong = fmt.Errorf("it has more than %d bytes", maxFile)

func readText(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = errLong
	}
	return string(b), err
}

// parseEnv reads lines NAME=VALUE as sh(1) reads assignments, but expands nothing:
// a blank ends an unquoted value; single and double quotes quote; a backslash
// quotes the next character, except in single quotes. A value in quotes may go on
// over several lines. A leading export is skipped. Other lines are skipped too:
// most of a .env is for other programs.
func parseEnv(name, text string) *envFile {
	f := &envFile{name: name, vars: make(map[string]setting)}
	text = strings.ReplaceAll(strings.TrimPrefix(text, "\ufeff"), "\r\n", "\n")
	for line := 1; text != ""; {
		n := f.parseLine(text, line)
		for i, l := range strings.Split(text[:n], "\n")[1:] {
			if name, value := assigned(l); strings.HasPrefix(name, "CI_") && strings.HasPrefix(value, "=") {
				f.hidden = append(f.hidden, hidden{name, line + i + 1, line})
			}
		}
		line += strings.Count(text[:n], "\n") + 1
		text = strings.TrimPrefix(text[n:], "\n")
	}
	return f
}

// parseLine reads the assignment at the start of text, if there is one. It returns
// the length of the lines that were read, without the last newline.
func (f *envFile) parseLine(text string, line int) (n int) {
	first, _, _ := strings.Cut(text, "\n")
	name, value := assigned(first)
	if name == "" {
		return skip(text)
	}
	if !strings.HasPrefix(value, "=") {
		if strings.HasPrefix(name, "CI_") {
			f.vars[name] = setting{line: line, err: errors.New("want NAME=VALUE, without blanks around =")}
		}
		return skip(text)
	}
	at := len(first) - len(value) + 1
	v, n, err := word(text[at:])
	f.vars[name] = setting{v, line, err}
	if err != nil {
		return max(skip(text), at+n)
	}
	return at + n
}

// assigned returns the name at the start of a line, and what follows it. The name
// is empty for a comment, and for an export that assigns nothing.
func assigned(line string) (name, rest string) {
	line = strings.TrimLeft(line, " \t")
	exported := false
	if after, ok := strings.CutPrefix(line, "export"); ok && strings.TrimLeft(after, " \t") != after {
		line, exported = strings.TrimLeft(after, " \t"), true
	}
	i := 0
	for i < len(line) && nameByte(line[i]) {
		i++
	}
	name, rest = line[:i], line[i:]
	if !validName(name) || exported && !strings.HasPrefix(strings.TrimLeft(rest, " \t"), "=") {
		return "", line
	}
	return name, rest
}

// skip returns the length of a line for other programs. If a quote begins its
// value, the line goes on to the closing quote, as other readers of .env files
// have it. These also take blanks around the =, a colon in its place, and names
// that sh(1) does not.
func skip(text string) int {
	end := strings.IndexByte(text, '\n')
	if end < 0 {
		return len(text)
	}
	i := strings.IndexAny(text[:end], "=:#")
	if i < 0 || text[i] == '#' {
		return end
	}
	for i++; i < end && (text[i] == ' ' || text[i] == '\t'); i++ {
	}
	quote := text[i]
	if quote != '\'' && quote != '"' && quote != '`' {
		return end
	}
	for i++; i < len(text); i++ {
		switch {
		case text[i] == '\\' && quote != '\'':
			i++
		case text[i] == quote:
			if n := strings.IndexByte(text[i:], '\n'); n >= 0 {
				return i + n
			}
			return len(text)
		}
	}
	return end // no closing quote
}

// word reads the value at the start of text. n is the length of its lines without
// the last newline; if a quote is never closed, that of the first line.
func word(text string) (value string, n int, err error) {
	var b strings.Builder
	var quote byte
	line := func(i int) int { // returns the end of the line that holds text[i]
		if n := strings.IndexByte(text[i:], '\n'); n >= 0 {
			return i + n
		}
		return len(text)
	}
	opened := 0 // the place of the opening quote; 0 if it begins the value
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\n' && quote == 0:
			return b.String(), i, nil
		case c == '\n' && opened > 0:
			return "", i, fmt.Errorf("no closing %c", quote)
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && quote != '\'':
			i++
			if i == len(text) || quote == 0 && text[i] == '\n' {
				return "", line(i), errors.New("a backslash ends the line")
			}
			if quote == '"' && text[i] == '\n' {
				if opened > 0 {
					return "", i, fmt.Errorf("no closing %c", quote)
				}
				continue // join the lines
			}
			// In double quotes sh(1) takes \ away only before these.
			if quote == '"' && !strings.ContainsRune("\\\"$`", rune(text[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(text[i])
		case quote != 0:
			b.WriteByte(c)
		case c == '\'' || c == '"':
			quote, opened = c, i
		case c == ' ' || c == '\t':
			end := line(i)
			if rest := strings.TrimSpace(text[i:end]); rest != "" && rest[0] != '#' {
				return "", end, errors.New("more than one word: quote the value")
			}
			return b.String(), end, nil
		default:
			b.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", line(0), fmt.Errorf("no closing %c", quote)
	}
	return b.String(), len(text), nil
}

func validName(s string) bool {
	for i := range len(s) {
		if !nameByte(s[i]) || i == 0 && s[i] >= '0' && s[i] <= '9' {
			return false
		}
	}
	return s != ""
}

func nameByte(c byte) bool {
	return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
}
