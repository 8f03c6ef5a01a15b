package web

import (
	"bytes"
	"context"
	"errors"
	"html/template"
	iofs "io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
)

// badgePolicy is the Content-Security-Policy of a badge: it is a picture, and nothing else
// if somebody opens it.
const badgePolicy = "default-src 'none'; sandbox; frame-ancestors 'none'"

// badgeColours are by state, of a contrast of 4.5 and more with white text. Others have
// the last.
var badgeColours = map[string]string{"passed": "#1a7f37", "failed": "#b3261e", "error": "#b3261e", "": "#565866"}

var badge = template.Must(template.New("badge").Parse(`<svg xmlns="http://www.w3.org/2000/svg" width="{{.Width}}" height="20" role="img" aria-label="9ci: {{.State}}"><title>9ci: {{.State}}</title><rect width="{{.Width}}" height="20" rx="3" fill="#1a1b20"/><path d="M34 0h{{.Run}}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3H34z" fill="{{.Colour}}"/><g fill="#fff" font-family="DejaVu Sans,Verdana,Geneva,sans-serif" font-size="11"><text x="7" y="14">9ci</text><text x="41" y="14">{{.State}}</text></g></svg>
`))

// badge draws the state of the newest run that has ended in a namespace that everybody may
// read, or of the newest of a revision: of the branch whose last commit that is. It shows
// no account more than nobody: it stands on other sites.
func (p *Page) badge(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	state, status := "unknown", http.StatusOK
	switch got, err := p.lastState(ctx, r); {
	case err == nil && got != "":
		state = got
	case err == nil:
	case errors.Is(err, iofs.ErrNotExist), err == errNoPage:
		status = http.StatusNotFound
	default:
		from, _ := client(r)
		p.note(from, slog.LevelWarn, "path", "/badge", "err", clip(err.Error()))
		status = http.StatusServiceUnavailable
	}
	colour := badgeColours[state]
	if colour == "" {
		colour = badgeColours[""]
	}
	width := 48 + 7*len(state)
	var b bytes.Buffer
	if err := badge.Execute(&b, struct {
		State, Colour string
		Width, Run    int
	}{state, colour, width, width - 37}); err != nil {
		p.log.Error("page", "what", "badge", "err", err)
	}
	h := w.Header()
	h.Set("Content-Type", "image/svg+xml")
	h.Set("Content-Security-Policy", badgePolicy)
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("Cache-Control", "public, max-age=60")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

// lastState returns the state that a badge shows; "" if there is no run.
func (p *Page) lastState(ctx context.Context, q *http.Request) (state string, err error) {
	ns, ok := strings.CutSuffix(q.PathValue("ns"), ".svg")
	if !ok || p.trees == nil {
		return "", errNoPage
	}
	at, err := parsePlace(ns, "", "")
	if err != nil {
		return "", err
	}
	from, _ := q.Context().Value(fromKey{}).(netip.Addr)
	root, release, err := p.trees.Tree(ctx, nil, from)
	if err != nil {
		return "", err
	}
	defer release()
	r := &reading{&visit{page: p}, ctx, root}
	query := parseRunQuery(q.URL.Query())
	query.State, query.Signer = "", ""
	err = r.eachRun(at.Namespace, query.words(), func(l runLine) bool {
		if l.Finished() && l.State != "cancelled" && query.wants(&l) {
			state = l.State
		}
		return state == ""
	})
	return state, err
}
