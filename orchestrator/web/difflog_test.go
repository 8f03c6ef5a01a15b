package web

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"9ci/fs"
	"9ci/orchestrator/internal/limit"
)

// diffTexts compares two logs of these lines.
func diffTexts(t testing.TB, a, b []string) *logDiff {
	t.Helper()
	side := func(lines []string) *diffSide {
		text := logLines(len(lines), func(i int) string { return lines[i-1] })
		return &diffSide{first: 1, lr: &lineReader{ctx: t.Context(), f: fs.ByteFile(text)}}
	}
	d, err := diffLogs(t.Context(), side(a), side(b))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// plain returns the text of a row.
func (r *row) plain() string {
	var b strings.Builder
	for _, s := range r.Text {
		b.WriteString(s.Text)
	}
	return b.String()
}

// rowWords returns the rows of a difference.
func rowWords(d *logDiff) (all []string) {
	for _, r := range d.Rows {
		if r.Sign == "@" {
			all = append(all, fmt.Sprintf("@%d,%d", r.A, r.B))
			continue
		}
		all = append(all, r.Sign+r.plain())
	}
	return all
}

// numbered returns n lines that are each another, of about size bytes.
func numbered(n, size int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf("%d %s", i+1, strings.Repeat("x", size)))
	}
	return lines
}

// Logs are compared to their end, however long they are, and whatever one has more.
func TestDiffLongLogs(t *testing.T) {
	a := numbered(60_000, 100) // 6 MB
	b := slices.Clone(a)
	b[9] = "ten"
	b = slices.Insert(b, 20_000, numbered(3000, 90)...) // more than half a window
	b = slices.Delete(b, 45_000, 45_700)
	b[len(b)-1] = "end"
	d := diffTexts(t, a, b)
	if d.Same || d.Cut != "full" || d.A != 20_001 {
		t.Errorf("the difference: same %v, cut %q at line %d, %d", d.Same, d.Cut, d.A, d.B)
	}
	if got := rowWords(d)[:9]; !slices.Equal(got[4:6], []string{"-" + a[9], "+ten"}) || got[0] != "@7,7" {
		t.Errorf("the rows: %.100q", got)
	}
	// The same with less between.
	b = slices.Clone(a)
	b[9] = "ten"
	b = slices.Delete(b, 30_000, 30_020)
	b = slices.Insert(b, 40_000, "new", "new")
	b[len(b)-1] = "end"
	d = diffTexts(t, a, b)
	var places, changes []string
	for _, w := range rowWords(d) {
		switch w[0] {
		case '@':
			places = append(places, w)
		case '-', '+':
			changes = append(changes, w)
		}
	}
	if fmt.Sprint(places) != "[@7,7 @29998,29998 @40018,39998 @59997,59979]" || d.Cut != "" {
		t.Errorf("differences at %v, cut %q", places, d.Cut)
	}
	var want []string
	want = append(want, "-"+a[9], "+ten")
	for _, l := range a[30_000:30_020] {
		want = append(want, "-"+l)
	}
	want = append(want, "+new", "+new", "-"+a[59_999], "+end")
	if !slices.Equal(changes, want) {
		t.Errorf("changes: %.60q", changes)
	}
	if d := diffTexts(t, a, a); !d.Same || d.Cut != "" || len(d.Rows) > 0 {
		t.Error("a log differs from itself")
	}
	if d := diffTexts(t, a, a[:59_990]); d.Same || len(d.Rows) != 14 {
		t.Errorf("a log that ends earlier: %.60q", rowWords(d))
	}
	if d := diffTexts(t, nil, a[:2]); fmt.Sprint(len(d.Rows)) != "3" || d.Rows[1].Sign != "+" {
		t.Errorf("beside an empty log: %.60q", rowWords(d))
	}
	if d := diffTexts(t, numbered(50_000, 99), a); d.Same || d.Cut != "full" || len(d.Rows) == 0 {
		t.Error("logs that share nothing")
	}
}

// A difference leads from one log to the other, whatever they are, where windows end too.
func TestDiffApplies(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for round := range 60 {
		n := 1 + rnd.IntN(3000)
		a := numbered(n, 400) // up to two windows and a half
		for i := range a {    // some lines are many times there
			if rnd.IntN(3) == 0 {
				a[i] = strings.Repeat("y", 400)
			}
		}
		var b []string
		at := rnd.IntN(n)
		for i, l := range a {
			switch {
			case rnd.IntN(n) < 8:
				b = append(b, l+" changed")
			case rnd.IntN(n) < 4:
				b = append(b, numbered(rnd.IntN(30), 10)...)
			case i >= at && i < at+rnd.IntN(40):
			default:
				b = append(b, l)
			}
		}
		d := diffTexts(t, a, b)
		if d.Cut != "" { // there was too much to show
			a, b = a[:d.A-1], b[:d.B-1]
		}
		var got []string
		next := 0
		for _, r := range d.Rows {
			switch text := r.plain(); r.Sign {
			case "@":
				if r.A-1 < next || r.A > len(a)+1 {
					t.Fatalf("round %d: a hunk at line %d behind line %d", round, r.A, next)
				}
				got = append(got, a[next:r.A-1]...)
				next = r.A - 1
				if len(got) != r.B-1 {
					t.Fatalf("round %d: a hunk at line %d of b, want %d", round, r.B, len(got)+1)
				}
			case "+":
				got = append(got, text)
			default:
				if next >= len(a) || a[next] != text {
					t.Fatalf("round %d: the row %s%.40q is not line %d", round, r.Sign, text, next+1)
				}
				if next++; r.Sign == " " {
					got = append(got, text)
				}
			}
		}
		got = append(got, a[next:]...)
		if !slices.Equal(got, b) {
			t.Fatalf("round %d: %d lines are made of %d, want %d", round, len(got), len(a), len(b))
		}
	}
}

// What is too long to be shown is compared all the same.
func TestDiffLongLines(t *testing.T) {
	long := strings.Repeat("x", 2*maxShown)
	if d := diffTexts(t, []string{long + "a"}, []string{long + "b"}); d.Same {
		t.Error("lines that differ behind what is shown are the same")
	}
	if d := diffTexts(t, []string{"a\x1b[31mb"}, []string{"ab"}); !d.Same {
		t.Error("colour is a difference")
	}
}

// endlessFile is a log without an end.
type endlessFile struct{ fs.File }

func (endlessFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	for i := range p {
		p[i] = 'x'
		if (off+int64(i))%100 == 99 {
			p[i] = '\n'
		}
	}
	return len(p), nil
}

// Logs that have no end are compared for as far as a page may read, and the page says so.
func TestDiffEndless(t *testing.T) {
	side := func() *diffSide {
		return &diffSide{first: 1, lr: &lineReader{ctx: t.Context(), f: endlessFile{}}}
	}
	d, err := diffLogs(t.Context(), side(), side())
	if err != nil || !d.Same || d.Cut != "late" || d.A < 2 || d.A > diffRead/100+diffWindow {
		t.Errorf("endless logs: %+v, %v", d, err)
	}
}

// The page says what it leaves out, with links to the lines.
func TestCompareCut(t *testing.T) {
	s, x, b := newReadSite(t)
	const other = "3f2a9c1d0b7e.2"
	lines := numbered(40_000, 60)
	log := func(lines []string) map[string]string {
		return map[string]string{"step/test/log": logLines(len(lines), func(i int) string { return lines[i-1] })}
	}
	x.run(testRun, "passed", log(lines))
	changed := slices.Clone(lines)
	for i := range 20_000 {
		changed[20_000+i] += " <b>changed"
	}
	x.run(other, "passed", log(changed))
	at := "/compare/" + testSpace + "?run=box/" + testRun + "&run=box/" + other
	doc, _ := b.page(at)
	text := words(doc)
	if !strings.Contains(text, "This is not all. The logs differ on from line 20") || !strings.Contains(text, "line 19998 of A, line 19998 of B") {
		t.Errorf("the page: %s", text)
	}
	hasLink(t, doc, "/log/box/"+testRun+"/test/"+testSpace+"?from=19998#L19998")
	hasLink(t, doc, "/log/box/"+other+"/test/"+testSpace+"?from=19998#L19998")
	// Comparisons take memory, so there are few at once, and nobody has all of them.
	stranger, another, count := "192.0.2.1/32", "192.0.2.2/32", &s.limits.compare
	for count.Take(stranger) == limit.Free {
	}
	b.page(at)
	for count.Take(another) == limit.Free {
	}
	wants(t, "one comparison too many", b.get(at), http.StatusServiceUnavailable, "too much to do")
	count.Give(stranger)
	b.page(at)
	count.Give(stranger)
	for count.Take(alice.Principal) == limit.Free {
	}
	wants(t, "one comparison of alice's too many", b.get(at), http.StatusTooManyRequests, "too much open")
}
