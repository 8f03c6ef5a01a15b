package access

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs/ci"
	"9ci/orchestrator/internal/statedir"
	"9ci/orchestrator/revoked"
)

// A stateDir is the state directory, of whose files an Authority knows what they say.
type stateDir struct{ statedir.Dir }

// issuedFile has a line for each certificate that has not expired: its serial number,
// principal, the fingerprint of its key, when it expires, and, if it has been revoked,
// that word. The serial numbers ascend, and the last line stays until there is another:
// no number comes a second time.
const issuedFile = "issued"

// trimEvery is how often lines of certificates that have expired are taken out.
const trimEvery = time.Hour

// An issued is a line of issuedFile.
type issued struct {
	serial    uint64
	principal string
	key       string
	expires   time.Time
	revoked   bool
}

func (i issued) line() string {
	s := fmt.Sprintf("%d %s %s %s", i.serial, i.principal, i.key, ci.FormatTime(i.expires))
	if i.revoked {
		s += " revoked"
	}
	return s + "\n"
}

// parseIssued reads the lines of a file. It passes over one that was cut short.
func parseIssued(text []byte) (all []issued) {
	for line := range bytes.Lines(text) {
		if line[len(line)-1] != '\n' {
			continue
		}
		if i, err := parseIssuedLine(string(line)); err == nil {
			all = append(all, i)
		}
	}
	return all
}

func parseIssuedLine(line string) (issued, error) {
	f := strings.Fields(line)
	if len(f) != 4 && (len(f) != 5 || f[4] != "revoked") {
		return issued{}, errors.New("want a serial number, a principal, a fingerprint, a time, and revoked or nothing")
	}
	i := issued{principal: f[1], key: f[2], revoked: len(f) == 5}
	var err error
	if i.serial, err = strconv.ParseUint(f[0], 10, 64); err != nil || i.serial == 0 {
		return issued{}, fmt.Errorf("%.40q is no serial number", f[0])
	}
	i.expires, err = ci.ParseTime(f[3])
	return i, err
}

func formatIssued(all []issued) []byte {
	var b strings.Builder
	for _, i := range all {
		b.WriteString(i.line())
	}
	return []byte(b.String())
}

// addIssued adds a line with a serial number that no line has had, which it returns.
// The lock is held. Lines are added at the end, as there may be thousands: one that a
// loss of power cuts short is passed over.
func (d stateDir) addIssued(now time.Time, i issued) (serial uint64, err error) {
	f, err := d.Create(issuedFile, os.O_RDWR|os.O_APPEND)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	last, whole, err := lastIssued(f)
	if err != nil {
		return 0, err
	}
	switch {
	case last == 0: // without the file, the clock keeps the numbers apart from those that were in it
		i.serial = uint64(max(1, now.Unix()))
	case last == math.MaxUint64:
		return 0, fmt.Errorf("%s has the number %d, after which there is none: take its line out", f.Name(), last)
	default:
		i.serial = last + 1
	}
	text := i.line()
	if !whole {
		text = "\n" + text
	}
	if _, err := f.WriteString(text); err != nil {
		return 0, err
	}
	return i.serial, f.Sync()
}

// lastIssued returns the highest serial number in the file, 0 if there is none, and
// whether its last line has its end. It reads the end of the file if that tells.
func lastIssued(f *os.File) (serial uint64, whole bool, err error) {
	const enough = 8 << 10 // for lines of maxPrincipal
	fi, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	for _, from := range []int64{max(0, fi.Size()-enough), 0} {
		b, err := io.ReadAll(io.NewSectionReader(f, from, fi.Size()-from))
		if err != nil {
			return 0, false, err
		}
		whole = len(b) == 0 || b[len(b)-1] == '\n'
		if from > 0 { // the first line has no beginning
			_, b, _ = bytes.Cut(b, []byte("\n"))
		}
		for _, i := range parseIssued(b) {
			serial = max(serial, i.serial)
		}
		if serial > 0 || from == 0 {
			break
		}
	}
	return serial, whole, nil
}

// trimIssued takes out the lines of certificates that have expired. The lock is held.
func (d stateDir) trimIssued(now time.Time) error {
	text, err := d.Read(issuedFile)
	if err != nil {
		return err
	}
	all := parseIssued(text)
	if len(all) == 0 {
		return nil
	}
	last := slices.MaxFunc(all, func(a, b issued) int { return cmp.Compare(a.serial, b.serial) })
	left := slices.DeleteFunc(all, func(i issued) bool { return i.over(now) && i.serial != last.serial })
	if next := formatIssued(left); !bytes.Equal(next, text) {
		return d.Write(issuedFile, next)
	}
	return nil
}

// over reports whether a certificate has expired by any clock that is right within a
// minute.
func (i issued) over(now time.Time) bool { return now.Sub(i.expires) > early }

// writeKRL writes what issuedFile says is revoked as a KRL of the authority. The lock is
// held.
func (d stateDir) writeKRL(authority ssh.PublicKey) error {
	text, err := d.Read(issuedFile)
	if err != nil {
		return err
	}
	now := time.Now()
	var serials []uint64
	for _, i := range parseIssued(text) {
		if i.revoked && !i.over(now) {
			serials = append(serials, i.serial)
		}
	}
	return d.Write(krlFile, revoked.Format(authority, serials, now))
}
