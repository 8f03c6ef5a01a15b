// Package version is the revision of the sources that a program was built of.
package version

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"time"
)

// revision is set by the mkfile: git describe of the sources.
var revision string

// String returns the revision: what the mkfile has set, or else the version of the
// module, as go install MODULE@VERSION and go build in a clone say it. It is unknown if
// the program has neither, as that of go run and of go build -buildvcs=false.
func String() string {
	if revision != "" {
		return revision
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "unknown"
}

// Time returns the time of what is made from these sources, in UTC: SOURCE_DATE_EPOCH
// of the environment (https://reproducible-builds.org/specs/source-date-epoch), else
// the time of the commit that the program was built of, else now.
func Time() (time.Time, error) {
	if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%s: want seconds since 1970, as date +%%s prints them", s)
		}
		return time.Unix(n, 0).UTC(), nil
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key != "vcs.time" {
				continue
			}
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				return t.UTC(), nil
			}
		}
	}
	return time.Now().UTC(), nil
}
