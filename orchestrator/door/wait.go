package door

import (
	"bytes"
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"strings"

	"9ci/fs"
	"9ci/fs/ci"
)

// wait blocks until a run has ended, prints its status, and succeeds if it passed.
// Its argument is the path of a run, or a revision, by itself or as ci/REV: of this
// it awaits a run that is under way, or else has the best that has ended, or else
// awaits the first to come.
func (s *session) wait(out io.Writer, args []string) int {
	path := args[0]
	b, err := s.await(path)
	if err != nil {
		return s.complain("wait", path, err, exitOK)
	}
	out.Write(b)
	if st, err := ci.ParseStatus(string(b)); err != nil || st.State != "passed" {
		return exitFail
	}
	return exitOK
}

// await returns the status of what wait waits for.
func (s *session) await(path string) ([]byte, error) {
	if namespace, rev, ok := cutRevision(path); ok {
		find := s.tree.Await
		if find == nil {
			find = s.findRun
		}
		if namespace == "" {
			namespace = s.namespace
		}
		var err error
		if path, err = find(s.ctx, namespace, rev); err != nil {
			return nil, err
		}
	}
	n, err := s.tree.Walk(s.ctx, s.namespace, path+"/wait")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = copyFile(s.ctx, &b, n)
	return b.Bytes(), err
}

// cutRevision returns what REV, ci/REV or NAMESPACE/ci/REV names. A path to one
// executor's run is none.
func cutRevision(path string) (namespace, rev string, ok bool) {
	elems := strings.Split(strings.Trim(path, "/"), "/")
	n := len(elems)
	switch {
	case !isRevision(elems[n-1]):
		return "", "", false
	case n == 1:
		return "", elems[0], true
	case elems[n-2] != "ci" || n > 3 && elems[n-4] == "n":
		return "", "", false
	}
	return strings.Join(elems[:n-2], "/"), elems[n-1], true
}

// isRevision reports whether a name is that of a revision in /ci, and not a run's id.
func isRevision(name string) bool {
	return name == "last" || name == "head" || name == "green" || len(name) >= 7 && ci.IsHex(name)
}

// findRun is Await in the tree of one executor, by its files index and event.
func (s *session) findRun(ctx context.Context, _, rev string) (string, error) {
	n, err := s.tree.Walk(ctx, "", "event")
	if err != nil {
		return "", err
	}
	events, err := n.Open(ctx, fs.OpenRead) // before index: no change is missed
	if err != nil {
		return "", err
	}
	defer events.Close()
	buf := make([]byte, 4096)
	for off := int64(0); ; {
		if id, err := s.underWay(ctx, rev); id != "" || err != nil {
			return "ci/" + id, err
		}
		if _, err := s.tree.Walk(ctx, "", "ci/"+rev); !errors.Is(err, iofs.ErrNotExist) {
			return "ci/" + rev, err
		}
		n, err := events.ReadAt(ctx, buf, off)
		if err != nil {
			return "", err
		}
		off += int64(n)
	}
}

// underWay returns the newest run of a revision that has not ended, or "".
func (s *session) underWay(ctx context.Context, rev string) (id string, err error) {
	n, err := s.tree.Walk(ctx, "", "index")
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := copyFile(ctx, &b, n); err != nil {
		return "", err
	}
	for line := range strings.Lines(b.String()) {
		l, err := ci.ParseIndexLine(strings.TrimSuffix(line, "\n"))
		if err == nil && !l.Status.Finished() && (rev == "last" || strings.HasPrefix(l.Commit, rev) || strings.HasPrefix(l.Tree, rev)) {
			return l.ID, nil
		}
	}
	return "", nil
}
