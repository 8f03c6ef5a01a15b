package executor

import (
	"io"
	"slices"
	"strings"
	"testing"

	"9ci/cmd/internal/config"
	"9ci/vm"
)

// What an image sets stands, and the container has the rest of the core OS; the user of
// the image becomes the owner of what the test may write.
func TestPodmanRun(t *testing.T) {
	id := `"Id":"` + strings.Repeat("0", 64) + `"`
	for _, tt := range []struct {
		image, net string
		has, lacks []string
	}{
		{`{}`, "build",
			[]string{"--env=HOME=/root", "--env=LANG=C.UTF-8", "--env=TERM=dumb", "--network=ns:" + vm.Loopback, "--workdir=/src",
				"--mount=type=bind,src=/src,dst=/src,U=false", "--mount=type=bind,src=/var/run/ci/artifacts,dst=/var/run/ci/artifacts,U=false"}, nil},
		{`{"WorkingDir":"/","User":"0:0"}`, "none", []string{"--env=HOME=/root", "--workdir=/src", "--network=ns:" + vm.Loopback}, nil},
		{`{"WorkingDir":"/srv//app/","User":"root"}`, "all", []string{"--env=HOME=/root", "--workdir=/srv/app", "--network=host"}, nil},
		{`{"User":"node","Env":["LANG=de_DE.UTF-8","TERM=vt100","PATH=/bin:/opt"]}`, "build",
			[]string{"--env=PATH=/bin:/opt:/usr/lib/plan9/bin", "--mount=type=bind,src=/src,dst=/src,U=true",
				"--mount=type=bind,src=/var/run/ci/artifacts,dst=/var/run/ci/artifacts,U=true"},
			[]string{"--env=HOME", "--env=LANG", "--env=TERM"}},
		{`{"Env":["HOME=/home"]}`, "build", nil, []string{"--env=HOME"}},
		{`{"WorkingDir":"/a:b, \"c\""}`, "build", []string{`--workdir=/a:b, "c"`, `--mount=type=bind,src=/src,"dst=/a:b, ""c""",U=false`}, nil},
	} {
		m := &flood{answers: map[string]answer{containerFile: {"x", 1, 0}, "x": {"[{" + id + `,"Config":` + tt.image + "}]", 1, 0}}}
		r := &activeRun{e: &Executor{}, cfg: &config.Config{Net: tt.net}, m: m, mask: newMask(nil)}
		r.stdout, r.stderr = r.mask.writer(io.Discard), r.mask.writer(io.Discard)
		var err error
		if r.base, err = r.inspect(t.Context()); err != nil {
			t.Errorf("%s: %v", tt.image, err)
			continue
		}
		args := r.podmanRun([]string{"test"}, false).Args
		for _, want := range tt.has {
			if !slices.Contains(args, want) {
				t.Errorf("%s, net %s: no %s in\n%q", tt.image, tt.net, want, args)
			}
		}
		for _, not := range tt.lacks {
			if slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, not) }) {
				t.Errorf("%s, net %s: %s in\n%q", tt.image, tt.net, not, args)
			}
		}
	}
}
