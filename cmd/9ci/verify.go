package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"9ci/cmd/internal/host"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/show"
	"9ci/cmd/internal/sign"
	"9ci/fs/ci"
)

// verifyCommand checks a run on disk: the store's run of a revision, or a
// directory. It reports content, metadata and signature apart. With -attest it checks the
// attestations of a revision instead.
func verifyCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("verify")
	attested := f.Bool("attest", false, "")
	if err := parseFlags(f, args, 1, 1); err != nil {
		return exitError, err
	}
	name := f.Arg(0)
	rp, rerr := repo.Open(ctx, ".")
	c, err := loadConfig(ctx, rp)
	if err != nil {
		return exitError, err
	}
	key, err := sign.LookKey(c.Key)
	if err != nil {
		return exitError, err
	}
	trusted, err := host.Signers(ctx, rp, c, key.PublicKey(), func(err error) { say("%v", err) })
	if err != nil {
		return exitError, err
	}
	if *attested {
		if rp == nil {
			return exitError, rerr
		}
		return verifyAttestations(ctx, rp, trusted, name)
	}
	dir := ""
	if rp != nil && !strings.Contains(name, "/") {
		// The store comes first: the repository may have a directory with the
		// name of a revision.
		h, err := openStore(ctx, rp, c)
		if err != nil {
			return exitError, err
		}
		defer h.Close()
		run, err := h.Executor.Find(ctx, name)
		if dir = run.Dir; err != nil {
			rerr = err
		}
	}
	if dir == "" {
		if _, err := os.Stat(filepath.Join(name, "manifest")); err != nil {
			return exitError, fmt.Errorf("%s is not the directory of a run, nor a revision that has one: %w", name, cmp.Or(rerr, err))
		}
		dir = name
	}
	report, err := ci.VerifyDir(dir)
	if err != nil {
		return 1, err
	}
	return tellReport(dir, report, trusted), nil
}

// tellReport prints a report of the run in dir, and returns the exit status.
func tellReport(dir string, r ci.Report, trusted *sign.Signers) (code int) {
	line := func(what, good string, bad ...string) {
		if len(bad) == 0 {
			show.Out.Printf("%-10s ok: %s\n", what, good)
		}
		for _, b := range bad {
			show.Out.Printf("%-10s bad: %s\n", what, b)
			code = 1
		}
	}
	line("content", fmt.Sprintf("%d files of %s are what the manifest says", r.Files, dir), r.Content...)
	if r.Ctl {
		show.Out.Printf("%-10s ignored: it came with a copy from a tree, and is no part of the run\n", "ctl")
	}
	line("metadata", "modes, times and links are what artifacts.mtree says", r.Metadata...)
	end, err := ci.End(r.Info)
	if err == nil {
		var who string
		if who, err = trusted.Verify(r.Manifest, r.Sig, sign.Run{End: end, Commit: r.Info.Get("commit")}); err == nil {
			line("signature", "signed by "+who)
			return code
		}
	}
	line("signature", "", err.Error())
	return code
}
