package web

import (
	"fmt"
	"strings"
	"testing"

	"9ci/fs"
)

// The pages of the tree hold on a phone and on a wide screen, light and dark.
func TestReadScreens(t *testing.T) {
	check(t)
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
	dir := x.run(testRun, "failed", map[string]string{"step/test/log": log, "step/test/status": "failed 1 3.000 " + testTime + "\n", "step/post-test/status": "skipped - - " + testTime + "\n"})
	x.write(dir+"/artifacts/a/very-long-name-"+strings.Repeat("x", 120)+".txt", strings.Repeat("text ", 100)+"\nmore\n")
	x.write(dir+"/artifacts/size", "12\n")
	x.run("3f2a9c1d0b7e.2", "passed", map[string]string{"key": "arch=arm64\nenv='" + strings.Repeat("LONG=1 ", 30) + "'\n"})
	c.trees = &testTrees{t: t, dirs: map[string]fs.Dir{"": x.root()}}
	run := place{testSpace, "box", testRun}
	for name, path := range map[string]string{
		"namespaces": "/", "runs": "/runs/" + testSpace, "run": run.URL("run"), "log": run.URL("log", "test") + "?from=100", "found": run.URL("log", "test") + "?q=on+3",
		"artifacts": run.URL("artifacts"), "artifact": run.URL("artifacts") + "?name=a/very-long-name-" + strings.Repeat("x", 120) + ".txt",
		"compare": "/compare/" + testSpace + "?run=box/" + testRun + "&run=box/3f2a9c1d0b7e.2", "choose": run.WithURL(),
	} {
		c.open(path)
		c.screens(name)
	}
}
