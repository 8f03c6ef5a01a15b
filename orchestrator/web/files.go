package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strings"
)

//go:embed pages
var pageFiles embed.FS

// A file is one that browsers keep: its path has its digest, and is never another's.
type file struct {
	path, kind string
	text       []byte
}

// files are those of pages that are no pages, by name.
var files = func() map[string]file {
	all := make(map[string]file)
	for name, kind := range map[string]string{
		"style.css":  "text/css; charset=utf-8",
		"passkey.js": "text/javascript; charset=utf-8",
		"log.js":     "text/javascript; charset=utf-8",
		"icon.svg":   "image/svg+xml",
	} {
		text, err := pageFiles.ReadFile("pages/" + name)
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(text)
		ext := path.Ext(name)
		all[name] = file{"/" + strings.TrimSuffix(name, ext) + "-" + hex.EncodeToString(sum[:6]) + ext, kind, text}
	}
	return all
}()

// ServeHTTP answers a request for the file.
func (f file) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", f.kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Write(f.text)
}
