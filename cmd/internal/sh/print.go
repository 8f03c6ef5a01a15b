package sh

import (
	"fmt"
	"strconv"
	"strings"
)

// echo interprets backslashes, and has one option, -n.
func echo(s *shell, args []string) int {
	args = args[1:]
	end := "\n"
	if len(args) > 0 && args[0] == "-n" {
		args, end = args[1:], ""
	}
	text, stop := unescape(strings.Join(args, " "), true)
	if stop {
		end = ""
	}
	return s.print("echo", text+end)
}

// unescape interprets the backslashes of printf(1). Where zero is set, those of echo
// and %b: octal numbers begin with \0 there too, and \c is the end of all output.
func unescape(text string, zero bool) (_ string, stop bool) {
	if !strings.Contains(text, "\\") {
		return text, false
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		i++
		switch c := text[i]; {
		case c == 'c' && zero:
			return b.String(), true
		case '0' <= c && c <= '7':
			most := 3
			if zero && c == '0' {
				most = 4
			}
			n := 0
			j := i
			for ; j < len(text) && j < i+most && '0' <= text[j] && text[j] <= '7'; j++ {
				n = n*8 + int(text[j]-'0')
			}
			i = j - 1
			b.WriteByte(byte(n))
		default:
			if k := strings.IndexByte(`abefnrtv\`, c); k >= 0 {
				b.WriteByte("\a\b\x1b\f\n\r\t\v\\"[k])
			} else {
				b.WriteByte('\\')
				b.WriteByte(c)
			}
		}
	}
	return b.String(), false
}

// printer is a printf under way.
type printer struct {
	s      *shell
	out    strings.Builder
	args   []string
	used   bool // an argument was
	status int
	stop   bool
}

func printf(s *shell, args []string) int {
	if len(args) > 1 && args[1] == "--" {
		args = args[1:]
	}
	if len(args) < 2 {
		s.errorf("usage: printf format [arg ...]")
		return 2
	}
	p := &printer{s: s, args: args[2:]}
	for {
		p.used = false
		if !p.format(args[1]) {
			p.status = 2
			break
		}
		if p.stop || len(p.args) == 0 || !p.used {
			break
		}
	}
	if status := s.print("printf", p.out.String()); status != 0 {
		return status
	}
	return p.status
}

// next takes the next argument, empty where there is none.
func (p *printer) next() string {
	p.used = true
	if len(p.args) == 0 {
		return ""
	}
	arg := p.args[0]
	p.args = p.args[1:]
	return arg
}

// format goes through the format once. It returns false if that is malformed.
func (p *printer) format(f string) bool {
	for f != "" && !p.stop {
		i := strings.IndexByte(f, '%')
		if i < 0 {
			i = len(f)
		}
		text, _ := unescape(f[:i], false)
		p.out.WriteString(text)
		if f = f[i:]; f == "" {
			break
		}
		if strings.HasPrefix(f, "%%") {
			p.out.WriteByte('%')
			f = f[2:]
			continue
		}
		f = f[1:]
		spec := "%" + p.take(&f, "#-+ 0") + p.width(&f)
		if strings.HasPrefix(f, ".") {
			f = f[1:]
			spec += "." + p.width(&f)
		}
		if f == "" {
			p.s.errorf("printf: missing format character")
			return false
		}
		if !p.convert(spec, f[0]) {
			return false
		}
		f = f[1:]
	}
	return true
}

// take takes bytes of a set off the format.
func (p *printer) take(f *string, set string) string {
	rest := strings.TrimLeft(*f, set)
	taken := (*f)[:len(*f)-len(rest)]
	*f = rest
	return taken
}

// width takes a number, or a * that stands for an argument.
func (p *printer) width(f *string) string {
	if strings.HasPrefix(*f, "*") {
		*f = (*f)[1:]
		return strconv.FormatInt(p.number(p.next()), 10)
	}
	return p.take(f, "0123456789")
}

func (p *printer) convert(spec string, c byte) bool {
	switch c {
	case 's':
		fmt.Fprintf(&p.out, spec+"s", byteString(p.next()))
	case 'b':
		text, stop := unescape(p.next(), true)
		p.stop = stop
		fmt.Fprintf(&p.out, spec+"s", byteString(text))
	case 'c':
		text := p.next() + "\x00"
		fmt.Fprintf(&p.out, spec+"s", byteString(text[:1]))
	case 'd', 'i':
		fmt.Fprintf(&p.out, integer(spec)+"d", p.number(p.next()))
	case 'u':
		fmt.Fprintf(&p.out, integer(spec)+"d", uint64(p.number(p.next())))
	case 'o', 'x', 'X':
		fmt.Fprintf(&p.out, integer(spec)+string(c), uint64(p.number(p.next())))
	case 'e', 'E', 'f', 'F', 'g', 'G':
		arg := p.next()
		n, err := strconv.ParseFloat(strings.TrimSpace(arg), 64)
		if err != nil && arg != "" {
			p.bad(arg)
		}
		if strings.IndexByte("gG", c) >= 0 && !strings.Contains(spec, ".") {
			spec += ".6"
		}
		fmt.Fprintf(&p.out, spec+string(c), n)
	default:
		p.s.errorf("printf: %%%c: invalid directive", c)
		return false
	}
	return true
}

// byteString is printed as bytes: widths and precisions do not count runes.
type byteString string

func (b byteString) Format(f fmt.State, _ rune) {
	text := string(b)
	if n, ok := f.Precision(); ok && n < len(text) {
		text = text[:n]
	}
	if n, ok := f.Width(); ok && n > len(text) {
		pad := strings.Repeat(" ", n-len(text))
		if f.Flag('-') {
			text += pad
		} else {
			text = pad + text
		}
	}
	f.Write([]byte(text))
}

// integer drops the 0 of a spec that also has a precision, or a -, as C does.
func integer(spec string) string {
	flags := strings.TrimLeft(spec[1:], "#-+ 0")
	if strings.Contains(spec, ".") || strings.Contains(spec, "-") {
		return "%" + strings.ReplaceAll(spec[1:len(spec)-len(flags)], "0", "") + flags
	}
	return spec
}

// number reads a number as C has it, or a quote and a character.
func (p *printer) number(arg string) int64 {
	if arg == "" {
		return 0
	}
	if arg[0] == '\'' || arg[0] == '"' {
		if len(arg) == 1 {
			return 0
		}
		return int64(arg[1])
	}
	text := strings.TrimSpace(arg)
	n, err := strconv.ParseInt(text, 0, 64)
	if err == nil && !strings.Contains(text, "_") && !strings.HasPrefix(strings.ToLower(strings.TrimLeft(text, "+-")), "0o") {
		return n
	}
	if u, err := strconv.ParseUint(text, 0, 64); err == nil {
		return int64(u)
	}
	p.bad(arg)
	// what of it is a number
	i := strings.IndexFunc(strings.TrimLeft(text, "+-"), func(r rune) bool { return r < '0' || r > '9' })
	if i > 0 {
		n, _ = strconv.ParseInt(text[:len(text)-len(strings.TrimLeft(text, "+-"))+i], 0, 64)
		return n
	}
	return 0
}

func (p *printer) bad(arg string) {
	p.s.errorf("printf: %s: expected numeric value", arg)
	p.status = 1
}
