package mk_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"9ci/mk"
)

// What an executor asks a mkfile before it runs it. Backquotes are run, in
// bounded time: $CONTAINERIMAGE may depend on them.
func ExampleParse() {
	dir, _ := os.MkdirTemp("", "mk")
	defer os.RemoveAll(dir)
	os.WriteFile(filepath.Join(dir, "mkfile"), []byte(`
CONTAINERIMAGE=localhost/hello:`+"`{echo 7}"+`
ARTIFACTS=size notes
test:V:
	go test ./...
/var/run/ci/artifacts/size: hello
	wc -c hello >$target
/var/run/ci/artifacts/%:Q:
	cp $stem $target
`), 0o666)

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m, err := mk.Parse(ctx, mk.Config{Dir: dir, Exec: true, Stderr: os.Stderr})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, name := range []string{"prepare-runtime", "base-image", "test", "post-test"} {
		fmt.Println(name, m.HasRule(name))
	}
	fmt.Println(m.Matching("/var/run/ci/artifacts/%"), m.HasRule("/var/run/ci/artifacts/%"))
	image, known := m.Var("CONTAINERIMAGE")
	fmt.Println(image, known)
	artifacts, known := m.Var("ARTIFACTS")
	fmt.Println(artifacts, known)

	// Without Exec nothing is run, and the image is not known.
	m, _ = mk.Parse(ctx, mk.Config{Dir: dir})
	_, known = m.Var("CONTAINERIMAGE")
	fmt.Println(known)
	// Output:
	// prepare-runtime false
	// base-image false
	// test true
	// post-test false
	// [/var/run/ci/artifacts/size] true
	// [localhost/hello:7] true
	// [size notes] true
	// false
}

func ExampleMkfile_Run() {
	dir, _ := os.MkdirTemp("", "mk")
	defer os.RemoveAll(dir)
	os.WriteFile(filepath.Join(dir, "mkfile"), []byte("hello:V: world\n\techo hello $prereq\nworld:VQ:\n\techo making $target\n"), 0o666)

	m, err := mk.Parse(context.Background(), mk.Config{Dir: dir, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		fmt.Println(err)
		return
	}
	jobs, _ := m.Plan(context.Background())
	for _, j := range jobs {
		fmt.Printf("%s:%d: %s: %q\n", j.File, j.Line, j.Targets, j.Recipe)
	}
	m.Run(context.Background(), "world")
	// Output:
	// mkfile:3: [world]: "echo making world\n"
	// mkfile:1: [hello]: "echo hello world\n"
	// making world
}
