package replay

import (
	"crypto/sha256"
	"encoding/hex"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"9ci/cmd/internal/config"
	"9ci/fs/ci"
	"9ci/vm"
)

// Version is the attribute version of a key. Raise it when the meaning of a run
// changes: runs of different versions are not interchangeable.
const Version = 1

// Key returns the key of a run of targets at a commit with the tree given, in the
// configuration c. Every attribute is always there, but for runs: a run with CI_RUNS=1
// depends on what its executor keeps, so its key has an attribute more, and is that of
// no run that anybody looks for. Lists of variables are sorted: their order changes
// nothing in the machine. Check of the key reports a target with a newline in it.
func Key(c *config.Config, commit, tree string, targets []string) ci.Attrs {
	what := ci.Attr{Name: "commit", Value: commit}
	if c.MatchTree {
		what = ci.Attr{Name: "tree", Value: tree}
	}
	key := ci.Attrs{
		{Name: "arch", Value: runtime.GOARCH},
		what,
		{Name: "cache"}, // there are no kept directories yet
		{Name: "coreos", Value: vm.CoreOS},
		{Name: "env", Value: ci.QuoteWords(slices.Sorted(slices.Values(c.Env)))},
		{Name: "net", Value: c.Net},
		{Name: "secrets", Value: ci.QuoteWords(slices.Sorted(slices.Values(Secrets(c))))},
		{Name: "target", Value: ci.QuoteWords(targets)},
		{Name: "version", Value: strconv.Itoa(Version)},
	}
	if c.Runs {
		key = append(key, ci.Attr{Name: "runs", Value: "1"})
	}
	return key.Sorted()
}

// Secrets returns the names of c's secrets.
func Secrets(c *config.Config) []string {
	var names []string
	for _, s := range c.Secrets {
		name, _, _ := strings.Cut(s, "=")
		names = append(names, name)
	}
	return names
}

// Digest returns the SHA-256 of a key's text in hexadecimal.
func Digest(key ci.Attrs) string {
	sum := sha256.Sum256(key.Text())
	return hex.EncodeToString(sum[:])
}
