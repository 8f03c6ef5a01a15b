package cmd_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// play is a program: play FILE types the commands of a tutorial into a shell, and holds what
// that prints against what the tutorial shows. A command is an indented line that begins
// with $, and with <<'EOF' also the lines up to EOF. What it prints follows: ... stands for
// any text, alone on a line for any lines.
func play() {
	text, err := os.ReadFile(os.Args[1])
	if err == nil {
		err = playText(string(text))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A typed is a command of a tutorial.
type typed struct{ command, prints string }

func playText(text string) error {
	var all []typed
	until := "" // the line that ends what a command reads
	for line := range strings.Lines(text) {
		line, indented := strings.CutPrefix(line, "\t")
		switch command, ok := strings.CutPrefix(line, "$ "); {
		case !indented:
		case until != "":
			last := &all[len(all)-1]
			last.command += line
			if strings.TrimSpace(line) == until {
				until = ""
			}
		case ok:
			all = append(all, typed{command: command})
			if strings.HasSuffix(command, "<<'EOF'\n") {
				until = "EOF"
			}
		case len(all) == 0:
			return fmt.Errorf("no command prints %q", line)
		default:
			all[len(all)-1].prints += line
		}
	}
	if len(all) < 10 {
		return fmt.Errorf("there are %d commands", len(all))
	}

	const mark = "status of the last command:"
	sh := exec.Command("sh")
	sh.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := sh.StdinPipe()
	if err != nil {
		return err
	}
	out, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	sh.Stdout, sh.Stderr = w, w
	if err := sh.Start(); err != nil {
		return err
	}
	defer sh.Wait()
	defer syscall.Kill(-sh.Process.Pid, syscall.SIGTERM) // a daemon that the tutorial has not ended, too
	w.Close()
	lines := bufio.NewReader(out)
	for _, c := range all {
		fmt.Fprintf(stdin, "%ss=$?; echo \"%s\"; (exit $s)\n", c.command, mark)
		var printed strings.Builder
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return fmt.Errorf("$ %s%s%w", c.command, &printed, err)
			}
			before, ok := strings.CutSuffix(line, mark+"\n")
			printed.WriteString(before)
			if ok {
				break
			}
		}
		fmt.Printf("$ %s%s", c.command, &printed)
		if !c.pattern().MatchString(printed.String()) {
			return fmt.Errorf("it printed\n%sand the tutorial has\n%s", &printed, c.prints)
		}
		if strings.HasSuffix(c.command, "&\n") {
			if err := waitForFile(filepath.Join(os.Getenv("NAMESPACE"), "9ci"), ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// pattern returns what a command's output is to match.
func (c typed) pattern() *regexp.Regexp {
	p := regexp.QuoteMeta(c.prints)
	p = regexp.MustCompile(`(?m)^\\\.\\\.\\\.\n`).ReplaceAllString(p, `(?:.*\n)*?`)
	p = strings.ReplaceAll(p, `\.\.\.`, `.*`)
	return regexp.MustCompile(`^` + p + `$`)
}

// The README's first mkfile is that of the tutorial, which a story plays.
func TestReadmeMkfile(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	tutorial, err := os.ReadFile("9ci/tutorial.md")
	if err != nil {
		t.Fatal(err)
	}
	_, mkfile, ok := strings.Cut(string(readme), "\n\ttest:V:\n")
	mkfile, _, _ = strings.Cut("\ttest:V:\n"+mkfile, "\n\n")
	if n := strings.Count(mkfile, "\n") + 1; !ok || n != 6 || !strings.Contains(string(tutorial), "\n"+mkfile+"\n\tEOF\n") {
		t.Errorf("the README's mkfile has %d lines, and is not the tutorial's:\n%s", n, mkfile)
	}
}
