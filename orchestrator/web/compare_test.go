package web

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"9ci/fs/ci"
)

// Two runs differ in a key, in artifacts and in their log, all by words of somebody else.
func TestCompare(t *testing.T) {
	_, x, b := newReadSite(t)
	const other = "3f2a9c1d0b7e.2"
	file := func(name string, digest byte) ci.Artifact {
		return ci.Artifact{Name: name, Mode: 0o644, Size: 5, Time: time.Unix(int64(digest), 0), Digest: [32]byte{digest}}
	}
	x.run(testRun, "passed", map[string]string{
		"key":             "arch=amd64\nenv=" + ci.Quote(evilText) + "\n",
		"artifacts.mtree": string(ci.FormatMtree([]ci.Artifact{file("<b>gone", 1), file("same", 2), file("size", 3)})),
		"step/test/log":   logLines(1000, func(i int) string { return fmt.Sprint("line ", i) }),
	})
	x.run(other, "failed", map[string]string{
		"key":             "arch=amd64\nenv=''\n",
		"artifacts.mtree": string(ci.FormatMtree([]ci.Artifact{file("same", 2), file("size", 4)})),
		"step/test/log": logLines(1000, func(i int) string {
			if i == 500 {
				return "\x1b[31m" + evilText
			}
			return fmt.Sprint("line ", i)
		}),
	})
	at := "/compare/" + testSpace
	doc, _ := b.page(at + "?run=box/" + testRun + "&run=box/" + other)
	rows := func(class string) (found []string) {
		for _, n := range all(doc, func(n *html.Node) bool { return attr(n, "class") == class }) {
			found = append(found, words(n))
		}
		return found
	}
	if got := rows("changed"); len(got) != 1 || !strings.Contains(got[0], "env differs"+evilText) {
		t.Errorf("the key: %q", got)
	}
	if del, add := rows("del"), rows("add"); fmt.Sprint(del, add) != "[-line 500] [+"+evilText+"]" {
		t.Errorf("the log: %q %q", del, add)
	}
	var files []string
	for _, n := range tags(doc, "tr") {
		if s := words(n); strings.Contains(s, "-rw") {
			files = append(files, s)
		}
	}
	if fmt.Sprint(files) != "[<b>gone-rw-r--r--, 5 B– size-rw-r--r--, 5 B-rw-r--r--, 5 B, other content]" {
		t.Errorf("the artifacts: %q", files)
	}
	if doc, _ := b.page(at + "?run=box/" + testRun + "&run=box/" + testRun); !strings.Contains(words(doc), "The logs are the same") || !strings.Contains(words(doc), "The artifacts are the same") {
		t.Error("a run differs from itself")
	}
	// One run, or none: the other is chosen.
	doc, _ = b.page("/run/box/" + testRun + "/" + testSpace)
	hasLink(t, doc, at+"?run="+url.QueryEscape("box/"+testRun))
	doc, _ = b.page(at + "?run=box/" + testRun)
	if n := len(tags(doc, "option")); n != 1 {
		t.Errorf("%d runs to compare with", n)
	}
	b.page(at)
	wants(t, "three runs", b.get(at+"?run=a/"+testRun+"&run=b/"+testRun+"&run=c/"+testRun), http.StatusBadRequest, "Two runs")
	for _, run := range []string{"..%2f..", "box/" + testRun + "/../x", "/", "box/x", "absent/" + testRun} {
		if a := b.get(at + "?run=box/" + testRun + "&run=" + run); a.Code != http.StatusNotFound {
			t.Errorf("with %s: %d", run, a.Code)
		}
	}
	// Logs that share nothing stay one page.
	x.write(testSpace+"/n/box/ci/"+other+"/step/test/log", logLines(20_000, func(i int) string { return fmt.Sprint("<other> ", i) }))
	b.page(at + "?run=box/" + testRun + "&run=box/" + other)
}
