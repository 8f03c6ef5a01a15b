package wire

import (
	"fmt"
	"strconv"
	"strings"

	"9fans.net/go/plan9"
)

// Text returns a frame as a trace shows it: its type, its tag, and its fields by
// name, for example
//
//	Twalk tag 1 fid 0 newfid 1 wname [ci head]
//
// Strings are quoted as Go does unless they are plain words. Data longer than
// max bytes is cut; its length then follows. The frame is at least a header, and
// may be malformed otherwise.
func Text(d Dialect, frame []byte, max int) string {
	typ, tag := frame[4], le.Uint16(frame[5:])
	l := Layouts[Known(d)][typ]
	if l == nil {
		return fmt.Sprintf("T%d tag %d data %q", typ, tag, clip(frame[HeaderSize:], max))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s tag %d", l.Name, tag)
	if !l.Fits(frame) {
		fmt.Fprintf(&b, " malformed %q", clip(frame[HeaderSize:], max))
		return b.String()
	}
	dec := Decoder{B: frame[HeaderSize:]}
	for i, f := range l.Fields {
		if i >= len(l.Fields)-l.Optional && len(dec.B) == 0 {
			break
		}
		fmt.Fprintf(&b, " %s %s", f.Name, dec.text(f, max))
	}
	return b.String()
}

// Known returns d, or Plan9 before Tversion: both dialects have the same
// Tversion.
func Known(d Dialect) Dialect {
	if d == None {
		return Plan9
	}
	return d
}

func (d *Decoder) text(f Field, max int) string {
	switch f.Kind {
	case Kind8:
		return strconv.Itoa(int(d.U8()))
	case Kind16:
		return strconv.Itoa(int(d.U16()))
	case Kind32:
		n := d.U32()
		if n == plan9.NOFID {
			return "-1"
		}
		return strconv.FormatUint(uint64(n), 10)
	case Kind64:
		return strconv.FormatUint(d.U64(), 10)
	case KindQid:
		return qidText(d.Qid())
	case KindStr:
		return word(d.Str())
	case KindNames:
		var s []string
		for n := d.U16(); n > 0; n-- {
			s = append(s, word(d.Str()))
		}
		return "[" + strings.Join(s, " ") + "]"
	case KindQids:
		var s []string
		for n := d.U16(); n > 0; n-- {
			s = append(s, qidText(d.Qid()))
		}
		return "[" + strings.Join(s, " ") + "]"
	case KindData:
		b := d.Bytes()
		if len(b) > max {
			return fmt.Sprintf("%q... count %d", b[:max], len(b))
		}
		return strconv.Quote(string(b))
	}
	return strconv.Quote(string(d.Take(int(d.U16()))))
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
