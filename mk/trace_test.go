package mk_test

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"testing"

	"9ci/mk"
)

// With -de mk says how each process it waits for has ended, also the programs
// of an include and of attribute P.
func TestTrace(t *testing.T) {
	pid := regexp.MustCompile(`pid=\d+`)
	for _, c := range []struct{ name, mkfile, want string }{
		{"include", "<|exit 4\n", `
pipecmd='exit 4'
waitup got pid=N, status='exit(4)'
`},
		{"compare", "mkfile:Ptrue: y\n\ttouch mkfile\n", `
nprocs = 1
pipecmd='true 'mkfile' 'y'
'
waitup got pid=N, status=''
mk: 'mkfile' is up to date
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{"mkfile": c.mkfile, "y": ""} {
				if err := os.WriteFile(dir+"/"+name, []byte(text), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			var out bytes.Buffer
			m, err := mk.Parse(context.Background(), mk.Config{Dir: dir, Exec: true, Debug: "e", Stdout: &out})
			if err == nil {
				m.Run(context.Background())
			}
			if got := "\n" + pid.ReplaceAllString(out.String(), "pid=N"); got != c.want {
				t.Errorf("trace %s, want %s", got, c.want)
			}
		})
	}
}
