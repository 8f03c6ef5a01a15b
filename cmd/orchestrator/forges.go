package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"

	"9ci/orchestrator/access/account"
	"9ci/orchestrator/access/forge"
	"9ci/orchestrator/web"
)

// openForges returns the forges of a state directory, which need not be there yet.
func openForges(state string, log *slog.Logger) (forges, error) {
	f, err := forge.Open(filepath.Join(state, forge.File), log)
	if err != nil {
		return forges{}, fmt.Errorf("state: %w", err)
	}
	return forges{f}, nil
}

// forges are what the page takes for forges.
type forges struct{ *forge.Forges }

func (f forges) List() (all []web.Forge) {
	for _, i := range f.Forges.List() {
		all = append(all, web.Forge{Name: i.Name, Label: i.Label})
	}
	return all
}

func (f forges) Finish(ctx context.Context, name, redirectURI string, answer url.Values, nonce, verifier string) (account.Person, []byte, error) {
	p, token, err := f.Forges.Finish(ctx, name, redirectURI, answer, nonce, verifier)
	return account.Person(p), token, err
}
