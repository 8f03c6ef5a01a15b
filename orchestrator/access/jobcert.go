package access

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/internal/wire"
)

// byJob is Login by the token of a CI job.
func (a *Authority) byJob(ctx context.Context, token string, key ssh.PublicKey) (*ssh.Certificate, error) {
	switch {
	case a.jobs == nil:
		return nil, refuse(errors.New("a token that is no repository token, and no forge is known whose jobs it could be of"))
	case a.host == "":
		return nil, refuse(errors.New("a CI job's token is made out to the orchestrator's name: start it with -url"))
	}
	select {
	case a.checks <- struct{}{}:
		defer func() { <-a.checks }()
	default:
		return nil, fmt.Errorf("%d tokens of CI jobs are being checked: %w", maxChecks, fs.ErrBusy)
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	j, err := a.jobs.Job(ctx, token, a.host, wire.Fingerprint(key))
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("the forge does not answer: %w: %w", err, fs.ErrBusy)
		}
		if errors.Is(err, fs.ErrBusy) {
			return nil, err
		}
		return nil, refuse(err)
	}
	if err := checkJob(j); err != nil {
		return nil, refuse(fmt.Errorf("a job of %.100q: %w", j.Namespace, err))
	}
	extensions := map[string]string{
		wire.ExtensionNamespace: j.Namespace,
		wire.ExtensionRights:    Grant{Read: true, Publish: j.Publish}.Rights(),
	}
	if j.Commit != "" {
		extensions[wire.ExtensionCommit] = j.Commit
	}
	return a.issue(key, j.Principal, jobLife, extensions, func(time.Time) error {
		err := a.repositories.know(j.Namespace, j.Host, j.RepositoryID)
		if errors.Is(err, ErrOtherRepository) {
			return refuse(err)
		}
		return err
	})
}

// checkJob returns why a job gets no certificate, whatever its forge says.
func checkJob(j Job) error {
	ns, err := ci.CleanNamespace(j.Namespace)
	switch {
	case err != nil:
		return err
	case ns != j.Namespace || ci.LocalNamespace(ns):
		return fmt.Errorf("its namespace is to be %s", ns)
	case !strings.Contains(j.Principal, ":") || strings.HasPrefix(j.Principal, tokenPrincipal):
		return fmt.Errorf("principal %.80q is no job's", j.Principal)
	case !ci.IsHash(j.Commit) && (j.Commit != "" || j.Publish):
		return fmt.Errorf("commit %.80q is not a whole one", j.Commit)
	case j.Host == "" || j.RepositoryID == "" || strings.ContainsAny(j.Host+j.RepositoryID, " \t\r\n"):
		return errors.New("without a forge and a number of the repository")
	}
	return nil
}

// isJob reports whether a certificate of our own is a job's.
func isJob(cert *ssh.Certificate) bool {
	_, ok := cert.Extensions[wire.ExtensionNamespace]
	return ok
}

// jobGrant returns what a job's certificate says it may do.
func jobGrant(cert *ssh.Certificate) (Grant, error) {
	ns := cert.Extensions[wire.ExtensionNamespace]
	if clean, err := ci.CleanNamespace(ns); err != nil || clean != ns {
		return Grant{}, fmt.Errorf("%s %.100q is no namespace", wire.ExtensionNamespace, ns)
	}
	read, publish, err := parseRights(cert.Extensions[wire.ExtensionRights])
	if err != nil {
		return Grant{}, fmt.Errorf("%s: %w", wire.ExtensionRights, err)
	}
	commit := cert.Extensions[wire.ExtensionCommit]
	if !ci.IsHash(commit) && (commit != "" || publish) {
		return Grant{}, fmt.Errorf("%s %.100q is no commit", wire.ExtensionCommit, commit)
	}
	return Grant{Namespaces: []Pattern{Pattern(ns)}, Read: read, Publish: publish, Commit: commit}, nil
}
