package ask

import (
	"context"
	"errors"
	iofs "io/fs"
	"testing"

	"9ci/fs"
)

func TestAsk(t *testing.T) {
	ctl := fs.CtlFile("ctl", "manual\n", func(_ context.Context, line string) (string, error) {
		if line == "no" {
			return "", errors.New("it was no")
		}
		return "did " + line, nil
	})
	text := func(name, text string) fs.Node {
		return fs.TextFile(name, func(context.Context) ([]byte, error) { return []byte(text), nil })
	}
	root := fs.NewDir("/", ctl, fs.NewDir("ci", text("status", "passed 0 1.000 2026-11-24T21:04:05Z\n"), text("info", "id=x\n")))
	ctx := fs.WithUser(t.Context(), fs.User{UID: -1})

	if reply, err := Ctl(ctx, ctl, []byte("this\n")); string(reply) != "did this\n" || err != nil {
		t.Errorf("Ctl = %q, %v, want its reply", reply, err)
	}
	if _, err := Ctl(ctx, ctl, []byte("no\n")); err == nil || err.Error() != "it was no" {
		t.Errorf("Ctl = %v, want the text of the reply", err)
	}
	if st, err := Status(ctx, root, "ci/status"); st.State != "passed" || err != nil {
		t.Errorf("Status = %v, %v", st, err)
	}
	if a, err := Attrs(ctx, root, "ci/info"); a.Get("id") != "x" || err != nil {
		t.Errorf("Attrs = %v, %v", a, err)
	}
	if _, err := Status(ctx, root, "ci/nosuch"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("Status of no file = %v, want ErrNotExist", err)
	}
	if d, err := Dir(ctx, root, "ci"); d == nil || err != nil {
		t.Errorf("Dir = %v, %v", d, err)
	}
	if _, err := Dir(ctx, root, "ctl"); !errors.Is(err, fs.ErrNotDir) {
		t.Errorf("Dir of a file = %v, want ErrNotDir", err)
	}
}
