package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/sign"
	"9ci/fs/ci"
	"9ci/fs/store"
)

// A shownRun is a run in the store of a test. What it does not say is as of a run of the
// commit that its executor would replay.
type shownRun struct {
	by      string // alice, who is trusted, or mallory; "": alice
	state   string // "": passed. queued: it has not ended
	commit  string
	matches bool   // by its tree alone: CI_MATCH=tree
	attrs   string // of the key, that are other ones: NAME=VALUE
	ago     time.Duration
	harm    string // a file of it that is changed, or with a - before it removed; .: the directory's mode is changed
}

// Vouch takes the first run, in the order of ci/REV, that one can vouch for: the commit's own
// before those of its tree. If there is none, it says what is wrong with the best.
func TestPassedRun(t *testing.T) {
	const (
		commit, other = "3f2a9c1d0b7e5f6a7b8c9d0e1f2a3b4c5d6e7f80", "aaaabbbbccccddddeeeeffff0000111122223333"
		tree          = "0123456789abcdef0123456789abcdef01234567"
		hour          = time.Hour
	)
	keys := map[string]ssh.Signer{}
	for _, name := range []string{"alice", "mallory"} {
		s, err := sign.LoadKey(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = s
	}
	trusted := new(sign.Signers)
	trusted.Add("alice", keys["alice"].PublicKey())

	for name, test := range map[string]struct {
		runs  []shownRun
		want  int    // of runs; -1: none
		says  string // why
		since int    // the run that failed since; 0: none
	}{
		"none":                             {nil, -1, "there is no run of it here: 9ci runs it, or replays one", 0},
		"one":                              {[]shownRun{{}}, 0, "", 0},
		"the newest":                       {[]shownRun{{ago: 2 * hour}, {ago: hour}}, 1, "", 0},
		"nobody trusts the best":           {[]shownRun{{ago: hour}, {by: "mallory"}}, 0, "", 0},
		"nobody trusts any":                {[]shownRun{{ago: hour, by: "mallory"}, {by: "mallory"}}, -1, ".2: its signer SHA256:", 0},
		"the best is changed":              {[]shownRun{{ago: hour}, {harm: "stdout"}}, 0, "", 0},
		"the best has another mode":        {[]shownRun{{ago: hour}, {harm: "."}}, 0, "", 0},
		"the best has no manifest":         {[]shownRun{{ago: hour}, {harm: "-manifest"}}, 0, "", 0},
		"the best has no signature":        {[]shownRun{{ago: hour}, {harm: "-manifest.sig"}}, 0, "", 0},
		"the best has no key":              {[]shownRun{{ago: hour}, {harm: "-key"}}, 0, "", 0},
		"all are changed":                  {[]shownRun{{ago: hour, harm: "stdout"}, {harm: "stderr"}}, -1, ".2 is not what its manifest says: stderr: its SHA-256", 0},
		"three that do not count":          {[]shownRun{{ago: 3 * hour}, {ago: 2 * hour, attrs: "runs=1"}, {ago: hour, harm: "stdout"}, {by: "mallory"}}, 0, "", 0},
		"the best saw what is kept":        {[]shownRun{{ago: hour}, {attrs: "runs=1"}}, 0, "", 0},
		"all saw what is kept":             {[]shownRun{{attrs: "runs=1"}}, -1, "its run saw what its executor keeps", 0},
		"one failed since":                 {[]shownRun{{ago: hour}, {state: "failed"}}, 0, "", 1},
		"one failed before":                {[]shownRun{{ago: hour, state: "failed"}, {}}, 1, "", 0},
		"one of another key failed since":  {[]shownRun{{ago: hour}, {state: "failed", attrs: "net=all"}}, 0, "", 0},
		"one was cancelled since":          {[]shownRun{{ago: hour}, {state: "cancelled"}}, 0, "", 0},
		"all failed":                       {[]shownRun{{ago: hour, state: "failed"}, {state: "error"}}, -1, ".1 ended as failed", 0},
		"one is under way":                 {[]shownRun{{ago: hour}, {state: "queued"}}, 0, "", 0},
		"all are under way":                {[]shownRun{{state: "queued"}}, -1, ".1 has not ended: 9ci wait 3f2a9c1d0b7e waits for it", 0},
		"the newer is of other targets":    {[]shownRun{{ago: hour}, {attrs: "target=lint"}}, 0, "", 0},
		"all are of other targets":         {[]shownRun{{attrs: "target=lint"}}, -1, `its run is of the targets "lint" and not of test`, 0},
		"of other targets, and one failed": {[]shownRun{{attrs: "target=lint"}, {state: "failed"}}, -1, ".2 ended as failed", 0},

		"the tree's":                         {[]shownRun{{commit: other, matches: true}}, 0, "", 0},
		"its own is older than the tree's":   {[]shownRun{{ago: hour}, {commit: other, matches: true}}, 0, "", 0},
		"its own failed, the tree's passed":  {[]shownRun{{commit: other, matches: true, ago: hour}, {state: "failed"}}, 0, "", 0},
		"its own is changed":                 {[]shownRun{{commit: other, matches: true, ago: hour}, {harm: "stdout"}}, 0, "", 0},
		"nobody trusts its own":              {[]shownRun{{commit: other, matches: true, ago: hour}, {by: "mallory"}}, 0, "", 0},
		"its own is under way":               {[]shownRun{{commit: other, matches: true, ago: hour}, {state: "queued"}}, 0, "", 0},
		"its own is of other targets":        {[]shownRun{{commit: other, matches: true, ago: hour}, {attrs: "target=lint"}}, 0, "", 0},
		"nobody trusts the best of the tree": {[]shownRun{{commit: other, matches: true, ago: hour}, {commit: other, matches: true, by: "mallory"}}, 0, "", 0},
		"its own failed, the tree's too":     {[]shownRun{{state: "failed", ago: hour}, {commit: other, matches: true, state: "failed"}}, -1, ".1 ended as failed", 0},
		"another commit's":                   {[]shownRun{{commit: other}}, -1, "there is no run of it here", 0},
		"another commit's is the newest":     {[]shownRun{{commit: other, matches: true, ago: hour}, {commit: other}}, 0, "", 0},
		"its own failed, another's passed":   {[]shownRun{{state: "failed", ago: hour}, {commit: other}}, -1, ".1 ended as failed", 0},
	} {
		t.Run(name, func(t *testing.T) {
			st, err := store.Open(filepath.Join(t.TempDir(), "store"))
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			now := time.Now()
			ids := make([]string, len(test.runs))
			for i, r := range test.runs {
				if r.commit == "" {
					r.commit = commit
				}
				run, err := st.Create(r.commit)
				if err != nil {
					t.Fatal(err)
				}
				ids[i] = run.ID()
				key := map[string]string{"commit": r.commit, "target": "test", "net": "build"}
				if r.matches {
					delete(key, "commit")
					key["tree"] = tree
				}
				if name, value, ok := strings.Cut(r.attrs, "="); ok {
					key[name] = value
				}
				var attrs ci.Attrs
				for name, value := range key {
					attrs = append(attrs, ci.Attr{Name: name, Value: value})
				}
				run.SetKey(attrs)
				run.SetInfo(ci.Attrs{{Name: "tree", Value: tree}, {Name: "end", Value: ci.FormatTime(now.Add(-r.ago))}})
				if r.state == "queued" {
					continue
				}
				state, code := "passed", 0
				if r.state != "" {
					state, code = r.state, 1
				}
				signer := keys["alice"]
				if r.by != "" {
					signer = keys[r.by]
				}
				if err := run.Seal(t.Context(), state, code, func(m []byte) ([]byte, error) { return sign.Manifest(signer, m) }); err != nil {
					t.Fatal(err)
				}
				harm(t, filepath.Join(st.RunDir(), run.ID()), r.harm)
			}
			run, result, err := passedRun(st, trusted, commit, tree)
			if test.want < 0 {
				if none := (*nothing)(nil); !errors.As(err, &none) || !strings.Contains(err.Error(), test.says) {
					t.Fatalf("passedRun = %s, %v, want that %q", run.ID, err, test.says)
				}
				return
			}
			if err != nil || run.ID != ids[test.want] || result.Score != run.Score || result.Commit != commit || result.Signer != sign.Fingerprint(keys["alice"].PublicKey()) {
				t.Fatalf("passedRun = %s, %+v, %v, want %s", run.ID, result, err, ids[test.want])
			}
			if since, ok := failedSince(st, run); ok != (test.since > 0) || ok && since.ID != ids[test.since] {
				t.Errorf("failedSince(%s) = %s, %v", run.ID, since.ID, ok)
			}
		})
	}
}

// harm changes a sealed run as a shownRun says.
func harm(t *testing.T, dir, name string) {
	t.Helper()
	if name == "" {
		return
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if name == "." {
		return
	}
	if gone, ok := strings.CutPrefix(name, "-"); ok {
		if err := os.Remove(filepath.Join(dir, gone)); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := os.Chmod(filepath.Join(dir, name), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte("ok\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}
