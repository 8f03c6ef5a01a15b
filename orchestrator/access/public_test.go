package access

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// What the file public names everybody may read, besides what they may anyway, and an edit
// counts at once. Nothing local is public.
func TestPublic(t *testing.T) {
	dir := t.TempDir()
	p, err := OpenPublic(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, publicFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	narrow := p.Add(Grant{Namespaces: []Pattern{"gitlab.com/a/b"}, Publish: true})
	may := func(ns string, want bool) {
		t.Helper()
		if narrow.MayRead(ns) != want || p.Has(ns) != want {
			t.Errorf("%s: %v, %v, want %v", ns, narrow.MayRead(ns), p.Has(ns), want)
		}
		if narrow.MayPublish(ns) || narrow.Owns(ns, false) {
			t.Errorf("%s: it may publish, or owns it", ns)
		}
	}
	may(hello, false)
	changed := p.Changed()
	write("# everybody\n" + "github.com/Alice/Hello\n\ngitlab.com/open/...\nlocal/x\nlocal/...\ngithub.com/x\n[\ngithub.com/a/b but not\n")
	select {
	case <-changed:
		t.Error("a change that nobody has looked for")
	default:
	}
	p.Changed()
	<-changed
	for ns, want := range map[string]bool{
		hello: true, "gitlab.com/open/a": true, "gitlab.com/open/a/b": true, "gitlab.com/open": false, "github.com/alice/hello2": false,
		"local/x": false, "local/y": false, "github.com/a/b": false,
	} {
		may(ns, want)
	}
	if got := narrow.Readable(); !slices.Equal(got, []Pattern{hello, "gitlab.com/open/..."}) {
		t.Errorf("Readable = %v", got)
	}
	write("...\n*/x\n")
	p.Add(Grant{})
	may("gitlab.com/any/thing", true)
	may("local/x", false)
	write("")
	p.Changed()
	may(hello, false)

	write("github.com/alice/*\ngithub.com/alice/*\nlocal/*\ngithub.com/a\n")
	found, err := CheckOwn(dir, publicFile, time.Now())
	if err != nil || len(found) != 4 || found[0].Who != "github.com/alice/*" || found[0].Words != "everybody may read it, on the page without a login" {
		t.Fatalf("CheckOwn = %+v, %v", found, err)
	}
	for _, f := range found[1:] {
		if f.Err == nil || f.Words != "" {
			t.Errorf("line %d: %+v", f.Line, f)
		}
	}
	if (*Public)(nil).Has(hello) {
		t.Error("without a file something is public")
	}
}
