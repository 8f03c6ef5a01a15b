// Package host joins an executor with all that it has to do with: its store, the
// signers whose runs it replays, and the orchestrator at which its tree is
// shown.
package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/executor"
	"9ci/cmd/internal/home"
	"9ci/cmd/internal/replay"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/sign"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/report"
)

// A Host is an executor of this process. New makes it, Start and Export let it
// go, and Close ends it.
type Host struct {
	Executor *executor.Executor

	mux      *mux // nil without an orchestrator
	key      ssh.PublicKey
	replayer replay.Replayer // but for the signers: see Replayer
	say      func(format string, args ...any)
	told     sync.Map       // the warnings that were said
	rungs    sync.Map       // of each run that this process has adopted: see Rung
	wg       sync.WaitGroup // of Adopt
}

// Options are what the hosts of a process have in common, and how each tells
// what happens.
type Options struct {
	Mode    string                            // run or daemon
	Version string                            // of this program
	Tool    func(name string) (string, error) // see executor.Executor
	Queue   *executor.Queue
	Adopts  bool         // Adopt will be called
	Looks   bool         // nothing is run or adopted, and no file is made or changed
	Direct  *dial.Direct // where others enter without the orchestrator; nil: nowhere
	Log     *slog.Logger
	Say     func(format string, args ...any) // tells what is not the result of a run
}

// New opens the store of a clone's namespace and makes its executor. ctx ends
// the executor's runs. Until Start nothing runs.
func New(ctx context.Context, r *repo.Repo, c *config.Config, o Options) (*Host, error) {
	loadKey, openStore := sign.LoadKey, store.Open
	if o.Looks {
		loadKey, openStore = sign.LookKey, store.Look
	}
	key, err := loadKey(c.Key)
	if err != nil {
		return nil, err
	}
	name, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	ns := r.Namespace(sign.Fingerprint(key.PublicKey()))
	dir, err := StoreDir(ns)
	if err != nil {
		return nil, err
	}
	runs, err := openStore(dir)
	if err != nil {
		return nil, err
	}
	e := &executor.Executor{
		Context:   ctx,
		Namespace: ns,
		Store:     runs,
		Config:    c,
		Mode:      o.Mode,
		Host:      name,
		Version:   o.Version,
		Tool:      o.Tool,
		Queue:     o.Queue,
		Log:       o.Log,
	}
	e.SetRepo(r)
	h := &Host{Executor: e, key: key.PublicKey(), replayer: replay.Replayer{Store: runs, Say: o.Say}, say: o.Say}
	e.Seek = h.seek
	e.Sign = func(manifest []byte) ([]byte, error) { return sign.Manifest(h.signer(key, c.Key), manifest) }
	if h.mux, err = newMux(c, e, key, o); err != nil {
		runs.Close()
		return nil, err
	}
	if h.mux != nil {
		h.replayer.Mux, h.replayer.Ask, h.replayer.Name, h.replayer.Way = h.mux.root, h.mux.find, h.mux.myName, h.mux.way
	}
	if o.Mode != "daemon" { // which lives long, and tells nobody
		h.replayer.Took = func(id, rung string) { h.rungs.Store(id, rung) }
	}
	return h, nil
}

// signer returns what signs a run: key, of the file name, with a certificate if one is
// good at present, for those that trust its authority. That is the one which the
// orchestrator has given for a token, or else the one that stands beside the key. It is
// the only way in which others can trust the key of a CI job, which ends with the job.
func (h *Host) signer(key ssh.Signer, name string) ssh.Signer {
	if h.mux != nil && h.mux.pass != nil {
		if s := h.mux.pass.Signer(); s != nil {
			return s
		}
	}
	if s, err := sign.Certified(key, name); err == nil && s != nil {
		return s
	}
	return key
}

// Start takes up the runs of processes that were killed: a daemon lets those go
// that were queued, and all others are sealed as they were left. From then on
// runs are evicted as CI_KEEP says.
func (h *Host) Start(ctx context.Context) {
	e := h.Executor
	if e.Mode == "daemon" {
		if err := e.Resume(ctx); err != nil {
			h.say("%v", err)
		}
	}
	if _, err := e.Store.Recover(ctx, e.Sign); err != nil {
		h.say("%v", err)
	}
	e.Store.SetKeep(cmp.Or(e.Config.Keep, config.KeepDefault(e.Mode == "daemon")))
}

// Export shows the tree at the orchestrator, if there is one, until ctx is done.
func (h *Host) Export(ctx context.Context) { h.mux.export(ctx) }

// Refused is closed when the orchestrator has not taken the tree that Export shows.
func (h *Host) Refused() <-chan struct{} { return h.mux.refused }

// Told returns what the orchestrator has told the forge of a commit's runs. The error is as
// that of dial.Conn.Told: fs.ErrBusy may be tried again. There has to be an orchestrator.
func (h *Host) Told(ctx context.Context, commit string) (report.Answer, error) {
	text, err := h.mux.conn.Told(ctx, h.mux.namespace, commit)
	if err = h.mux.absent(err); errors.Is(err, iofs.ErrNotExist) {
		err = fmt.Errorf("the orchestrator has no namespace %s that this user may read, which its operator grants: %w", h.mux.namespace, err)
	}
	if err != nil {
		return report.Answer{}, err
	}
	return report.ParseAnswer(text)
}

// Replayer finds a run for one request, of a clone of the repository. A daemon may have several
// clones, and one does not decide whom another trusts.
func (h *Host) Replayer(r *repo.Repo, c *config.Config) *replay.Replayer {
	rr := h.replayer
	rr.Signers = func(ctx context.Context) (*sign.Signers, error) { return Signers(ctx, r, c, h.key, h.warn) }
	return &rr
}

// warn says what is skipped of a list of signers, once: the lists are read anew
// each time that they are asked.
func (h *Host) warn(err error) {
	if _, told := h.told.LoadOrStore(err.Error(), true); !told {
		h.say("%v", err)
	}
}

// A seeker is the Seeker of the executor for one request.
type seeker struct {
	r   *replay.Replayer
	key ci.Attrs
	c   *config.Config
}

func (h *Host) seek(r *repo.Repo, key ci.Attrs, c *config.Config) executor.Seeker {
	return &seeker{h.Replayer(r, c), key, c}
}

func (s *seeker) Replay(ctx context.Context) (string, error) {
	run, _ := s.r.Find(ctx, s.key, s.c)
	return run.ID, nil
}

func (s *seeker) Await(ctx context.Context, own string) (string, func(), error) {
	run, _, release := s.r.Await(ctx, s.key, s.c, own)
	return run.ID, release, context.Cause(ctx)
}

// Rung returns by which rung of CI_LADDER this process has adopted a run, or "".
func (h *Host) Rung(id string) string {
	rung, _ := h.rungs.Load(id)
	s, _ := rung.(string)
	return s
}

// Adopt takes the passed runs of other executors into the store as the orchestrator
// tells of them, until ctx is done.
func (h *Host) Adopt(ctx context.Context) {
	e := h.Executor
	a := replay.Adopter{
		Replayer:   func() *replay.Replayer { return h.Replayer(e.Repo(), e.Config) },
		Config:     e.Config,
		Namespaces: []string{e.Namespace},
	}
	if h.mux != nil {
		a.Namespaces = append(a.Namespaces, h.mux.namespace)
	}
	h.wg.Go(func() { a.Run(ctx) })
}

// Close waits for the runs, for Adopt and for Export, whose contexts are to end first, and
// lets go of the store and the orchestrator.
func (h *Host) Close() {
	h.Executor.Close()
	h.wg.Wait()
	h.mux.close()
	if err := h.Executor.Store.Close(); err != nil {
		h.say("%v", err)
	}
}

// Namespace returns the namespace of a clone as New names it. Without a key a local
// one is that of no store.
func Namespace(r *repo.Repo, c *config.Config) (string, error) {
	if ns, ok := r.Origin(); ok {
		return ns, nil
	}
	key, err := sign.LookKey(c.Key) // a part of it
	if err != nil {
		return "", err
	}
	return r.Namespace(sign.Fingerprint(key.PublicKey())), nil
}

// StoreDir returns the directory of this user's store of a namespace, which need not
// be there.
func StoreDir(namespace string) (string, error) {
	state, err := home.State()
	return filepath.Join(state, filepath.FromSlash(namespace)), err
}

// Signers are those whose runs are replayed: own, those of the user's files, and
// those that the clone's own upstream names, without those that the file revoked
// beside each list has. r may be nil: there is no clone. warn is told of lines that
// are skipped.
//
// If a file cannot be read, or a revoked understood, Signers returns an error:
// then nobody is trusted.
func Signers(ctx context.Context, r *repo.Repo, c *config.Config, own ssh.PublicKey, warn func(error)) (*sign.Signers, error) {
	files, err := c.TrustFiles()
	if err != nil {
		return nil, err
	}
	s := new(sign.Signers)
	s.Add("this executor", own)
	for _, f := range files {
		if err := errors.Join(s.AddFile(f.Signers, warn), s.RevokeFile(f.Revoked)); err != nil {
			return nil, err
		}
	}
	if r == nil {
		return s, nil
	}
	const upstream, signers, revoked = "refs/remotes/origin/HEAD", ".9ci/allowed_signers", ".9ci/revoked"
	texts, err := r.Files(ctx, upstream, signers, revoked)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", upstream, err)
	}
	s.AddText(upstream+":"+signers, texts[signers], warn)
	return s, s.Revoke(upstream+":"+revoked, []byte(texts[revoked]))
}
