package ninep

import (
	"fmt"
	"strconv"
	"strings"

	"9fans.net/go/plan9"
)

// text is a frame as a trace shows it: the type, its tag, and its fields by
// name, for example
//
//	Twalk tag 1 fid 0 newfid 1 wname [ci head]
//
// Strings are quoted as Go does unless they are plain words. Data longer than
// max bytes is cut; its length then follows.
func text(d Dialect, frame []byte, max int) string {
	typ, tag := frame[4], le.Uint16(frame[5:])
	l := layouts[known(d)][typ]
	if l == nil {
		return fmt.Sprintf("T%d tag %d data %q", typ, tag, clip(frame[headerSize:], max))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s tag %d", l.name, tag)
	if !l.fits(frame) {
		fmt.Fprintf(&b, " malformed %q", clip(frame[headerSize:], max))
		return b.String()
	}
	dec := decoder{b: frame[headerSize:]}
	for _, f := range l.fields {
		fmt.Fprintf(&b, " %s %s", f.name, dec.text(f, max))
	}
	return b.String()
}

// known is d, or before Tversion the dialect whose Tversion both share.
func known(d Dialect) Dialect {
	if d == None {
		return Plan9
	}
	return d
}

func (d *decoder) text(f field, max int) string {
	switch f.kind {
	case kind8:
		return strconv.Itoa(int(d.u8()))
	case kind16:
		return strconv.Itoa(int(d.u16()))
	case kind32:
		n := d.u32()
		if n == plan9.NOFID {
			return "-1"
		}
		return strconv.FormatUint(uint64(n), 10)
	case kind64:
		return strconv.FormatUint(d.u64(), 10)
	case kindQid:
		return qidText(d.qid())
	case kindStr:
		return word(d.str())
	case kindNames:
		var s []string
		for n := d.u16(); n > 0; n-- {
			s = append(s, word(d.str()))
		}
		return "[" + strings.Join(s, " ") + "]"
	case kindQids:
		var s []string
		for n := d.u16(); n > 0; n-- {
			s = append(s, qidText(d.qid()))
		}
		return "[" + strings.Join(s, " ") + "]"
	case kindData:
		b := d.bytes()
		if len(b) > max {
			return fmt.Sprintf("%q... count %d", b[:max], len(b))
		}
		return strconv.Quote(string(b))
	}
	return strconv.Quote(string(d.take(int(d.u16()))))
}

// qidText is path.vers.type in hexadecimal, as in 1f.0.80.
func qidText(q plan9.Qid) string { return fmt.Sprintf("%x.%x.%x", q.Path, q.Vers, q.Type) }

func word(s string) string {
	for _, r := range s {
		if r <= ' ' || r >= 0x7f || strings.ContainsRune("\"'[]*", r) {
			return strconv.Quote(s)
		}
	}
	if s == "" {
		return `""`
	}
	return s
}

func clip(b []byte, max int) []byte { return b[:min(len(b), max)] }
