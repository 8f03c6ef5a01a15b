package host

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	iofs "io/fs"
	"net"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/executor"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/door"
	"9ci/proto/ninep"
	"9ci/vm"
)

// At returns the host's executor if the namespace is its own or "", else nil.
func (h *Host) At(namespace string) *executor.Executor {
	if namespace == "" || namespace == h.Executor.Namespace {
		return h.Executor
	}
	return nil
}

// errNoShell is all that is said to a key that gets no shell.
var errNoShell = errors.New("this key gets no shell here: the user of the executor may put it into ~/.config/9ci/shell_keys")

// shellFor returns what runs shells for those that enter the SSH server of e: for the
// holder of its own key, and those in shell_keys, which is read each time.
func shellFor(e *executor.Executor, own ssh.PublicKey) dial.ShellFunc {
	return func(ctx context.Context, key ssh.PublicKey, sh door.Shell) (int, error) {
		same := func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), key.Marshal()) }
		if !same(own) {
			keys, err := config.ShellKeys()
			if err != nil {
				e.Log.Warn("a shell was asked for", "key", ssh.FingerprintSHA256(key), "err", err)
			}
			if !slices.ContainsFunc(keys, same) {
				return 0, errNoShell
			}
		}
		e.Log.Info("shell", "run", sh.Rev, "root", sh.Root, "key", ssh.FingerprintSHA256(key))
		return runShell(ctx, e, sh)
	}
}

// runShell runs a shell of a door in a machine that e holds.
func runShell(ctx context.Context, e *executor.Executor, sh door.Shell) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	c := vm.Cmd{Stdin: sh.Stdin, Stdout: sh.Stdout, Stderr: sh.Stderr, Signals: sh.Signals}
	if sh.Term != "" {
		sizes := make(chan vm.Size, 1)
		select {
		case s := <-sh.Resize:
			sizes <- vm.Size(s) // that of the start
		default:
		}
		wg.Go(func() {
			for {
				select {
				case s := <-sh.Resize:
					select {
					case sizes <- vm.Size(s):
						continue
					case <-ctx.Done():
					}
				case <-ctx.Done():
				}
				return
			}
		})
		c.TTY, c.Env, c.Resize = true, []string{"TERM=" + sh.Term}, sizes
	}
	exit, err := e.Shell(ctx, sh.Rev, sh.Root, c)
	return exit.Code, err
}

// LocalSSH returns what answers SSH on a Unix socket that has root: the door of an
// executor, for this user and root, who have shown who they are to the kernel. find returns
// the executor of a namespace, or nil.
func LocalSSH(root fs.Dir, find func(namespace string) *executor.Executor) func(context.Context, net.Conn, fs.User) {
	// A client asks the kernel who serves the socket, and this key is nobody's.
	hostKey := sync.OnceValues(func() (ssh.Signer, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return ssh.NewSignerFromSigner(key)
	})
	return func(ctx context.Context, nc net.Conn, user fs.User) {
		key, err := hostKey()
		if err != nil || !fs.MayCommand(user) {
			nc.Close()
			return
		}
		config := door.Config(key, nil)
		config.PublicKeyCallback, config.NoClientAuth = nil, true
		door.Serve(fs.WithUser(ctx, user), nc, config, door.LoginGrace, func(context.Context) *door.Tree {
			return &door.Tree{
				User:   user,
				Whoami: func(context.Context) ci.Attrs { return ci.Attrs{{Name: "name", Value: user.Name}} },
				Walk: func(ctx context.Context, namespace, path string) (fs.Node, error) {
					if e := find(""); e != nil { // the root is that of its namespace
						if namespace != "" && namespace != e.Namespace {
							return nil, iofs.ErrNotExist
						}
						if rest, ok := strings.CutPrefix(strings.Trim(path, "/")+"/", e.Namespace+"/"); ok {
							path = rest
						}
						namespace = ""
					}
					return door.Walk(ctx, root, namespace+"/"+path)
				},
				Shell: func(ctx context.Context, sh door.Shell) (int, error) {
					e := find(sh.Namespace)
					if e == nil {
						return 0, &executor.NotHeldError{Run: strings.TrimPrefix(sh.Namespace+"/ci/"+sh.Rev, "/")}
					}
					return runShell(ctx, e, sh)
				},
				Serve9P: func(ctx context.Context, rwc io.ReadWriteCloser) error {
					return (&ninep.Server{Root: root, User: user}).Serve(ctx, rwc)
				},
				Close: func() {},
			}
		})
	}
}
