package mk

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// An archive is ar(1)'s: a magic string, then for each member a header and
// its bytes, padded to an even number. Long names stand behind the header
// (BSD) or in a member called // (GNU).

const arMagic = "!<arch>\n"

// arHeader is the text of a member's header: 60 bytes.
type arHeader [60]byte

func (h *arHeader) name() []byte { return h[0:16] }
func (h *arHeader) date() int64  { return int64(atoi(string(h[16:28]))) }
func (h *arHeader) size() int64  { return int64(atoi(string(h[48:58]))) }

// blank tells whether date, uid, gid and mode are, as in GNU's //.
func (h *arHeader) blank() bool { return len(bytes.TrimLeft(h[3:48], " ")) == 0 }

// isMember tells whether name is that of an archive's member, a(b).
func isMember(name string) bool { return strings.IndexByte(name, '(') >= 0 }

// split returns the two names of a member. It bails out where the first is
// that of a file, but not of an archive.
func (r *run) split(name string) (archive, member string) {
	archive, member, _ = strings.Cut(name, "(")
	member, _, _ = strings.Cut(member, ")")
	f, err := os.Open(r.cfg.path(archive))
	if err != nil {
		if !r.bitched[archive] && !strings.HasSuffix(archive, ".a") {
			r.out.print(archive + " doesn't exist: assuming it will be an archive\n")
		}
		r.bitched[archive] = true
		return archive, member
	}
	defer f.Close()
	var magic [len(arMagic)]byte
	io.ReadFull(f, magic[:])
	if string(magic[:]) != arMagic {
		r.out.fail("'%s' is not an archive", name)
	}
	return archive, member
}

// memberTime returns when a member was put into its archive, 0 where it is
// not there. The archive is read again when it has changed, or by force.
func (r *run) memberTime(name string, force bool) int64 {
	archive, member := r.split(name)
	t := r.modTime(archive)
	if old, ok := r.archives[archive]; !ok || force || t > old {
		r.readArchive(archive)
		r.archives[archive] = t
	}
	return r.times[archive+"("+member+")"]
}

// readArchive takes note of the times of an archive's members, and returns where
// their headers are.
func (r *run) readArchive(archive string) (headers map[string]int64) {
	f, err := os.Open(r.cfg.path(archive))
	if err != nil {
		return
	}
	headers = make(map[string]int64)
	defer f.Close()
	var table string // of GNU's long names
	skip := int64(len(arMagic))
	for {
		if skip < 0 {
			return
		}
		at, err := f.Seek(skip, io.SeekCurrent)
		if err != nil {
			return
		}
		var h arHeader
		if _, err := io.ReadFull(f, h[:]); err != nil {
			return
		}
		skip = h.size() + h.size()&1
		name := ""
		switch n := h.name(); {
		case bytes.HasPrefix(n, []byte("#1/")):
			length := int64(atoi(string(n[3:])))
			b, err := io.ReadAll(io.LimitReader(f, length))
			if err != nil || int64(len(b)) != length {
				return
			}
			name = string(cutNUL(b))
			skip -= length
		case bytes.HasPrefix(n, []byte("// ")):
			if !h.blank() {
				continue
			}
			b, err := io.ReadAll(io.LimitReader(f, skip))
			if err != nil || int64(len(b)) != skip {
				return
			}
			table = string(cutNUL(b))
			skip = 0
			continue
		case table != "" && n[0] == '/' && '0' <= n[1] && n[1] <= '9':
			digits, _, ok := strings.Cut(string(n[1:]), " ")
			i := atoi(digits)
			if !ok || fmt.Sprint(i) != strings.TrimLeft(digits, "0") && i != 0 || i >= len(table) {
				continue
			}
			name, _, _ = strings.Cut(table[i:], "/")
		default:
			name = strings.TrimRight(string(n[1:]), " ")
			name = string(n[:1]) + name
			name = string(cutNUL([]byte(strings.TrimSuffix(name, "/"))))
		}
		headers[name] = at
		r.times[archive+"("+name+")"] = r.memberUnit(max(h.date(), 1))
	}
}

// memberUnit turns a member's date into the unit of file times. Date 0 was
// made 1 before, since 0 would mean missing.
func (r *run) memberUnit(sec int64) int64 {
	if r.cfg.Nano {
		return sec * int64(time.Second)
	}
	return sec
}

// touchMember sets the date of a member to now, where it is known. An archive
// that does not exist is made, empty.
func (r *run) touchMember(name string) {
	archive, member := r.split(name)
	f, err := os.OpenFile(r.cfg.path(archive), os.O_WRONLY, 0)
	if err != nil {
		if f, err = os.Create(r.cfg.path(archive)); err != nil {
			r.out.error("create " + archive + ": " + errno(err) + "\n")
			panic(bail{err})
		}
		f.WriteString(arMagic)
	}
	defer f.Close()
	at, ok := r.readArchive(archive)[member]
	if !ok {
		return
	}
	if _, err := fmt.Fprintf(io.NewOffsetWriter(f, at+16), "%-12d", time.Now().Unix()); err != nil {
		r.out.error("write " + archive + ": " + errno(err) + "\n")
		panic(bail{err})
	}
}

// members returns the names of the members among prereqs, without their
// archive's.
func members(prereqs []string) (list []string) {
	for _, s := range prereqs {
		if _, s, ok := strings.Cut(s, "("); ok {
			if s, _, ok := strings.Cut(s, ")"); ok {
				list = append(list, s)
			}
		}
	}
	return list
}
