// Package manual shows the manuals: on a terminal, and as man pages. Both are made of
// the text that go doc shows.
package manual

import (
	"fmt"
	"go/ast"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"slices"
	"strings"

	"9ci/cmd"
	"9ci/fs/ci"
)

// A Page is a manual.
type Page struct {
	Name    string
	Section int    // of man(1)
	Title   string // what Name is, in a few words

	synopsis string // a line a command; "" if the page is of no program
	sections []section
}

// A section is a heading, and what follows it up to the next one. What stands before the
// first heading is called Description.
type section struct {
	title  string
	blocks []comment.Block
}

// Pages returns all manuals.
func Pages() []*Page {
	return []*Page{
		newPage("9ci", 1, "run the tests of a repository once, and replay the run elsewhere", program("9ci/doc.go")),
		newPage("mk", 1, "maintain related files", program("mk/doc.go")),
		newPage("ci", 4, "the tree of files that an executor serves", fromHeading(documentation("fs/ci/doc.go", ci.Manual))),
		newPage("9ci-tutorial", 7, "9ci in ten minutes", file("9ci/tutorial.md")),
		newPage("orchestrator", 8, "a 9P mux over the trees of connected executors", program("orchestrator/doc.go")),
	}
}

// cited returns how other manuals name the page: 9ci(1).
func (p *Page) cited() string { return fmt.Sprintf("%s(%d)", p.Name, p.Section) }

// file returns the text of a manual that is no program's.
func file(name string) string {
	b, err := cmd.Manuals.ReadFile(name)
	if err != nil {
		panic(err) // it is embedded
	}
	return string(b)
}

// program returns the documentation of a program.
func program(name string) string { return documentation(name, file(name)) }

// documentation returns the documentation of a package.
func documentation(name, source string) string {
	f, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		panic(err) // it has been compiled
	}
	return (&ast.CommentGroup{List: f.Doc.List}).Text()
}

// fromHeading returns text from its first heading on: what a package's documentation has
// before that is for its importers.
func fromHeading(text string) string { return text[strings.Index(text, "\n# ")+1:] }

// newPage makes a page of a text in the form of Go's doc comments. The first block of code
// before any heading is the synopsis.
func newPage(name string, n int, title, text string) *Page {
	p := &Page{Name: name, Section: n, Title: title, sections: []section{{title: "Description"}}}
	for _, b := range new(comment.Parser).Parse(text).Content {
		last := &p.sections[len(p.sections)-1]
		switch b := b.(type) {
		case *comment.Heading:
			if t := plain(b.Text); t != last.title {
				p.sections = append(p.sections, section{title: t})
			}
			continue
		case *comment.Code:
			if p.synopsis == "" && len(p.sections) == 1 {
				p.synopsis = b.Text
				continue
			}
		case *comment.Paragraph:
			if plain(b.Text) == "Usage:" {
				continue
			}
		}
		last.blocks = append(last.blocks, b)
	}
	p.sections = slices.DeleteFunc(p.sections, func(s section) bool { return len(s.blocks) == 0 })
	return p
}

// plain returns text without what links and italics are marked by.
func plain(text []comment.Text) string {
	var b strings.Builder
	for _, t := range text {
		switch t := t.(type) {
		case comment.Plain:
			b.WriteString(string(t))
		case comment.Italic:
			b.WriteString(string(t))
		case *comment.Link:
			b.WriteString(plain(t.Text))
		case *comment.DocLink:
			b.WriteString(plain(t.Text))
		}
	}
	return b.String()
}

// about tells whether a section is what topic, in lower case, stands for: its title, what
// precedes a colon there, or one of the commands that this lists.
func (s section) about(topic string) bool {
	title := strings.ToLower(s.title)
	names, _, _ := strings.Cut(title, ":")
	list := strings.Split(strings.ReplaceAll(names, " and ", ", "), ", ")
	return topic == title || topic == names || slices.Contains(list, topic)
}

// text returns sections as go doc prints them.
func text(sections ...section) string {
	d := new(comment.Doc)
	for _, s := range sections {
		d.Content = append(append(d.Content, &comment.Heading{Text: []comment.Text{comment.Plain(s.title)}}), s.blocks...)
	}
	return string(new(comment.Printer).Text(d))
}

// usage returns the lines of a page's synopsis that are of a command, or all for the
// command "".
func (p *Page) usage(command string) string {
	var b strings.Builder
	for line := range strings.Lines(p.synopsis) {
		if f := strings.Fields(line); command == "" || len(f) > 1 && strings.Trim(f[1], "[]") == command {
			b.WriteString("\t" + line)
		}
	}
	return b.String()
}

// Help returns what a program's manual says of a topic: a command, or a section by its
// title; the whole of a manual that has the topic's name, also as ci(4) is cited, and for
// 9ci-tutorial also tutorial; and for "" what there is. It is an error if there is no such topic.
func Help(program, topic string) (string, error) {
	pages := Pages()
	own := pages[slices.IndexFunc(pages, func(p *Page) bool { return p.Name == program })]
	if topic == "" {
		return overview(own, pages), nil
	}
	for _, p := range pages {
		if topic == p.Name || topic == p.cited() || topic == strings.TrimPrefix(p.Name, "9ci-") {
			head := fmt.Sprintf("%s: %s\n\n", p.cited(), p.Title)
			if p.synopsis != "" {
				head += p.usage("") + "\n"
			}
			return head + text(p.sections...), nil
		}
	}
	var found []section
	for _, s := range own.sections {
		if s.about(strings.ToLower(topic)) {
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return "", fmt.Errorf("the manual has no command and no section %q: %s help lists them", topic, program)
	}
	usage := own.usage(topic)
	if usage != "" {
		usage += "\n"
	}
	return usage + text(found...), nil
}

// Topics returns what Help takes besides commands: the names of manuals, and the sections
// of the program's own by theirs, in lower case.
func Topics(program string) (topics []string) {
	for _, p := range Pages() {
		topics = append(topics, p.Name)
		if short, ok := strings.CutPrefix(p.Name, "9ci-"); ok {
			topics = append(topics, short)
		}
		if p.Name != program {
			continue
		}
		for _, s := range p.sections {
			name, _, _ := strings.Cut(strings.ToLower(s.title), ":")
			if p.usage(name) == "" && !strings.Contains(name, ", ") { // a list is of commands
				topics = append(topics, name)
			}
		}
	}
	return topics
}

// overview says what the manual of a program has, and which others there are.
func overview(own *Page, pages []*Page) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\n%s\n", own.Name, own.Title, own.usage(""))
	fmt.Fprintf(&b, "%s help COMMAND prints what the manual says of a command, and\n%s help TOPIC one of these sections:\n\n", own.Name, own.Name)
	for _, s := range own.sections {
		fmt.Fprintf(&b, "\t%s\n", s.title)
	}
	fmt.Fprintf(&b, "\n%s help NAME prints a whole manual. Where they are installed, man shows them too:\n\n", own.Name)
	for _, p := range pages {
		fmt.Fprintf(&b, "\t%-16s %s\n", p.cited(), p.Title)
	}
	return b.String()
}
