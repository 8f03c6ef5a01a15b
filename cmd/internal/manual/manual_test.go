package manual

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every command of a program's synopsis has a section of its own, and help shows it
// with its line of the synopsis.
func TestHelp(t *testing.T) {
	for _, program := range []string{"9ci", "orchestrator"} {
		all, err := Help(program, "")
		if err != nil {
			t.Fatal(err)
		}
		commands := regexp.MustCompile(`(?m)^\t`+program+` \[?([a-z]+)`).FindAllStringSubmatch(all, -1)
		if len(commands) < 6 {
			t.Errorf("the synopsis of %s has %d commands", program, len(commands))
		}
		for _, m := range commands {
			text, err := Help(program, m[1])
			if err != nil {
				t.Errorf("%s help %s: %v", program, m[1], err)
				continue
			}
			if usage, rest, ok := strings.Cut(text, "\n\n# "); !strings.HasPrefix(usage, m[0]) || !ok || strings.Count(rest, "\n") < 3 {
				t.Errorf("%s help %s = %q", program, m[1], text)
			}
		}
	}
}

func TestHelpTopics(t *testing.T) {
	for _, test := range []struct{ topic, begins, has string }{
		{"exit status", "# Exit status\n", "126"},
		{"Exit Status", "# Exit status\n", "126"},
		{"serve", "\t9ci serve [", "\n# Serve: the daemon\n"},
		{"serve: the daemon", "# Serve: the daemon\n", "repo PATH"},
		{"9ci", "9ci(1): ", "\n# Exit status\n"},
		{"ci", "ci(4): ", "artifacts.mtree"},
		{"ci(4)", "ci(4): ", "artifacts.mtree"},
		{"mk", "mk(1): ", "\n# Attributes\n"},
		{"orchestrator", "orchestrator(8): ", "authorized_keys"},
		{"tutorial", "9ci-tutorial(7): ", "mkfile"},
		{"9ci-tutorial", "9ci-tutorial(7): ", "mkfile"},
	} {
		text, err := Help("9ci", test.topic)
		if err != nil || !strings.HasPrefix(text, test.begins) || !strings.Contains(text, test.has) {
			t.Errorf("9ci help %s: %v, %.300q", test.topic, err, text)
		}
	}
	topics := Topics("9ci")
	for _, topic := range topics {
		if _, err := Help("9ci", topic); err != nil {
			t.Errorf("9ci help %s: %v", topic, err)
		}
	}
	for _, topic := range []string{"tutorial", "ci", "environment", "exit status"} {
		if !slices.Contains(topics, topic) {
			t.Errorf("the topics %q have no %q", topics, topic)
		}
	}
	for _, topic := range []string{"nosuch", "ru", "and", " ", "the daemon"} {
		if text, err := Help("9ci", topic); err == nil {
			t.Errorf("9ci help %q = %.80q, want an error", topic, text)
		}
	}
}

// The man pages are clean by mandoc -Tlint, groff has nothing to say of them, and they show
// the words that go doc shows, in the same order.
func TestMan(t *testing.T) {
	dir := t.TempDir()
	if err := Write(dir, time.Unix(1764150866, 0).UTC(), "0123456"); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]string{"man1/9ci.1": "9ci", "man1/mk.1": "mk", "man4/ci.4": "ci", "man7/9ci-tutorial.7": "tutorial", "man8/orchestrator.8": "orchestrator"} {
		file := filepath.Join(dir, name)
		if out, err := exec.Command("mandoc", "-Tlint", file).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("mandoc -Tlint %s: %v\n%.2000s", name, err, out)
		}
		out, err := exec.Command("mandoc", "-Tutf8", "-Owidth=500", file).Output()
		if err != nil {
			t.Fatal(err)
		}
		text := regexp.MustCompile(`.\x08`).ReplaceAllString(string(out), "") // bold
		for _, words := range []string{"2025-11-26", "9ci 0123456"} {
			if !strings.Contains(text, words) {
				t.Errorf("%s does not say %s", name, words)
			}
		}
		whole, err := Help("9ci", p)
		if err != nil {
			t.Fatal(err)
		}
		_, whole, _ = strings.Cut(whole, "\n")
		_, text, _ = strings.Cut(text, "\nNAME\n") // the first line, and the name with its title
		_, text, _ = strings.Cut(text, "\n")
		text = text[:strings.LastIndex(strings.TrimSpace(text), "\n")] // the last line, with the date
		got, want := words(text), words(whole)
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Errorf("%s has %q, and the text %q", name, got[max(0, i-5):min(len(got), i+5)], want[max(0, i-5):min(len(want), i+5)])
				break
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s has %d words, and the text %d", name, len(got), len(want))
		}
	}
}

// words returns the words of a manual, in lower case and without what only one of the forms
// has: marks of headings and of items, and the headings of a page's first parts.
func words(text string) []string {
	text = regexp.MustCompile(`(?m)^(# Description|SYNOPSIS|DESCRIPTION)$`).ReplaceAllString(text, "")
	return slices.DeleteFunc(strings.Fields(strings.ToLower(text)), func(s string) bool { return s == "#" || s == "-" || s == "•" })
}

// A text of any kind stands in the page as it is.
func TestManEscapes(t *testing.T) {
	const text = `X does.

	x [-a]

# Heads "are" 'quoted' \n

.TH begins a line, and a paragraph. 'tis so: \fB \(co ` + "`a` ^ ~ -b" + ` é §.

	.so /etc/passwd
	'\" t
	\*[x] \n[y]	tab

Between.

 1. one
 2. two .de x

Last.
`
	p := newPage("x", 1, `a "title" - of \f`, text)
	file := filepath.Join(t.TempDir(), "x.1")
	cmd := exec.Command("sh", "-c", "cat >$1; mandoc -Tutf8 $1", "sh", file)
	cmd.Stdin = strings.NewReader(string(p.man(time.Unix(0, 0), `v"1`)))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`.\x08`).ReplaceAllString(string(out), "")
	for _, want := range []string{
		`x - a "title" - of \f`,
		`HEADS "ARE" 'QUOTED' \N`,
		`.TH begins a line, and a paragraph. 'tis so: \fB \(co ` + "`a` ^ ~ -b é",
		"\n           .so /etc/passwd\n           '\\\" t\n           \\*[x] \\n[y]    tab",
		"1.  one",
		"two .de x",
		`9ci v"1`,
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("the page has no %q:\n%s", want, shown)
		}
	}
	groff := exec.Command("groff", "-ww", "-man", "-Tutf8", file)
	if out, err := groff.CombinedOutput(); err != nil || !strings.Contains(string(out), "/etc/passwd") || strings.Contains(string(out), "warning") {
		t.Errorf("groff: %v\n%s", err, out)
	}
}
