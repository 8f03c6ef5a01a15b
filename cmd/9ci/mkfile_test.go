package main

import (
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"

	"9ci/mk"
)

// The mkfile of init tests a repository with what its files say it is built with.
func TestMkfile(t *testing.T) {
	for _, c := range []struct {
		name  string
		files []string // NAME=TEXT
		apt   string   // words of the line that installs packages, or "" if there is none
		wants []string // lines of prepare-runtime
		needs string   // its prereqs
		test  string   // lines of test, with ; between them
	}{
		{"nothing", []string{"README=go test"}, "", nil, "", "echo no tests yet"},
		{"Debian's Go", []string{"go.mod=module x\n\ngo 1.19\n"}, "golang-go", []string{"go mod download"}, "mkfile go.mod", "go vet ./...; go test ./..."},
		{"a Go of before toolchains", []string{"go.mod=module x\ngo 1.20\n"}, "golang-go", []string{"go=golang.org/toolchain@v0.0.1-go1.21.0.linux-$(go env GOARCH)"}, "mkfile go.mod", "PATH=/usr/local/go/bin:$PATH; go vet ./...; go test ./..."},
		{"a language version", []string{"go.mod=module x\r\ngo 1.26 // or later\r\n", "go.sum="}, "golang-go", []string{"go=golang.org/toolchain@v0.0.1-go1.26.0.linux-$(go env GOARCH)", "go mod download"}, "mkfile go.mod go.sum", "PATH=/usr/local/go/bin:$PATH; go vet ./...; go test ./..."},
		{"a toolchain, and vendored", []string{"go.mod=module x\ngo 1.25.3\ntoolchain go1.26.1\n", "vendor/modules.txt="}, "golang-go", []string{"go=golang.org/toolchain@v0.0.1-go1.26.1.linux-$(go env GOARCH)", "!go mod download"}, "mkfile go.mod", "PATH=/usr/local/go/bin:$PATH; go vet ./...; go test ./..."},
		{"no version of Go", []string{"go.mod=module x\ngo 1.26;reboot\ntoolchain $(reboot)\n"}, "golang-go", []string{"!$(reboot)", "!reboot"}, "mkfile go.mod", "go vet ./...; go test ./..."},
		{"Rust", []string{"Cargo.toml=", "Cargo.lock="}, "cargo-web", []string{"cargo fetch --locked"}, "mkfile Cargo.toml Cargo.lock", "cargo test --offline --locked"},
		{"npm", []string{`package.json={"scripts":{"test":"node --test"}}`, "package-lock.json={}"}, "nodejs npm", []string{"npm ci"}, "mkfile package.json package-lock.json", "npm test"},
		{"pnpm", []string{`package.json={"scripts":{"test":"vitest"}}`, "pnpm-lock.yaml="}, "nodejs npm", []string{"npx --yes pnpm@9 install --frozen-lockfile"}, "mkfile package.json pnpm-lock.yaml", "npm test"},
		{"npm without a lock", []string{`package.json={"scripts":{"test":"a"}}`}, "nodejs npm", []string{"npm install"}, "mkfile package.json", "npm test"},
		{"npm init", []string{`package.json={"scripts":{"test":"echo \"Error: no test specified\" && exit 1"}}`}, "", nil, "", "echo no tests yet"},
		{"a workspace of Go", []string{"go.work=go 1.19\nuse ./a\n", "a/go.mod=module a\n"}, "golang-go", []string{"go mod download"}, "mkfile go.work", "all=$(go list -m -f '{{.Dir}}/...'); go vet $all; go test $all"},
		{"a workspace of Go and the module at its top", []string{"go.work=go 1.26\nuse .\nuse ./a\n", "go.mod=module x\ngo 1.19\n"}, "golang-go", []string{"go=golang.org/toolchain@v0.0.1-go1.26.0.linux-$(go env GOARCH)"}, "mkfile go.work go.mod", "PATH=/usr/local/go/bin:$PATH; all=$(go list -m -f '{{.Dir}}/...'); go vet $all; go test $all"},
		{"unittest", []string{"requirements.txt=six\n"}, "python3-pytest python3-venv", []string{"/opt/venv/bin/pip install -q -r requirements.txt"}, "mkfile requirements.txt", "/opt/venv/bin/python -m pytest -o python_files='test*.py *_test.py'"},
		{"tests in Python alone", []string{"tests/test_x.py="}, "python3-pytest python3-venv", []string{"!/opt/venv/bin/pip install -q"}, "mkfile", "/opt/venv/bin/python -m pytest -o python_files='test*.py *_test.py'"},
		{"Python without tests", []string{"main.py="}, "", nil, "", "echo no tests yet"},
		{"pytest", []string{"pyproject.toml=[project]\nname='x'\n[project.optional-dependencies]\ntest = ['pytest']\n"}, "python3-pytest python3-venv", []string{"/opt/venv/bin/pip install -q -e .[test]"}, "mkfile pyproject.toml", "/opt/venv/bin/python -m pytest"},
		{"make", []string{"Makefile=test := no\ncheck: all\n"}, "build-essential", nil, "mkfile", "make check"},
		{"GNU make", []string{"Makefile=check: all\n", "GNUmakefile=test:\n\ttrue\n"}, "build-essential", nil, "mkfile", "make test"},
		{"make without tests", []string{"Makefile=test := no\nall:\n"}, "", nil, "", "echo no tests yet"},
		{"CMake", []string{"CMakeLists.txt=", "Makefile=test:\n"}, "cmake", nil, "mkfile", "cmake -B build; cmake --build build --parallel; ctest --test-dir build --output-on-failure"},
		{"Meson", []string{"meson.build="}, "meson", nil, "mkfile", "meson setup --wipe build 2>/dev/null || meson setup build; meson test -C build --print-errorlogs"},
		{"configure.ac", []string{"configure.ac="}, "autoconf automake", nil, "mkfile", "autoreconf -i; ./configure; make check"},
		{"two", []string{"go.mod=go 1.19\n", `package.json={"scripts":{"test":"a"}}`, "Makefile=test:\n"}, "golang-go libc6-dev nodejs npm", []string{"go mod download", "npm install"}, "mkfile go.mod package.json", "go vet ./...; go test ./...; npm test"},
	} {
		t.Run(c.name, func(t *testing.T) {
			top := fstest.MapFS{}
			for _, f := range c.files {
				name, text, _ := strings.Cut(f, "=")
				top[name] = &fstest.MapFile{Data: []byte(text)}
			}
			text, known := mkfileFor(top)
			m, err := mk.Parse(t.Context(), mk.Config{Src: strings.NewReader(text)})
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if known == (c.apt == "") {
				t.Errorf("known is %v", known)
			}
			recipes := make(map[string]string)
			for _, r := range m.Rules() {
				recipes[r.Target] = strings.TrimSuffix(r.Recipe, "\n")
				if r.Attr != "V" {
					t.Errorf("%s has the attributes %q, want V", r.Target, r.Attr)
				}
				if out, err := exec.Command("sh", "-n", "-c", r.Recipe).CombinedOutput(); err != nil {
					t.Errorf("%s: %v: %s", r.Target, err, out)
				}
				if r.Target == "prepare-runtime" && strings.Join(r.Prereqs, " ") != c.needs {
					t.Errorf("prepare-runtime has the prereqs %q, want %q", r.Prereqs, c.needs)
				}
			}
			if got := strings.ReplaceAll(recipes["test"], "\n", "; "); got != c.test {
				t.Errorf("test is\n%s\nwant\n%s", got, c.test)
			}
			prepare := recipes["prepare-runtime"]
			if !strings.Contains(prepare, c.apt) || (c.apt == "") != (prepare == "") {
				t.Errorf("prepare-runtime has no packages %q:\n%s", c.apt, prepare)
			}
			for _, want := range c.wants {
				line, not := strings.CutPrefix(want, "!")
				if strings.Contains("\n"+prepare+"\n", "\n"+line+"\n") == not {
					t.Errorf("prepare-runtime has to have %q:\n%s", want, prepare)
				}
			}
		})
	}
}
