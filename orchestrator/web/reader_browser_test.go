package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access/account"
	"9ci/orchestrator/internal/limit"
)

// enter logs alice in by a forge, and gives the browser the cookie of that.
func (c *chromium) enter() {
	c.t.Helper()
	b := c.site.browser()
	b.login(alice, "")
	call(c, network.SetCookie, network.SetCookieParams{Name: "9ci", Value: b.cookies["9ci"], URL: c.path("/"), Path: "/"})
}

// seen waits for what an XPath finds.
func (c *chromium) seen(xpath string) {
	c.t.Helper()
	c.run(chromedp.WaitVisible(chromedp.Search(xpath)))
}

// click clicks on what an XPath finds.
func (c *chromium) click(xpath string) {
	c.t.Helper()
	c.run(chromedp.Click(chromedp.Search(xpath)))
}

// eval returns what a script does.
func eval[T any](c *chromium, script string) T {
	c.t.Helper()
	return value(c, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
}

// holds waits until a script is true.
func (c *chromium) holds(script string) { c.t.Helper(); value(c, chromedp.Poll[bool](script)) }

// download clicks on what an XPath finds, and returns the name and the bytes of the file
// that the browser keeps.
func (c *chromium) download(xpath string) (name string, text []byte) {
	c.t.Helper()
	dir := c.t.TempDir()
	begun, ended := make(chan string, 8), make(chan string, 8) // what listens must not wait
	ctx, cancel := context.WithTimeout(c.ctx, actTime)
	defer cancel()
	err := chromedp.Listen(ctx, func(ev any) {
		switch ev := ev.(type) {
		case *cdpbrowser.EventDownloadWillBegin:
			begun <- ev.SuggestedFilename
		case *cdpbrowser.EventDownloadProgress:
			if ev.State != cdpbrowser.DownloadProgressStateInProgress {
				ended <- string(ev.State) + " " + ev.GUID
			}
		}
	})
	if err != nil {
		c.t.Fatal(err)
	}
	call(c, cdpbrowser.SetDownloadBehavior, cdpbrowser.SetDownloadBehaviorParams{
		Behavior: cdpbrowser.SetDownloadBehaviorBehaviorAllowAndName, DownloadPath: dir, EventsEnabled: new(true)})
	c.click(xpath)
	select {
	case state := <-ended:
		guid, ok := strings.CutPrefix(state, "completed ")
		if !ok {
			c.t.Fatalf("the download of %s ended: %s", xpath, state)
		}
		if text, err = os.ReadFile(filepath.Join(dir, guid)); err != nil {
			c.t.Fatal(err)
		}
		return <-begun, text
	case <-ctx.Done():
		c.t.Fatalf("the download of %s did not end", xpath)
	}
	return "", nil
}

// readable puts two runs into the site, which alice may read: one that failed, with a long
// log and artifacts, and one that passed.
func (c *chromium) readable() {
	c.t.Helper()
	x := newTestTree(c.t)
	x.index(
		"/n/box/ci/"+testRun+" failed 1 41.200 "+testTime+" - 3f2a9c1d0b7e0000000000000000000000000000 SHA256:alice -",
		"/n/box/ci/3f2a9c1d0b7e.2 passed 0 39.000 "+testTime+" - 3f2a9c1d0b7e0000000000000000000000000000 SHA256:alice -",
		indexLine(7, "passed", "SHA256:bob"))
	mtree := func(size int64) string {
		return string(ci.FormatMtree([]ci.Artifact{{Name: "out.txt", Mode: 0o644, Time: time.Unix(1, 0), Size: size}}))
	}
	line := func(i int) string {
		switch i {
		case 777:
			return "a Needle <b>of</b> red \x1b[31mtext\x1b[0m"
		case 900:
			return "wide " + strings.Repeat("x", 2000) + " end"
		}
		return fmt.Sprint("line ", i)
	}
	dir := x.run(testRun, "failed", map[string]string{
		"step/test/log": logLines(2000, line), "step/test/status": "failed 1 3.000 " + testTime + "\n",
		"step/boot/log":   logLines(3, func(i int) string { return fmt.Sprint("booting ", i) }),
		"artifacts.mtree": mtree(7),
	})
	x.run("3f2a9c1d0b7e.2", "passed", map[string]string{
		"step/test/log": logLines(2000, func(i int) string {
			if i == 1500 {
				return "another line 1500"
			}
			return line(i)
		}),
		"key":             "arch=arm64\ncommit=3f2a9c1d0b7e0000000000000000000000000000\nenv=''\ntarget=test\n",
		"artifacts.mtree": mtree(9),
	})
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewRGBA(image.Rect(0, 0, 40, 30))); err != nil {
		c.t.Fatal(err)
	}
	x.write(dir+"/artifacts/sub/dir/out.txt", "<b>one</b>\ntwo\n")
	x.write(dir+"/artifacts/picture.png", picture.String())
	x.write(dir+"/artifacts/page.html", "<script>alert(1)</script>")
	c.trees = &testTrees{t: c.t, dirs: map[string]fs.Dir{alice.Principal: x.root()}}
}

// A person reads from the list of namespaces down to a line of a log and an artifact, by
// links, buttons and fields alone: with the script, and without.
func TestReadBrowser(t *testing.T) {
	for _, script := range []bool{true, false} {
		t.Run(fmt.Sprintf("script=%v", script), func(t *testing.T) {
			c := startChromium(t, "http", nil)
			c.readable()
			c.enter()
			call(c, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !script})
			c.read(script)
		})
	}
}

func (c *chromium) read(script bool) {
	t := c.t
	c.open("/")
	c.run(chromedp.SendKeys(chromedp.ID("q"), "HELL\r"))
	c.seen(`//input[@id="q" and @value="hell"]`) // the next page
	c.click(`//main//a[.="` + testSpace + `"]`)
	// The runs: by state, by signer, by revision.
	rows := func(n int) { t.Helper(); c.seen(fmt.Sprintf(`//table[count(tbody/tr)=%d]`, n)) }
	rows(3)
	c.run(chromedp.SendKeys(chromedp.ID("state"), "failed"), chromedp.Submit(chromedp.ID("state")))
	rows(1)
	c.run(chromedp.WaitReady(chromedp.Search(`//select/option[@selected and .="failed"]`)))
	c.run(chromedp.SetValue(chromedp.ID("state"), ""), chromedp.SendKeys(chromedp.ID("signer"), "bob\r"))
	c.seen(`//input[@id="signer" and @value="bob"]`)
	rows(1)
	c.run(chromedp.Clear(chromedp.ID("signer")), chromedp.SendKeys(chromedp.ID("rev"), "3f2a9c\r"))
	c.seen(`//input[@id="rev" and @value="3f2a9c"]`)
	rows(2)
	c.click(`//a[.="` + testRun + `"]`)

	// The run: what failed is open, and the rest is folded.
	c.click(`//main//a[.="` + testSpace + `"]`)
	rows(3)
	c.click(`//a[.="` + testRun + `"]`)
	c.seen(`//details[@data-step="test" and @open]//code[.="line 2000"]`)
	c.seen(`//details[@data-step="boot" and not(@open)]`)
	c.click(`//details[@data-step="boot"]/summary`)
	if script {
		c.seen(`//details[@data-step="boot" and @open]//code[.="booting 3"]`)
	} else {
		c.seen(`//details[@data-step="boot" and @open]//a[.="Log of boot"]`)
	}
	c.click(`//details[@data-step="boot"]/summary`)
	c.seen(`//details[@data-step="boot" and not(@open)]`)
	c.click(`//details[@data-step="test"]//a[.="From the first line"]`)

	// The log: a search, and a link to a line, which is in sight and marked.
	c.seen(`//h1[.="Log of test"]`)
	c.run(chromedp.SendKeys(chromedp.ID("q"), "nEEDLE\r"))
	c.seen(`//div[@class="log"]/div[1]//span[@class="f1" and .="text"]`)
	c.click(`//div[@class="log"]//a[.="777"]`)
	c.seen(`//div[@id="L777"]/code[contains(., "a Needle <b>of</b> red text")]`)
	if at := value(c, chromedp.Location()); !strings.HasSuffix(at, "?from=777#L777") {
		t.Errorf("the line is at %s", at)
	}
	if !eval[bool](c, `(() => { const e = document.querySelector("#L777:target"), r = e.getBoundingClientRect(); return r.top >= 0 && r.bottom <= innerHeight && getComputedStyle(e).backgroundColor !== getComputedStyle(e.nextElementSibling).backgroundColor; })()`) {
		t.Error("line 777 is not in sight, or not marked")
	}
	c.click(`//nav//a[.="Last lines"]`)
	c.seen(`//div[@id="L2000"]`)
	c.click(`//main//a[.="` + testRun + `"]`)

	// Artifacts: a directory in a directory, a text, a picture, and a file to keep.
	c.click(`//nav//a[.="Artifacts"]`)
	c.click(`//main//a[.="sub/"]`)
	c.click(`//main//a[.="dir/"]`)
	c.click(`//main//a[.="out.txt"]`)
	c.seen(`//div[@class="log"]//code[.="<b>one</b>"]`)
	if name, text := c.download(`//a[.="Download"]`); name != "out.txt" || string(text) != "<b>one</b>\ntwo\n" {
		t.Errorf("the download is %q: %q", name, text)
	}
	c.click(`//nav[@aria-label="Directories above"]//a[.="Artifacts"]`)
	c.click(`//main//a[.="picture.png"]`)
	c.seen(`//img[@alt="picture.png"]`)
	c.holds(`document.querySelector("img").naturalWidth === 40`)
	c.click(`//nav[@aria-label="Directories above"]//a[.="Artifacts"]`)
	c.click(`//main//a[.="page.html"]`)
	if name, text := c.download(`//a[.="Download"]`); name != "page.html" || string(text) != "<script>alert(1)</script>" {
		t.Errorf("the download is %q: %q", name, text)
	}

	// Two runs side by side.
	c.open("/runs/" + testSpace)
	for _, run := range []string{testRun, "3f2a9c1d0b7e.2"} {
		c.click(`//input[@aria-label="Compare box/` + run + `"]`)
	}
	c.click(`//button[.="Compare two runs"]`)
	c.seen(`//tr[@class="changed" and th[contains(., "Key: arch")] and td[1]="amd64" and td[2]="arm64"]`)
	c.seen(`//tr[not(@class) and th[contains(., "Key: commit")]]`)
	c.seen(`//tr[th="out.txt"]/td[contains(., "9 B")]`)
	c.seen(`//div[@class="del" and code="line 1500"]`)
	c.seen(`//div[@class="add" and code="another line 1500"]`)
	// From a run, the other is chosen.
	c.click(`//thead//a[contains(., "` + testRun + `")]`)
	c.click(`//nav//a[.="Compare"]`)
	c.click(`//button[.="Compare"]`)
	c.seen(`//thead//a[contains(., ".2")]`)
	c.logout()
	// What was read stands behind the login now.
	c.open("/run/box/" + testRun + "/" + testSpace)
	c.seen(`//h1[.="Log in"]`)
}

// A person takes back what lets the account in: the page says that it was done, the thing
// is gone from it, and a browser that was logged out sees nothing more.
func TestRevokeBrowser(t *testing.T) {
	c := startChromium(t, "http", nil)
	c.readable()
	c.enter()
	const key = "SHA256:0123456789012345678901234567890123456789012"
	c.certificate(1700000001, alice.Principal, key)
	c.certificate(1700000002, alice.Principal, "SHA256:another")
	err := c.accounts.Change(alice.Principal, func(a *account.Account) error {
		a.Approve(key, "192.0.2.9")
		a.Approve("SHA256:another", "192.0.2.9")
		a.Passkeys = append(a.Passkeys, account.Passkey{ID: []byte("one"), Name: "old phone"})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	other := c.site.browser()
	other.login(alice, "")
	if !other.loggedIn() {
		t.Fatal("the other browser is not logged in")
	}
	c.open("/account")
	for _, do := range []struct{ button, words, gone string }{
		{"Revoke Certificate 1700000002", "The certificate was revoked.", "1700000002"},
		{"Revoke " + key, "The key was revoked, and its certificates with it.", key},
		{"Revoke old phone", "The passkey was revoked.", "old phone"},
		{"Log out test browser", "The browser was logged out.", "test browser"},
	} {
		// The last of that name: this browser came by the same kind as the other.
		c.click(`(//button[normalize-space(.)="` + do.button + `" and not(ancestor::li[contains(., "this one")])])[last()]`)
		c.seen(`//p[@role="status" and contains(., "` + do.words + `")]`)
		c.run(chromedp.WaitNotPresent(chromedp.Search(`//li[contains(., "` + do.gone + `") and not(contains(., "this one"))]`)))
	}
	if other.loggedIn() {
		t.Error("the browser that was logged out is still logged in")
	}
	if certs, err := c.authority.Certificates(alice.Principal); err != nil || len(certs) != 0 {
		t.Errorf("the certificates are %v, %v", certs, err)
	}
	c.click(`//section[@aria-labelledby="everything"]//button`)
	c.seen(`//h1[.="Log in"]`)
	c.open("/runs/" + testSpace)
	c.seen(`//h1[.="Log in"]`)
}

// A page that may not follow a run at present says so, and follows it once it may; or says
// after a while that it does not.
func TestLiveRefusedBrowser(t *testing.T) {
	c := startChromium(t, "http", nil)
	x := living(t, c.site)
	x.do(x.run.Enter("boot"))
	who := source(netip.MustParseAddr("127.0.0.1"))
	for c.limits.live.Take(who) == limit.Free {
	}
	lost := `//p[@id="said" and contains(., "has lost the run, and tries again")]`
	c.open(x.at.URL("run"))
	c.seen(lost)
	c.script("Date.now = () => 8e15") // much later
	c.seen(`//p[@id="said" and contains(., "does not follow the run any more")]`)

	c.open(x.at.URL("run"))
	c.seen(lost)
	c.limits.live.Give(who)
	x.say("now it comes\n")
	c.seen(`//code[contains(., "now it comes")]`)
	c.run(chromedp.WaitNotPresent(chromedp.Search(lost)))
	for _, step := range ci.Steps[1:] {
		x.do(x.run.Leave(step, "skipped", -1))
	}
	x.pass("boot")
	x.seal()
	c.seen(`//p[@id="said"][contains(., "The run has ended: passed.")]`)
}

// stop is where the focus stands.
type stop struct {
	What    string // the element
	Name    string
	Outline bool // it can be seen
	InSight bool
}

const focused = `(() => {
	const e = document.activeElement, r = e.getBoundingClientRect(), s = getComputedStyle(e);
	return {
		What: e.tagName.toLowerCase() + (e.type ? "." + e.type : "") + (e.classList.length ? "." + e.classList[0] : ""),
		Name: (e.getAttribute("aria-label") || e.labels?.[0]?.innerText || e.innerText || "").trim().split("\n")[0],
		Outline: s.outlineStyle === "solid" && parseFloat(s.outlineWidth) >= 2,
		InSight: r.bottom > 0 && r.top < innerHeight && r.right > 0 && r.left < innerWidth,
	};
})()`

// tab presses the key as often, and returns where the focus came by.
func (c *chromium) tab(n int) (stops []stop) {
	c.t.Helper()
	for range n {
		c.run(chromedp.KeyEvent("\t"))
		stops = append(stops, eval[stop](c, focused))
	}
	return stops
}

// By keyboard alone: the focus goes through the page in the order in which it is read, can
// be seen wherever it is, and passes over a log at one key.
func TestKeyboard(t *testing.T) {
	c := startChromium(t, "http", nil)
	c.readable()
	c.enter()
	walk := func(path string, want ...string) {
		t.Helper()
		c.open(path)
		for i, s := range c.tab(len(want)) {
			if got := s.What + " " + s.Name; got != want[i] || !s.Outline || !s.InSight {
				t.Errorf("%s: stop %d is %s (outline %v, in sight %v), want %s", path, i+1, got, s.Outline, s.InSight, want[i])
			}
		}
	}
	head := []string{"a.skip Skip to the content", "a 9ci", "a Namespaces", "a Account", "a Approve a key", "button.submit.plain Log out"}
	walk("/runs/"+testSpace, append(slices.Clone(head),
		"input.text Commit, tree, id or score", "select.select-one State", "input.text Signer", "button.submit.second Search",
		"div.scroll Runs", "input.checkbox Compare box/"+testRun, "a "+testRun, "input.checkbox Compare box/3f2a9c1d0b7e.2", "a 3f2a9c1d0b7e.2")...)
	walk("/log/box/"+testRun+"/test/"+testSpace, append(slices.Clone(head),
		"a "+testRun, "a "+testSpace, "input.search Search in this log", "button.submit.second Search", "a Later lines", "a Last lines", "a.skip Skip the lines")...)
	// Behind the lines stands what follows them.
	c.run(chromedp.KeyEvent("\r"))
	if s := c.tab(1)[0]; s.What+" "+s.Name != "a Later lines" || !s.InSight {
		t.Errorf("behind the lines: %+v", s)
	}
	walk("/run/box/"+testRun+"/"+testSpace, append(slices.Clone(head),
		"a "+testSpace, "a Artifacts", "a Whole log", "a Key", "a How to verify", "a Compare", "summary boot passed 1.0 s")...)
	// A step is unfolded by the keyboard, and its lines come.
	c.run(chromedp.KeyEvent("\r"))
	c.seen(`//details[@data-step="boot" and @open]//code[.="booting 3"]`)
	if s := c.tab(2); s[0].Name != "Log of boot" || s[1].Name != "Skip the lines" {
		t.Errorf("in the step: %+v", s)
	}
	c.run(chromedp.KeyEvent("\r"))
	if s := c.tab(1)[0]; s.What != "summary" || !strings.HasPrefix(s.Name, "clone") {
		t.Errorf("behind the lines of boot: %+v", s)
	}
	// The skip link leads past the head.
	c.open("/account")
	c.tab(1)
	c.run(chromedp.KeyEvent("\r"))
	if at := eval[string](c, "document.activeElement.id"); at != "main" {
		t.Errorf("the skip link leads to %q", at)
	}
	// A log is scrolled to the side by the keyboard.
	c.open("/log/box/" + testRun + "/test/" + testSpace + "?from=890")
	c.run(chromedp.Focus(chromedp.CSS(".log")))
	before := eval[float64](c, `document.querySelector(".log").scrollLeft`)
	for range 3 {
		call(c, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeRawKeyDown, Key: "ArrowRight", Code: "ArrowRight", WindowsVirtualKeyCode: 39})
		call(c, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyUp, Key: "ArrowRight", Code: "ArrowRight", WindowsVirtualKeyCode: 39})
	}
	c.holds(fmt.Sprintf(`document.querySelector(".log").scrollLeft > %f`, before))
}

// spoken returns what a screen reader finds in the page: a line for each node of a role
// that it tells, role and name.
func (c *chromium) spoken() (lines []string) {
	c.t.Helper()
	text := func(v *accessibility.Value) (s string) {
		if v != nil {
			json.Unmarshal(v.Value, &s)
		}
		return s
	}
	for _, n := range call(c, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes {
		if role := text(n.Role); !n.Ignored && !slices.Contains([]string{"none", "generic", "StaticText", "InlineTextBox", "ListMarker", "LineBreak", "LayoutTable", "LayoutTableRow", "LayoutTableCell"}, role) {
			lines = append(lines, role+" "+text(n.Name))
		}
	}
	return lines
}

// A screen reader finds names for all that can be acted on, and landmarks and headings to
// go by.
func TestScreenReader(t *testing.T) {
	c := startChromium(t, "http", nil)
	c.readable()
	c.enter()
	for path, want := range map[string][]string{
		"/": {"RootWebArea Namespaces – 9ci", "banner ", "navigation Pages", "main ", "search ", "heading Namespaces", "searchbox Part of a name"},
		"/runs/" + testSpace: {"heading " + testSpace, "textbox Commit, tree, id or score", "combobox State", "table ", "columnheader When",
			"checkbox Compare box/" + testRun, "link " + testRun},
		"/run/box/" + testRun + "/" + testSpace: {"heading Run " + testRun, "navigation Of this run", "region Log of test", "region Commands", "heading How to verify", "DisclosureTriangle boot passed 1.0 s",
			"status "},
		"/log/box/" + testRun + "/test/" + testSpace: {"heading Log of test", "region Log", "navigation Lines", "navigation More lines", "link 1"},
		"/compare/" + testSpace + "?run=box/" + testRun + "&run=box/3f2a9c1d0b7e.2": {"heading Two runs side by side", "rowheader State", "rowheader Key: arch differs", "columnheader A: box/" + testRun, "cell failed",
			"region Difference of the logs"},
		"/artifacts/box/" + testRun + "/" + testSpace + "?name=picture.png": {"image picture.png", "link Download", "navigation Directories above"},
		"/account": {"heading Keys", "button Log out everywhere", "region Browsers"},
	} {
		c.open(path)
		got := c.spoken()
		for _, w := range want {
			if !slices.Contains(got, w) {
				t.Errorf("%s has no %q:\n%s", path, w, strings.Join(got, "\n"))
			}
		}
		for _, line := range got {
			role, name, _ := strings.Cut(line, " ")
			if name == "" && slices.Contains([]string{"link", "button", "textbox", "searchbox", "combobox", "checkbox", "heading", "image", "region", "navigation"}, role) {
				t.Errorf("%s has a %s without a name", path, role)
			}
		}
	}
}

// A log of 100,000 lines scrolls: from its beginning to its end and to any line, with no
// more in the page than what is near. A line that is wide is read to its end.
func TestScrollBrowser(t *testing.T) {
	c := startChromium(t, "http", nil)
	x := newTestTree(t)
	x.run(testRun, "passed", map[string]string{"step/test/log": longLog()})
	c.trees = &testTrees{t: t, dirs: map[string]fs.Dir{"": x.root()}}
	at := "/log/box/" + testRun + "/test/" + testSpace
	c.open(at)
	c.script("scrollTo(0, document.documentElement.scrollHeight)")
	c.seen(`//div[@id="L100000"]/code[starts-with(., "line 100000 ")]`)
	// Past all lines, at the pace of somebody who drags the bar: each comes where one stays.
	eval[any](c, scrollThrough)
	c.holds(`[...document.querySelectorAll(".log section")].every(s => { const r = s.getBoundingClientRect(); return r.bottom < 0 || r.top > innerHeight || s.childElementCount > 1; })`)
	for _, line := range []int{54319, 3, 99000, 251, 500, 501} {
		c.script(fmt.Sprintf(`location.hash = "#L%d"`, line))
		c.seen(fmt.Sprintf(`//div[@id="L%d"]/code[starts-with(., "line %d ")]`, line, line))
		c.holds(fmt.Sprintf(`(() => { const e = document.querySelector("#L%d:target"), r = e?.getBoundingClientRect(); return r && r.top >= 0 && r.bottom <= innerHeight; })()`, line))
	}
	// Sixty chunks in turn: those that are far are given back.
	eval[any](c, `(async () => {
		for (const s of [...document.querySelectorAll(".log section")].slice(0, 60)) {
			s.scrollIntoView();
			while (s.childElementCount < 2) await new Promise(requestAnimationFrame);
		}
	})()`)
	if n := eval[int](c, `document.querySelectorAll(".log div").length`); n > 50*chunkRows || n < 10*chunkRows {
		t.Errorf("the page has %d lines at the end of it all", n)
	}
	if n := eval[int](c, `new Set([...document.querySelectorAll(".log div")].map(e => e.id)).size - document.querySelectorAll(".log div").length`); n != 0 {
		t.Errorf("%d lines stand in the page twice", -n)
	}
	// A URL with a line that the page has not yet, as somebody else sent it.
	c.open(at + "#L54319")
	c.run(chromedp.Reload())
	c.holds(`document.querySelector("#L54319:target")?.getBoundingClientRect().top > 0`)
	// Wide lines, and the number that stays in sight.
	if got := eval[string](c, `(() => {
		const log = document.querySelector(".log"), row = document.querySelector("#L54319");
		log.scrollLeft = log.scrollWidth;
		const code = row.querySelector("code").getBoundingClientRect(), number = row.querySelector("a").getBoundingClientRect(), box = log.getBoundingClientRect();
		const end = document.elementFromPoint(code.right - 20, (code.top + code.bottom) / 2);
		return [Math.abs(number.left - box.left) < 2, code.right <= box.right + 1, end?.closest("code") === row.querySelector("code")].join();
	})()`); got != "true,true,true" {
		t.Errorf("a wide line: number in sight, end in sight, end not cut off: %s", got)
	}
	// The number of a line is its URL, with a page that has it.
	c.click(`//div[@id="L54319"]/a`)
	c.holds(`location.search + location.hash === "?from=54319#L54319"`)
	c.open(at + "?from=500#L500")
	c.seen(`//div[@id="L500"]`)
	// Lines that do not come say so.
	trees := c.trees.(*testTrees)
	trees.mu.Lock()
	delete(trees.dirs, "")
	trees.mu.Unlock()
	c.script(`location.hash = "#L70000"`)
	c.seen(`//section[@data-from<=70000 and @data-to>70000]//a[contains(., "did not come")]`)
}

// longLog is a log of 100,000 lines, as wide as lines of a test are; every fortieth from 39
// on is the widest.
func longLog() string {
	return logLines(100_000, func(i int) string {
		return fmt.Sprintf("line %d \x1b[3%dm%s\x1b[0m", i, i%8, strings.Repeat("wide ", 10+i%40))
	})
}

// scrollThrough scrolls from the top to the bottom in 200 frames, and returns the
// milliseconds between these, sorted.
const scrollThrough = `(async () => {
	scrollTo(0, 0);
	const all = [], height = document.documentElement.scrollHeight;
	let last = await new Promise(requestAnimationFrame);
	for (let i = 1; i <= 200; i++) {
		scrollTo(0, height * i / 200);
		const now = await new Promise(requestAnimationFrame);
		all.push(now - last);
		last = now;
	}
	return all.sort((a, b) => a - b);
})()`

// How long a frame takes while a log of 100,000 lines scrolls past: half of them, all but
// one in twenty, and the longest.
func BenchmarkScroll(b *testing.B) {
	c := startChromium(b, "http", nil)
	x := newTestTree(b)
	x.run(testRun, "passed", map[string]string{"step/test/log": longLog()})
	c.trees = &testTrees{t: b, dirs: map[string]fs.Dir{"": x.root()}}
	c.open("/log/box/" + testRun + "/test/" + testSpace)
	var all []float64
	for b.Loop() {
		all = append(all, eval[[]float64](c, scrollThrough)...)
	}
	slices.Sort(all)
	b.ReportMetric(all[len(all)/2], "ms/frame")
	b.ReportMetric(all[len(all)*95/100], "ms/frame95")
	b.ReportMetric(all[len(all)-1], "ms/framemax")
}
