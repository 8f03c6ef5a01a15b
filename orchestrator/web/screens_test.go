package web

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"image"
	"image/color/palette"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
)

// On a phone and on a wide screen, light and dark, nothing overflows, no two texts
// overlap, and all controls have a name. SCREENSHOTS names a directory for pictures.
func TestScreens(t *testing.T) {
	c := newChromium(t)
	patterns, err := access.ParsePatterns([]string{"github.com/alice/...", "gitlab.com/a-rather-long-group/with-a-subgroup/and-a-project-of-a-long-name"})
	if err != nil {
		t.Fatal(err)
	}
	c.open("/login")
	c.screens("login")
	c.open("/nothing")
	c.screens("problem")
	c.invite(account.Invite{Name: "Alice", Namespaces: patterns})
	c.screens("invite")
	c.press("Your account")
	c.screens("account-new")
	principal := c.only().Principal
	for n := range 3 {
		c.certificate(1700000000+n, principal, "SHA256:0123456789012345678901234567890123456789012")
	}
	err = c.accounts.Change(principal, func(a *account.Account) error {
		a.Approve("SHA256:0123456789012345678901234567890123456789012", "2001:db8:1234:5678:9abc:def0:1234:5678")
		a.Name = "Alice Averylongnamewithoutblankswhichwouldnotfitonaphone"
		a.Login, a.Forge, a.ForgeToken = "alice", "github.com", []byte("x")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c.open("/account?did=key")
	c.screens("account")
	c.open("/approve")
	c.screens("code")
	r := c.ask("2001:db8:1234:5678:9abc:def0:1234:5678")
	c.run(chromedp.SendKeys(chromedp.ID("code"), r.Code), chromedp.Submit(chromedp.ID("code")), c.title("Is this your key?"))
	c.screens("confirm")
	c.run(chromedp.Click(chromedp.CSS("button[value=approve]")), c.title("Approved"))
	c.screens("done")
	if got := <-r.result; got.principal != principal || got.err != nil {
		t.Errorf("Wait = %q, %v", got.principal, got.err)
	}
	// By keyboard alone: the first stop is the skip link, and the focus can be seen.
	c.open("/approve")
	c.run(chromedp.KeyEvent("\t"))
	if outline := value(c, chromedp.Evaluate[string](`getComputedStyle(document.activeElement).outlineStyle`)); outline != "solid" {
		t.Errorf("the focus has the outline %q", outline)
	}
}

// The pages of the tree hold on a phone and on a wide screen, light and dark.
func TestReadScreens(t *testing.T) {
	c := startChromium(t, "http", nil)
	x := newTestTree(t)
	var lines []string
	for i, state := range []string{"passed", "failed", "cancelled", "error", "test", "queued"} {
		lines = append(lines, indexLine(i+1, state, "SHA256:0123456789012345678901234567890123456789012"))
	}
	x.index(append([]string{"/n/box/ci/" + testRun + " failed 1 41.200 " + testTime + " - 3f2a9c1d0b7e0000000000000000000000000000 SHA256:0123456789012345678901234567890123456789012 -"}, lines...)...)
	log := logLines(400, func(i int) string {
		return fmt.Sprintf("\x1b[%dmcolour %d\x1b[0m \x1b[%dm on %d \x1b[0m \x1b[1;%dmbold\x1b[0m \x1b[2mdim\x1b[0m \x1b[7minverse\x1b[0m %s", 30+i%8, i%8, 40+i%8, i%8, 90+i%8, strings.Repeat("wide ", i%40))
	})
	dir := x.run(testRun, "failed", map[string]string{"step/test/log": log, "step/test/status": "failed 1 3.000 " + testTime + "\n", "step/post-test/status": "skipped - - " + testTime + "\n",
		"tests":          "pkg/TestOne passed 0.100\n'pkg/TestTwo/" + strings.Repeat("long_", 40) + "' failed 2.500\npkg/TestThree skipped -\n",
		"service/db/log": logLines(3, func(i int) string { return fmt.Sprint("ready ", i) })})
	x.write(dir+"/artifacts/a/very-long-name-"+strings.Repeat("x", 120)+".txt", strings.Repeat("text ", 100)+"\nmore\n")
	x.write(dir+"/artifacts/size", "12\n")
	x.run("3f2a9c1d0b7e.2", "passed", map[string]string{"key": "arch=arm64\nenv='" + strings.Repeat("LONG=1 ", 30) + "'\n"})
	going := testSpace + "/n/box/ci/3f2a9c1d0b7e.3"
	x.write(going+"/status", "test - 3.000 "+testTime+"\n")
	x.write(going+"/step/boot/status", "passed 0 2.000 "+testTime+"\n")
	x.write(going+"/step/clone/status", "skipped - - "+testTime+"\n")
	x.write(going+"/step/test/status", "running - 1.000 "+testTime+"\n")
	x.write(going+"/step/test/log", logLines(3, func(i int) string { return fmt.Sprint("line ", i) }))
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewPaletted(image.Rect(0, 0, 2000, 300), palette.WebSafe)); err != nil {
		t.Fatal(err)
	}
	x.write(dir+"/artifacts/picture.png", picture.String())
	x.write(dir+"/artifacts/bytes.bin", "\x00\x01")
	if err := os.Symlink("a/somewhere-else", filepath.Join(x.dir, dir, "artifacts", "link")); err != nil {
		t.Fatal(err)
	}
	c.trees = &testTrees{t: t, dirs: map[string]fs.Dir{alice.Principal: x.root()}}
	c.enter()
	run := place{testSpace, "box", testRun}
	for name, path := range map[string]string{
		"namespaces": "/", "namespaces-none": "/?q=nonsense", "runs": "/runs/" + testSpace, "runs-none": "/runs/" + testSpace + "?rev=ffffffff",
		"run": run.URL("run"), "run-going": place{testSpace, "box", "3f2a9c1d0b7e.3"}.URL("run"), "run-passed": place{testSpace, "box", "3f2a9c1d0b7e.2"}.URL("run"),
		"log": run.URL("log", "test") + "?from=100", "log-none": run.URL("log", "boot"), "log-behind": run.URL("log", "test") + "?from=5000",
		"tests": run.URL("tests"), "tests-none": run.URL("tests") + "?q=nonsense", "service": run.URL("log", "service.db"),
		"found": run.URL("log", "test") + "?q=on+3", "found-none": run.URL("log", "test") + "?q=nonsense",
		"artifacts": run.URL("artifacts"), "artifact": run.URL("artifacts") + "?name=a/very-long-name-" + strings.Repeat("x", 120) + ".txt",
		"picture": run.URL("artifacts") + "?name=picture.png", "bytes": run.URL("artifacts") + "?name=bytes.bin", "link": run.URL("artifacts") + "?name=link",
		"artifacts-none": place{testSpace, "box", "3f2a9c1d0b7e.2"}.URL("artifacts"),
		"compare":        "/compare/" + testSpace + "?run=box/" + testRun + "&run=box/3f2a9c1d0b7e.2", "compare-same": "/compare/" + testSpace + "?run=box/" + testRun + "&run=box/" + testRun,
		"choose": run.WithURL(), "absent": "/runs/github.com/alice/absent",
	} {
		c.open(path)
		c.screens(name)
	}
}

// screens holds what a page must be in each of its shapes.
func (c *chromium) screens(name string) {
	c.t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	axe, noAxe := axe()
	if noAxe == errNoAxe {
		c.t.Log(noAxe)
	} else if noAxe != nil {
		c.t.Fatal(noAxe)
	}
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{390, 1280} {
			call(c, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 844, DeviceScaleFactor: 1, Mobile: width < 500})
			call(c, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			wide := value(c, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > innerWidth`))
			unnamed := value(c, chromedp.Evaluate[[]string](`[...document.querySelectorAll("button, a, input:not([type=hidden])")].filter(e => !(e.textContent || (e.labels && e.labels.length && e.labels[0].innerText) || e.getAttribute("aria-label") || "").trim() && e.checkVisibility()).map(e => e.outerHTML)`))
			over := value(c, chromedp.Evaluate[[]string](overlaps))
			cut := value(c, chromedp.Evaluate[[]string](`[...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth).map(e => e.getAttribute("aria-label"))`))
			faint := value(c, chromedp.Evaluate[[]string](contrast))
			png := value(c, chromedp.FullScreenshot(100))
			at := fmt.Sprintf("%s-%s-%d", name, scheme, width)
			if wide {
				c.t.Errorf("%s scrolls to the side", at)
			}
			if len(cut) > 0 {
				c.t.Errorf("%s: tables that are wider than the page: %v", at, cut)
			}
			if len(unnamed) > 0 {
				c.t.Errorf("%s: controls without a name: %v", at, unnamed)
			}
			if len(faint) > 0 {
				c.t.Errorf("%s: a contrast below 4.5: %v", at, faint)
			}
			if len(over) > 0 {
				c.t.Errorf("%s: %v", at, over)
			}
			if noAxe == nil && (scheme == "light") == (width < 500) { // each scheme, and each width
				c.script(axe)
				for _, v := range value(c, chromedp.Evaluate[[]string](violations, chromedp.EvalAwaitPromise)) {
					c.t.Errorf("%s: %s", at, v)
				}
			}
			if dir != "" {
				if err := os.WriteFile(filepath.Join(dir, at+".png"), png, 0o644); err != nil {
					c.t.Fatal(err)
				}
			}
		}
	}
}

// overlaps returns the pairs of texts and controls that cover each other.
const overlaps = `(() => {
	const all = [...document.querySelectorAll("h1, h2, p, dt, dd, li > a, button, input:not([type=hidden]), label")].filter(e => e.checkVisibility() && !e.closest(".unseen") && getComputedStyle(e).position !== "absolute");
	const bad = [];
	for (const a of all) for (const b of all) {
		if (a === b || a.contains(b) || b.contains(a)) continue;
		const x = a.getBoundingClientRect(), y = b.getBoundingClientRect();
		if (x.left + 1 < y.right && y.left + 1 < x.right && x.top + 1 < y.bottom && y.top + 1 < x.bottom) bad.push(a.innerText + " | " + b.innerText);
	}
	return bad;
})()`

// contrast returns the texts whose contrast is below that of WCAG 2.2, 1.4.3, AA.
const contrast = `(() => {
	const part = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
	const rgba = (s) => s.match(/[\d.]+/g).map(Number);
	const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
	const bad = [];
	for (const e of document.querySelectorAll("body *")) {
		if (!e.checkVisibility() || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
		let b = e, back = [0, 0, 0, 0];
		for (; b; b = b.parentElement) {
			back = rgba(getComputedStyle(b).backgroundColor);
			if (back.length === 3 || back[3] === 1) break;
		}
		const x = light(rgba(getComputedStyle(e).color)), y = light(back);
		const ratio = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
		if (ratio < 4.5) bad.push(ratio.toFixed(2) + " " + e.innerText);
	}
	return bad;
})()`

// axe returns the script of axe-core, which mk test has fetched.
var axe = sync.OnceValues(func() (string, error) {
	path := os.Getenv("AXE")
	if path == "" {
		return "", errNoAxe
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return "", err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err != nil {
			return "", fmt.Errorf("%s: package/axe.min.js: %w", path, err)
		}
		if h.Name == "package/axe.min.js" {
			text, err := io.ReadAll(r)
			return string(text), err
		}
	}
})

var errNoAxe = errors.New("AXE names no package of axe-core, so the pages were not checked with it; mk test fetches it")

// violations are what axe-core finds in the page.
const violations = `axe.run().then(r => r.violations.map(v => v.impact + " " + v.id + ": " + v.help + ": " + v.nodes.map(n => n.html).slice(0, 3).join(" ")))`
