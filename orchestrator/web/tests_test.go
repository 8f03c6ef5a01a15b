package web

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"9ci/fs/ci"
)

// The page of a run has its tests and services, whose names are somebody else's.
func TestTestsAndServices(t *testing.T) {
	_, x, b := newReadSite(t)
	var tests strings.Builder
	for i := range 400 {
		fmt.Fprintf(&tests, "pkg/Test%d passed 0.100\n", i)
	}
	fmt.Fprintf(&tests, "%s failed 2.500\n", ci.Quote("\u202e"+evilText))
	tests.WriteString("pkg/TestSkip skipped -\nno line\npkg/X exploded 1.000\n'no end failed 1.000\n")
	dir := x.run(testRun, "failed", map[string]string{
		"tests":                 tests.String(),
		"service/db/log":        logLines(3, func(i int) string { return fmt.Sprint("ready ", evilText, i) }),
		"service/a b%2f<&>/log": logLines(1, func(int) string { return "odd" }),
		"service/file":          "no directory",
	})
	at := "/run/box/" + testRun + "/" + testSpace
	doc, _ := b.page(at)
	text := words(doc)
	for _, want := range []string{"400 passed, 1 failed, 1 skipped.", "\ufffd" + evilText + "failed2.5 s", "Log of db", "Log of a b%2f<&>"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "pkg/Test") || strings.Contains(text, "Log of file") {
		t.Errorf("the page has too much:\n%s", text)
	}
	all := "/tests/box/" + testRun + "/" + testSpace
	hasLink(t, doc, all)
	for _, name := range []string{"service.db", "service.a%20b%252f%3C&%3E"} {
		log := "/log/box/" + testRun + "/" + name + "/" + testSpace
		hasLink(t, doc, log)
		if text := words(first(b.page(log))); !strings.Contains(text, "Log of the service ") || !strings.Contains(text, "odd") && !strings.Contains(text, "ready "+evilText+"3") {
			t.Errorf("GET %s: %s", log, text)
		}
	}
	rows := func(query string) (names []string) {
		for _, n := range tags(first(b.page(all+query)), "th") {
			if attr(n, "scope") == "row" {
				names = append(names, words(n))
			}
		}
		return names
	}
	if got := rows(""); len(got) != perTests || got[0] != "pkg/Test0" {
		t.Errorf("%d tests on a page: %.5q", len(got), got)
	}
	hasLink(t, first(b.page(all)), "?from=250")
	if got := rows("?from=250"); len(got) != 152 || got[151] != "pkg/TestSkip" {
		t.Errorf("%d tests on the second page", len(got))
	}
	if got := rows("?state=failed"); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", []string{"\ufffd" + evilText}) {
		t.Errorf("those that failed: %q", got)
	}
	if got := rows("?q=TEST39&state=passed"); len(got) != 11 {
		t.Errorf("a search: %q", got)
	}
	for query, want := range map[string]string{"?q=%3Cscript%3Enone": "No test is like that.", "?state=nonsense&from=-5": "pkg/Test0"} {
		if text := words(first(b.page(all + query))); !strings.Contains(text, want) {
			t.Errorf("%s: %s", query, text)
		}
	}
	// A run has neither until its tree has.
	x.run("3f2a9c1d0b7e.2", "passed", nil)
	if text := words(first(b.page("/run/box/3f2a9c1d0b7e.2/" + testSpace))); strings.Contains(text, "Services") || strings.Contains(text, "All tests") {
		t.Errorf("a run without tests: %s", text)
	}
	for _, path := range []string{"/tests/box/3f2a9c1d0b7e.2/", "/log/box/" + testRun + "/service./", "/log/box/" + testRun + "/service.../", "/log/box/" + testRun + "/service.a%2f..%2f..%2f..%2fdb/", "/log/box/" + testRun + "/service.absent/"} {
		if a := b.get(path + testSpace); a.Code != http.StatusNotFound {
			t.Errorf("GET %s = %d", path, a.Code)
		}
	}
	// The list of tests is too long to be read whole for the page of a run.
	x.write(dir+"/tests", strings.Repeat("pkg/TestAgain failed 1.000\n", fewTests/lineWork+10))
	if text := words(first(b.page(at))); !strings.Contains(text, "there are more") || !strings.Contains(text, "All that failed") {
		t.Errorf("with very many tests: %s", text)
	}
}

// first returns the first of what page returns.
func first(doc *html.Node, _ answer) *html.Node { return doc }
