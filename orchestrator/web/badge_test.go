package web

import (
	"encoding/xml"
	"net/http"
	"strings"
	"testing"

	"9ci/fs"
)

// A badge tells the state of public namespaces, the same to all, and of no other.
func TestBadge(t *testing.T) {
	s, x, b := newReadSite(t)
	x.index(
		"/n/box/ci/"+testRun+" test - 3.000 "+testTime+" - - - -",
		indexLine(3, "cancelled", "-"), indexLine(2, "failed", "-"), indexLine(1, "passed", "-"),
	)
	target := "/badge/" + testSpace + ".svg"
	get := func(target string, status int, state string) {
		t.Helper()
		a := b.get(target)
		if a.Code != status || !strings.Contains(a.text, `aria-label="9ci: `+state+`"`) {
			t.Errorf("GET %s = %d %s, want %d and %s", target, a.Code, a.text, status, state)
		}
		if err := xml.Unmarshal([]byte(a.text), new(struct{})); err != nil {
			t.Errorf("%s is no XML: %v", target, err)
		}
		h := a.Header()
		if h.Get("Cache-Control") != "public, max-age=60" || h.Get("Content-Security-Policy") != badgePolicy || h.Get("Content-Type") != "image/svg+xml" || len(h.Values("Set-Cookie")) > 0 {
			t.Errorf("%s: %v", target, h)
		}
	}
	get(target, http.StatusNotFound, "unknown") // alice may read it, and it is not public
	s.trees.(*testTrees).dirs[""] = x.root()
	get(target, http.StatusOK, "failed")
	get(target+"?rev=0000000000000000000000000000000000000001", http.StatusOK, "passed")
	get(target+"?rev=<script>", http.StatusOK, "unknown")
	get("/badge/github.com/alice/absent.svg", http.StatusNotFound, "unknown")
	get("/badge/"+testSpace, http.StatusNotFound, "unknown")
	get("/badge/%3Cx%3E/y/z.svg", http.StatusNotFound, "unknown")
	s.trees.(*testTrees).dirs[""] = brokenDir{fs.NewDir("")}
	get(target, http.StatusServiceUnavailable, "unknown")
}
