package main

import (
	"encoding/json"
	"fmt"
	iofs "io/fs"
	"regexp"
	"slices"
	"strings"
)

// A build is how a repository is tested: the lines of a mkfile. Each is a line of sh(1).
type build struct {
	packages []string // of Debian
	inputs   []string // files on which prepare depends, if they are there
	prepare  []string // with a network, as root
	test     []string // without
}

// Each of these returns how the files at the top of a repository are tested, or nil if they
// are of another kind. A repository has all of builds that it can have; and else the first
// of cBuilds, since with others a Makefile is often a front.
var builds = []func(top iofs.FS) *build{goBuild, cargoBuild, nodeBuild, pythonBuild}
var cBuilds = []func(top iofs.FS) *build{mesonBuild, cmakeBuild, autoconfBuild, makeBuild}

// mkfileFor returns a mkfile that tests the repository whose top is given, as it is. If its
// files do not say how, the mkfile's test does nothing, and known is false.
func mkfileFor(top iofs.FS) (text string, known bool) {
	var all build
	add := func(b *build) bool {
		if b == nil {
			return false
		}
		all.packages = append(all.packages, b.packages...)
		all.inputs = append(all.inputs, b.inputs...)
		all.prepare = append(all.prepare, b.prepare...)
		all.test = append(all.test, b.test...)
		return true
	}
	for _, f := range builds {
		known = add(f(top)) || known
	}
	for _, f := range cBuilds {
		known = known || add(f(top))
	}
	const head = "# 9ci runs these at a commit, in a machine of its own: 9ci help\n\n"
	if !known {
		return head + "test:V:\n\techo no tests yet\n", false
	}
	var b strings.Builder
	b.WriteString(head + "# As root, with a network: what the test needs. The machine is Debian 12.\nprepare-runtime:V: mkfile")
	for _, name := range all.inputs {
		if isFile(top, name) {
			b.WriteString(" " + name)
		}
	}
	slices.Sort(all.packages)
	lines := []string{
		"export DEBIAN_FRONTEND=noninteractive",
		"apt-get -qq update",
		"apt-get -qq install --no-install-recommends " + strings.Join(slices.Compact(all.packages), " ") + " >/dev/null",
	}
	fmt.Fprintf(&b, "\n\t%s\n", strings.Join(append(lines, all.prepare...), "\n\t"))
	fmt.Fprintf(&b, "\n# Without a network.\ntest:V:\n\t%s\n", strings.Join(all.test, "\n\t"))
	return b.String(), true
}

// debianGo is the minor version of Debian 12's Go 1, and firstToolchain that of the first
// Go that go.mod may name as it is.
const (
	debianGo       = 19
	firstToolchain = 21
)

var (
	goLine        = regexp.MustCompile(`(?m)^go[ \t]+1\.(\d{1,4})((?:\.\d{1,4})?)(?:[ \t]|\r?$)`)
	toolchainLine = regexp.MustCompile(`(?m)^toolchain[ \t]+(go1\.\d{1,4}\.\d{1,4})(?:[ \t]|\r?$)`)
)

func goBuild(top iofs.FS) *build {
	b := &build{packages: []string{"ca-certificates", "gcc", "golang-go", "libc6-dev"}}
	// Of a workspace, ./... are the packages of one module at most.
	mod, ok := read(top, "go.work")
	if ok {
		b.inputs = []string{"go.work", "go.work.sum", "go.mod", "go.sum"}
		b.test = []string{"all=$(go list -m -f '{{.Dir}}/...')", "go vet $all", "go test $all"}
	} else if mod, ok = read(top, "go.mod"); ok {
		b.inputs = []string{"go.mod", "go.sum"}
		b.test = []string{"go vet ./...", "go test ./..."}
	} else {
		return nil
	}
	minor, version := 0, ""
	if m := goLine.FindStringSubmatch(mod); m != nil {
		fmt.Sscan(m[1], &minor)
		if version = "go1." + m[1] + m[2]; m[2] == "" {
			version += ".0"
		}
		if minor < firstToolchain {
			version = fmt.Sprintf("go1.%d.0", firstToolchain)
		}
	}
	if m := toolchainLine.FindStringSubmatch(mod); m != nil {
		version = m[1]
	}
	if minor > debianGo {
		b.prepare = []string{
			"# Debian's Go fetches the one that go.mod wants, which is a module too.",
			"go=golang.org/toolchain@v0.0.1-" + version + ".linux-$(go env GOARCH)",
			"(cd / && go mod download $go)",
			"cp -R $(go env GOMODCACHE)/$go /usr/local/go",
			"chmod a+x /usr/local/go/bin/* /usr/local/go/pkg/tool/*/*",
			"PATH=/usr/local/go/bin:$PATH",
		}
		b.test = append([]string{"PATH=/usr/local/go/bin:$PATH"}, b.test...)
	}
	if !isFile(top, "vendor/modules.txt") {
		b.prepare = append(b.prepare, "go mod download")
	}
	return b
}

// Cargo is one of the newer compilers that Debian 12 has for its browsers.
func cargoBuild(top iofs.FS) *build {
	if !isFile(top, "Cargo.toml") {
		return nil
	}
	locked := ""
	if isFile(top, "Cargo.lock") {
		locked = " --locked"
	}
	return &build{
		packages: []string{"ca-certificates", "cargo-web", "gcc", "libc6-dev", "pkg-config"},
		inputs:   []string{"Cargo.toml", "Cargo.lock"},
		prepare:  []string{"cargo fetch" + locked},
		test:     []string{"cargo test --offline" + locked},
	}
}

func nodeBuild(top iofs.FS) *build {
	text, ok := read(top, "package.json")
	if !ok {
		return nil
	}
	var p struct{ Scripts map[string]string }
	// Npm init writes a test that fails.
	if json.Unmarshal([]byte(text), &p) != nil || p.Scripts["test"] == "" || strings.Contains(p.Scripts["test"], "no test specified") {
		return nil
	}
	b := &build{packages: []string{"ca-certificates", "nodejs", "npm"}, inputs: []string{"package.json"}}
	for _, c := range []struct{ lock, prepare, test string }{
		{"package-lock.json", "npm ci", "npm test"},
		{"npm-shrinkwrap.json", "npm ci", "npm test"},
		{"pnpm-lock.yaml", "npx --yes pnpm@9 install --frozen-lockfile", "npm test"},
		{"yarn.lock", "npx --yes yarn@1 install --frozen-lockfile", "npm test"},
		{"", "npm install", "npm test"},
	} {
		if c.lock == "" || isFile(top, c.lock) {
			b.inputs = append(b.inputs, c.lock)
			b.prepare, b.test = []string{c.prepare}, []string{c.test}
			break
		}
	}
	return b
}

// extras matches the optional dependencies by which a project in Python is tested.
var extras = regexp.MustCompile(`(?m)^(tests?|testing|dev)[ \t]*=[ \t]*\[`)

func pythonBuild(top iofs.FS) *build {
	project, _ := read(top, "pyproject.toml")
	installs := isFile(top, "setup.py") || strings.Contains(project, "[project]") || strings.Contains(project, "[build-system]")
	var wants []string
	for _, name := range []string{"requirements.txt", "requirements-dev.txt", "dev-requirements.txt", "requirements-test.txt", "test-requirements.txt"} {
		if isFile(top, name) {
			wants = append(wants, name)
		}
	}
	if !installs && wants == nil && project == "" && !isFile(top, "setup.cfg") && !isFile(top, "tox.ini") && !hasPythonTests(top) {
		return nil
	}
	b := &build{
		packages: []string{"ca-certificates", "python3-pytest", "python3-venv"},
		inputs:   append([]string{"pyproject.toml", "setup.py", "setup.cfg"}, wants...),
		prepare:  []string{"python3 -m venv --system-site-packages /opt/venv"},
	}
	said := project
	for _, name := range append(wants, "setup.cfg", "setup.py", "tox.ini") {
		text, _ := read(top, name)
		said += text
	}
	pip := ""
	for _, name := range wants {
		pip += " -r " + name
	}
	if installs {
		pip += " -e ."
		if m := extras.FindStringSubmatch(project); m != nil {
			pip += "[" + m[1] + "]"
		}
	}
	if pip != "" {
		b.prepare = append(b.prepare, "/opt/venv/bin/pip install -q"+pip)
	}
	// Pytest runs what unittest does, and fails if there is no test, which unittest of
	// Debian 12 does not.
	b.test = []string{"/opt/venv/bin/python -m pytest"}
	if !strings.Contains(said, "pytest") && !isFile(top, "conftest.py") && !isFile(top, "tests/conftest.py") {
		b.test = []string{"/opt/venv/bin/python -m pytest -o python_files='test*.py *_test.py'"}
	}
	return b
}

// hasPythonTests reports whether there are files of tests where unittest or pytest find them.
func hasPythonTests(top iofs.FS) bool {
	for _, pattern := range []string{"test_*.py", "tests/test_*.py", "test/test_*.py"} {
		if names, _ := iofs.Glob(top, pattern); len(names) > 0 {
			return true
		}
	}
	return false
}

func mesonBuild(top iofs.FS) *build {
	if !isFile(top, "meson.build") {
		return nil
	}
	return &build{
		packages: []string{"build-essential", "meson", "pkg-config"},
		test:     []string{"meson setup --wipe build 2>/dev/null || meson setup build", "meson test -C build --print-errorlogs"},
	}
}

func cmakeBuild(top iofs.FS) *build {
	if !isFile(top, "CMakeLists.txt") {
		return nil
	}
	return &build{
		packages: []string{"build-essential", "cmake", "pkg-config"},
		test:     []string{"cmake -B build", "cmake --build build --parallel", "ctest --test-dir build --output-on-failure"},
	}
}

func autoconfBuild(top iofs.FS) *build {
	b := &build{packages: []string{"build-essential", "pkg-config"}, test: []string{"./configure", "make check"}}
	switch {
	case isFile(top, "configure"):
	case isFile(top, "configure.ac"):
		b.packages = append(b.packages, "autoconf", "automake", "libtool")
		b.test = append([]string{"autoreconf -i"}, b.test...)
	default:
		return nil
	}
	return b
}

var makeTarget = regexp.MustCompile(`(?m)^(test|check)[ \t]*::?(?:[^=]|$)`)

func makeBuild(top iofs.FS) *build {
	for _, name := range []string{"GNUmakefile", "makefile", "Makefile"} { // make's order
		text, ok := read(top, name)
		if !ok {
			continue
		}
		if m := makeTarget.FindStringSubmatch(text); m != nil {
			return &build{packages: []string{"build-essential"}, test: []string{"make " + m[1]}}
		}
		return nil
	}
	return nil
}

// maxDescription is how much of a file is read that says how a repository is built, in bytes.
const maxDescription = 1 << 20

// read returns the text of a file; ok is false if there is none, or a large one.
func read(top iofs.FS, name string) (text string, ok bool) {
	if fi, err := iofs.Stat(top, name); err != nil || !fi.Mode().IsRegular() || fi.Size() > maxDescription {
		return "", false
	}
	b, err := iofs.ReadFile(top, name)
	return string(b), err == nil
}

func isFile(top iofs.FS, name string) bool {
	fi, err := iofs.Stat(top, name)
	return err == nil && fi.Mode().IsRegular()
}
