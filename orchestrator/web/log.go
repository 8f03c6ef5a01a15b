package web

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"9ci/fs/ci"
)

// What an answer has of a log. The HTML of a page stays below 50 KB with its frame.
const (
	pageRows  = 250      // on a page
	pageRoom  = 38 << 10 // bytes of HTML of these
	chunkRows = 500      // for the script, which scrolls
	chunkRoom = 256 << 10
	maxFound  = 100 // lines that a search lists
)

// A logView is a page of a log.
type logView struct {
	Place   place
	Step    string
	Rows    []row
	First   int // the line that the page begins with
	Next    int // the line behind the page; 0 at the end
	Back    int // the line that the page before begins with; 0 at the beginning
	Lines   int // of the log; 0 if it is too long for that to be known
	Query   string
	Found   bool // the rows are what a search found
	Onward  int  // the line from which the search goes on; 0 at the end
	Chunk   int  // rows of a chunk
	Unknown int  // the line that was asked for is beyond this one, which is the last that is known yet
}

// URL returns the path of the log of a step.
func (x logView) URL() string { return x.Place.URL("log", x.Step) }

// At returns the URL of the page that begins at a line.
func (x logView) At(line int) string { return x.URL() + "?from=" + strconv.Itoa(line) }

// On returns the URL of what a search finds from a line on.
func (x logView) On(line int) string {
	return x.URL() + "?" + url.Values{"q": {x.Query}, "from": {strconv.Itoa(line)}}.Encode()
}

func (x logView) End() int { return max(1, x.Lines-pageRows+1) }

// stepLog returns the path of the log of a step, of a service, or of all steps.
func stepLog(at place, step string) (path string, ok bool) {
	if step == "all" {
		return at.Path() + "/log", true
	}
	if name, ok := strings.CutPrefix(step, servicePrefix); ok {
		return at.Path() + "/service/" + name + "/log", isService(name)
	}
	return at.Path() + "/step/" + step + "/log", slices.Contains(ci.Steps, step)
}

// showLog shows a page of a log: from a line on, or the lines that a search finds.
func (p *Page) showLog(r *reading) error {
	at, err := r.place()
	if err != nil {
		return err
	}
	step := r.r.PathValue("step")
	path, ok := stepLog(at, step)
	if !ok {
		return errNoPage
	}
	l, err := r.openLog(path)
	if err != nil {
		return err
	}
	defer l.Close()
	query := r.r.URL.Query()
	from, _ := strconv.Atoi(query.Get("from"))
	from = min(max(from, 1), 1<<40)
	x := logView{Place: at, Step: step, Query: query.Get("q"), Chunk: chunkRows}
	if len(x.Query) > 200 || !utf8.ValidString(x.Query) {
		return &problem{http.StatusBadRequest, "That is too long to search for: 200 bytes at most."}
	}
	most, room := pageRows, pageRoom
	if r.wantsJSON() {
		most, room = chunkRows, chunkRoom
	}
	lr, n, err := l.seek(r.ctx, from)
	if errors.Is(err, errFar) {
		x.Unknown = n
	} else if err != nil {
		return err
	}
	x.First = n
	if x.Query != "" {
		x.Found = true
		x.Rows, x.Onward, err = l.search(lr, n, x.Query, len(x.At(n))+30)
	} else {
		var next int
		x.Rows, next, err = l.rows(lr, n, most, room)
		if _, more := lr.next(); more == nil {
			x.Next = next
		}
	}
	if err != nil {
		return err
	}
	if r.wantsJSON() {
		return r.json(http.StatusOK, struct {
			Rows []row `json:"rows"`
			Next int   `json:"next"`
		}{x.Rows, x.Next})
	}
	if x.Lines, err = l.lines(r.ctx); errors.Is(err, errFar) {
		x.Lines = 0
	} else if err != nil {
		return err
	}
	if x.First > 1 {
		x.Back = max(1, x.First-pageRows)
	}
	r.reads = true
	return r.render(http.StatusOK, "log", "Log of "+visible(strings.Replace(step, servicePrefix, "the service ", 1)), x)
}

// search returns rows that have a text, from a line on, and the line from which a search
// goes on, 0 if there are no more. Each row has each bytes of HTML besides its own. Large and
// small letters are the same.
func (l *log) search(r *lineReader, line int, query string, each int) (rows []row, onward int, err error) {
	query = strings.ToLower(query)
	room := pageRoom
	for until := r.work + maxScan; ; line++ {
		if len(rows) == maxFound || room < 0 || r.work > until {
			return rows, line, nil
		}
		text, err := r.next()
		if err == io.EOF {
			return rows, 0, nil
		}
		if err != nil {
			return rows, line, err
		}
		l.marks.note(line+1, r.off)
		if strings.Contains(strings.ToLower(plainText(text)), query) {
			got := newRow(line, text)
			rows = append(rows, got)
			room -= got.size() + each
		}
	}
}
