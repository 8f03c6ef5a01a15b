package ninep

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"9ci/fs"
	"9ci/proto/internal/testtree"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
)

// TestTraces plays the conversations in testdata. A line is
//
//	<- Tmessage	sent to the server; those that follow one another in one write
//	-> Rmessage	what the server must say next; * stands for any word
//	log TEXT	the live file grows by TEXT, a Go string
//	waiting	a reader has come to the end of the live file
//	closed	the live file has been closed
//	silence	the server says nothing: a Tflush of an unknown tag comes back alone
func TestTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no traces: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { playTrace(t, file) })
	}
}

func playTrace(t *testing.T, file string) {
	script, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	root, log := testtree.New()
	arrived, closed := log.Watch()
	conn := serve(t, &Server{Root: root, User: fs.User{Name: "glenda", UID: 1000}})
	fr := wire.NewReader(conn)
	d := Plan9
	if strings.Contains(string(script), "9P2000.L") {
		d = DotL
	}
	next := func(n int, want string) {
		t.Helper()
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		frame, err := fr.Next(wire.MaxMsize)
		if err != nil {
			t.Fatalf("%s:%d: %v, want %s", file, n, err, want)
		}
		if got := wire.Text(d, frame, 1<<20); !matches(want, got) {
			t.Fatalf("%s:%d:\ngot  %s\nwant %s", file, n, got, want)
		}
	}
	var burst []byte
	for i, line := range strings.Split(string(script), "\n") {
		n := i + 1
		verb, rest, _ := strings.Cut(line, " ")
		if verb != "<-" && len(burst) > 0 {
			if _, err := conn.Write(burst); err != nil {
				t.Fatal(err)
			}
			burst = nil
		}
		switch verb {
		case "", "#":
		case "<-":
			frame, err := parse(d, rest)
			if err != nil {
				t.Fatalf("%s:%d: %v", file, n, err)
			}
			burst = append(burst, frame...)
		case "->":
			next(n, rest)
		case "log":
			s, err := strconv.Unquote(rest)
			if err != nil {
				t.Fatalf("%s:%d: %v", file, n, err)
			}
			log.Append(s, false)
		case "waiting":
			<-arrived
		case "closed":
			<-closed
		case "silence":
			go conn.Write([]byte{9, 0, 0, 0, plan9.Tflush, 0xee, 0xee, 0xdd, 0xdd})
			next(n, "Rflush tag 61166")
		default:
			t.Fatalf("%s:%d: %s?", file, n, verb)
		}
	}
}

// matches compares word by word.
func matches(want, got string) bool {
	w, g := strings.Fields(want), strings.Fields(got)
	if len(w) != len(g) {
		return false
	}
	for i := range w {
		if w[i] != g[i] && w[i] != "*" {
			return false
		}
	}
	return true
}

// parse is the inverse of text.
func parse(d Dialect, line string) ([]byte, error) {
	name, rest, _ := strings.Cut(line, " ")
	for typ, l := range wire.Layouts[d] {
		if l == nil || l.Name != name {
			continue
		}
		p := &parser{rest: rest}
		b := wire.Begin(nil, uint8(typ), uint16(p.number("tag")))
		for i, f := range l.Fields {
			if i >= len(l.Fields)-l.Optional && strings.TrimSpace(p.rest) == "" {
				break
			}
			b = p.field(b, f)
		}
		if p.err != nil || strings.TrimSpace(p.rest) != "" {
			return nil, fmt.Errorf("%s: %v, %q is left", name, p.err, p.rest)
		}
		return wire.End(b, 0), nil
	}
	// A raw frame: its type, its tag, and its bytes.
	var typ, tag int
	var data string
	if _, err := fmt.Sscanf(line, "T%d tag %d data %q", &typ, &tag, &data); err != nil {
		return nil, fmt.Errorf("%s: no such message", name)
	}
	return wire.End(append(wire.Begin(nil, uint8(typ), uint16(tag)), data...), 0), nil
}

type parser struct {
	rest string
	err  error
}

func (p *parser) word(name string) string {
	got, rest, _ := strings.Cut(strings.TrimSpace(p.rest), " ")
	if got != name {
		p.err = fmt.Errorf("field %q, want %q", got, name)
	}
	return p.value(rest)
}

func (p *parser) value(s string) string {
	s = strings.TrimLeft(s, " ")
	if q, err := strconv.QuotedPrefix(s); err == nil {
		p.rest = s[len(q):]
		u, _ := strconv.Unquote(q)
		return u
	}
	if strings.HasPrefix(s, "[") {
		list, rest, ok := strings.Cut(s, "]")
		if !ok {
			p.err = fmt.Errorf("%q does not end", s)
		}
		p.rest = rest
		return list[1:]
	}
	w, rest, _ := strings.Cut(s, " ")
	p.rest = " " + rest
	return w
}

func (p *parser) number(name string) uint64 {
	s := p.word(name)
	if s == "-1" {
		return 1<<64 - 1
	}
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		p.err = err
	}
	return n
}

func (p *parser) field(b []byte, f wire.Field) []byte {
	switch f.Kind {
	case wire.Kind8:
		return append(b, uint8(p.number(f.Name)))
	case wire.Kind16:
		return le.AppendUint16(b, uint16(p.number(f.Name)))
	case wire.Kind32:
		return le.AppendUint32(b, uint32(p.number(f.Name)))
	case wire.Kind64:
		return le.AppendUint64(b, p.number(f.Name))
	case wire.KindStr:
		return wire.AppendString(b, p.word(f.Name))
	case wire.KindData:
		s := p.word(f.Name)
		return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
	case wire.KindStat:
		return wire.AppendString(b, p.word(f.Name))
	case wire.KindQid:
		return p.qid(b, p.word(f.Name))
	}
	words := p.word(f.Name)
	list := &parser{rest: words}
	var items []string
	for strings.TrimSpace(list.rest) != "" {
		items = append(items, list.value(list.rest))
	}
	b = le.AppendUint16(b, uint16(len(items)))
	for _, s := range items {
		if f.Kind == wire.KindNames {
			b = wire.AppendString(b, s)
		} else {
			b = p.qid(b, s)
		}
	}
	return b
}

func (p *parser) qid(b []byte, s string) []byte {
	var q plan9.Qid
	if _, err := fmt.Sscanf(s, "%x.%x.%x", &q.Path, &q.Vers, &q.Type); err != nil {
		p.err = err
	}
	return wire.AppendQid(b, q)
}
