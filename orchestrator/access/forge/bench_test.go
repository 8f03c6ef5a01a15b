package forge

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What each walk of a person asks: whether the forge's answer that is remembered lets it.
func BenchmarkCached(b *testing.B) {
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "forges"), []byte("kind=gitlab\nclient-id=a\n\nkind=forgejo\nhost=forge.example\nclient-id=a\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	var pins strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&pins, "gitlab.com/o/%d gitlab.com %d\n", i, i+1)
	}
	if err := os.WriteFile(filepath.Join(dir, "repositories"), []byte(pins.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := Open(filepath.Join(dir, "forges"), slog.New(slog.DiscardHandler))
	if err == nil {
		err = f.Keep(&keeper{tokens: map[string][]byte{}})
	}
	if err != nil {
		b.Fatal(err)
	}
	for i := range 10_000 {
		f.rights[rightsKey{"gitlab:12", fmt.Sprint("gitlab.com/o/", i)}] = known{Access: Access{true, true, fmt.Sprint(i + 1), time.Now()}, until: time.Now().Add(time.Hour)}
	}
	i := 0
	for b.Loop() {
		if a, ok := f.remembered("gitlab:12", fmt.Sprint("gitlab.com/o/", i%10_000)); !ok || !a.Read {
			b.Fatalf("remembered: %+v, %v", a, ok)
		}
		i++
	}
}
