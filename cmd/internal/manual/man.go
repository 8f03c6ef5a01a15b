package manual

import (
	"fmt"
	"go/doc/comment"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Write writes all manuals as man pages: NAME.N into the directory manN of dir, which it
// makes. They are of the day of t and of a version of 9ci.
func Write(dir string, t time.Time, version string) error {
	for _, p := range Pages() {
		d := filepath.Join(dir, fmt.Sprintf("man%d", p.Section))
		if err := os.MkdirAll(d, 0o777); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("%s.%d", p.Name, p.Section)), p.man(t, version), 0o666); err != nil {
			return err
		}
	}
	return nil
}

// man returns the page in the language man(7).
func (p *Page) man(t time.Time, version string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s %d %s %s\n", arg(strings.ToUpper(p.Name)), p.Section, t.Format(time.DateOnly), arg("9ci "+version))
	b.WriteString(`.SH NAME
` + esc(p.Name) + ` \- ` + esc(p.Title) + "\n")
	if p.synopsis != "" {
		b.WriteString(".SH SYNOPSIS\n.nf\n" + lines(p.synopsis) + ".fi\n")
	}
	for _, s := range p.sections {
		fmt.Fprintf(&b, ".SH %s\n", arg(strings.ToUpper(s.title)))
		writeBlocks(&b, s.blocks)
	}
	return []byte(b.String())
}

// writeBlocks writes what is below a heading, or in an item of a list. A macro begins all
// but the first paragraph there.
func writeBlocks(b *strings.Builder, blocks []comment.Block) {
	for i, block := range blocks {
		switch block := block.(type) {
		case *comment.Paragraph:
			if i > 0 {
				b.WriteString(".PP\n")
			}
			b.WriteString(prose(plain(block.Text)))
		case *comment.Code:
			if i > 0 {
				b.WriteString(".PP\n")
			}
			b.WriteString(".RS 4\n.nf\n" + lines(block.Text) + ".fi\n.RE\n")
		case *comment.List:
			for _, item := range block.Items {
				mark := `\(bu`
				if item.Number != "" {
					mark = item.Number + "."
				}
				b.WriteString(".IP " + mark + " 4\n")
				for j, part := range item.Content {
					if j > 0 {
						b.WriteString(".IP\n")
					}
					b.WriteString(prose(plain(part.(*comment.Paragraph).Text))) // an item has nothing else
				}
			}
		}
	}
}

// prose returns text that is filled, in lines of 80 bytes at most as mandoc -Tlint wants
// them.
func prose(text string) string {
	var b strings.Builder
	n := 0 // bytes of the last line
	for word := range strings.FieldsSeq(text) {
		switch l := len(esc(word)); {
		case n == 0:
			n = l
		case n+1+l > 78: // a dot at the beginning of a line takes two more
			b.WriteByte('\n')
			n = l
		default:
			b.WriteByte(' ')
			n += 1 + l
		}
		b.WriteString(word)
	}
	return lines(b.String() + "\n")
}

// lines returns text that no line of which is taken for a request.
func lines(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			b.WriteString(`\&`)
		}
		b.WriteString(esc(line))
	}
	return b.String()
}

// arg returns an argument of a macro.
func arg(s string) string { return `"` + strings.ReplaceAll(esc(s), `"`, `\(dq`) + `"` }

// esc returns text in which each character stands for itself, in print and where a reader
// copies it to a shell: see groff_char(7).
func esc(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch r {
		case '\\':
			b.WriteString(`\e`)
		case '-':
			b.WriteString(`\-`)
		case '\'':
			b.WriteString(`\(aq`)
		case '`':
			b.WriteString(`\(ga`)
		case '^':
			b.WriteString(`\(ha`)
		case '~':
			b.WriteString(`\(ti`)
		default:
			if r < 0x80 {
				b.WriteRune(r)
			} else {
				fmt.Fprintf(&b, `\[u%04X]`, r)
			}
		}
	}
	return b.String()
}
