package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"9ci/cmd/internal/attest"
	"9ci/cmd/internal/host"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/show"
	"9ci/cmd/internal/sign"
	"9ci/fs/ci"
	"9ci/fs/store"
)

// vouchCommand publishes that a run of a revision has passed: as an attestation in the
// clone and, with -push, at the remote origin; and as a status of the commit at its forge.
func vouchCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("vouch")
	push := f.Bool("push", false, "")
	if err := parseFlags(f, args, 0, 1); err != nil {
		return exitError, err
	}
	rp, err := repo.Open(ctx, ".")
	if err != nil {
		return exitError, err
	}
	c, err := loadConfig(ctx, rp)
	if err != nil {
		return exitError, err
	}
	key, err := sign.LoadKey(c.Key)
	if err != nil {
		return exitError, err
	}
	trusted, err := host.Signers(ctx, rp, c, key.PublicKey(), func(err error) { say("%v", err) })
	if err != nil {
		return exitError, err
	}
	commit, tree, err := rp.Resolve(ctx, cmp.Or(f.Arg(0), "HEAD"))
	if err != nil {
		return exitError, err
	}
	h, err := newHost(ctx, rp, c, true)
	if err != nil {
		return exitError, err
	}
	defer h.Close()
	run, result, err := passedRun(h.Executor.Store, trusted, commit, tree)
	if none := (*nothing)(nil); errors.As(err, &none) {
		return 1, fmt.Errorf("nothing to vouch for at %.12s: %w", commit, err)
	} else if err != nil {
		return exitError, err
	}
	if other, ok := failedSince(h.Executor.Store, run); ok {
		say("the run %s passed, and is what vouch tells of; the run %s, which is of the same key, failed at %s", run.ID, other.ID, ci.FormatTime(other.Time))
	}
	s := newCommitStatus(h, c, commit, run.Status, result.Key)
	result.URL = s.findPage(ctx)
	envelope, err := attest.Sign(ctx, key, result)
	if err != nil {
		return exitError, err
	}
	ref, err := attest.Ref(commit, sign.Fingerprint(key.PublicKey()))
	if err != nil {
		return exitError, err
	}
	if err := rp.SetFile(ctx, ref, attest.File, string(envelope), result.End); err != nil {
		return exitError, err
	}
	show.Out.Printf("%s\n", ref)
	if *push {
		if err := rp.Push(ctx, ref); err != nil {
			return exitError, err
		}
		say("pushed to origin")
	} else {
		say("the attestation is in this clone: 9ci vouch -push pushes it to origin")
	}
	if err := s.tell(ctx); err != nil {
		return 1, fmt.Errorf("the commit has no status by this, but the attestation: %w", err)
	}
	return 0, nil
}

// A nothing is why a run is not to be vouched for.
type nothing struct{ error }

func (n *nothing) Unwrap() error { return n.error }

// passedRun returns a run in the store by which one can vouch for a commit, and what there
// is to say of it: the first of runsFor that vouchFor takes. The error is a *nothing if
// it takes none, and says what is wrong with the best.
func passedRun(st *store.Store, trusted *sign.Signers, commit, tree string) (store.Entry, attest.Result, error) {
	var why error
	for _, run := range runsFor(st, commit, tree) {
		r, err := vouchFor(run, trusted, commit, tree)
		if err == nil {
			return run, r, nil
		}
		if why == nil {
			why = err
		}
	}
	if why == nil {
		why = &nothing{errors.New("there is no run of it here: 9ci runs it, or replays one")}
	}
	return store.Entry{}, attest.Result{}, why
}

// runsFor returns the runs that may stand for a commit, in the order of ci/REV: its own,
// and then those of its tree that other commits have, which stand for all (CI_MATCH=tree).
func runsFor(st *store.Store, commit, tree string) []store.Entry {
	all := st.Ranked(commit)
	for _, run := range st.Ranked(tree) {
		if run.Commit == commit {
			continue
		}
		if key, err := run.Key(); err != nil || key.Get("commit") == "" {
			all = append(all, run)
		}
	}
	return all
}

// vouchFor returns what there is to say of a commit by a run. The run has passed, it is what
// its manifest says, and a trusted signer has signed it: the error is a *nothing if that is
// not so.
func vouchFor(run store.Entry, trusted *sign.Signers, commit, tree string) (r attest.Result, err error) {
	none := func(format string, args ...any) error { return &nothing{fmt.Errorf(format, args...)} }
	switch {
	case run.Run != nil:
		return r, none("the run %s has not ended: 9ci wait %.12s waits for it", run.ID, commit)
	case run.State != "passed":
		return r, none("the run %s ended as %s", run.ID, run.State)
	}
	report, err := ci.VerifyDir(run.Dir)
	if err != nil {
		return r, fmt.Errorf("the run %s: %w", run.ID, err)
	}
	if bad := append(report.Content, report.Metadata...); len(bad) > 0 {
		return r, none("the run %s is not what its manifest says: %s", run.ID, bad[0])
	}
	end, err := ci.End(report.Info)
	if err != nil {
		return r, err
	}
	if _, err := trusted.Verify(report.Manifest, report.Sig, sign.Run{End: end, Commit: report.Info.Get("commit")}); err != nil {
		return r, none("the run %s: %w", run.ID, err)
	}
	signer, err := sign.Signer(report.Sig)
	if err != nil {
		return r, err
	}
	key, err := run.Key()
	if err != nil {
		return r, err
	}
	r = attest.Result{Commit: commit, Key: key, Score: report.Score, Signer: signer, End: end}
	if err := r.Check(tree); err != nil {
		return r, none("the run %s: %w", run.ID, err)
	}
	return r, nil
}

// failedSince returns a run of the same key that has failed, and did not end before run.
func failedSince(st *store.Store, run store.Entry) (store.Entry, bool) {
	for other := range st.WithKey(run.KeyDigest) {
		if other.State == "failed" && !other.Time.Before(run.Time) {
			return other, true
		}
	}
	return store.Entry{}, false
}

// verifyAttestations checks the attestations of a revision in the clone: the exit status is
// 0 if a trusted signer has made one of them.
func verifyAttestations(ctx context.Context, rp *repo.Repo, trusted *sign.Signers, rev string) (int, error) {
	commit, tree, err := rp.Resolve(ctx, rev)
	if err != nil {
		return exitError, err
	}
	refs, err := rp.Refs(ctx, attest.Prefix(commit))
	if err != nil {
		return exitError, err
	}
	if len(refs) == 0 {
		return 1, fmt.Errorf("nobody has vouched for %.12s in this clone: git fetch origin 'refs/attestations/*:refs/attestations/*' brings what is at the remote", commit)
	}
	code, strangers := 1, 0
	for _, ref := range refs {
		fingerprint, ok := attest.Fingerprint(commit, ref)
		if !ok || trusted.Key(fingerprint) == nil {
			// Whoever may push could have pushed many: they are not read.
			switch strangers++; {
			case strangers > 1:
			case !ok:
				show.Out.Printf("bad: %s: the name ends with no fingerprint\n", ref)
			default:
				show.Out.Printf("bad: %s: an allowed_signers file must name its signer, itself and not by a certificate\n", fingerprint)
			}
			continue
		}
		files, err := rp.Files(ctx, ref, attest.File)
		if err != nil {
			show.Out.Printf("bad: %s: %v\n", fingerprint, err)
			continue
		}
		r, name, err := attest.Verify(ctx, trusted, fingerprint, commit, tree, []byte(files[attest.File]))
		if err != nil {
			show.Out.Printf("bad: %s: %v\n", fingerprint, err)
			continue
		}
		code = 0
		show.Out.Printf("ok: %s vouches for %.12s: passed at %s, score %s, run signed by %s%s\n", name, commit, ci.FormatTime(r.End), r.Score, r.Signer, at(r.URL))
	}
	if strangers > 1 {
		show.Out.Printf("bad: and %d more of which no allowed_signers file names the signer\n", strangers-1)
	}
	return code, nil
}

// at returns what a line says of where a run is shown.
func at(url string) string {
	if url == "" {
		return ""
	}
	return ", at " + url
}
