package orchestrator

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/internal/wire"
	"9ci/orchestrator/report"
)

// told is the command told: what the forge was told of a commit's runs, for those that may
// read them.
func (v *view) told(ctx context.Context, namespace, commit string) (string, error) {
	ns, err := v.entered(ctx, namespace)
	if err != nil {
		return "", err
	}
	return v.c.s.told(ns, commit)
}

// told answers the question that a channel carries: the same, for clients of ours.
func (c *conn) told(ctx context.Context, nc ssh.NewChannel) {
	var msg wire.ToldMsg
	if err := ssh.Unmarshal(nc.ExtraData(), &msg); err != nil {
		wire.Refuse(nc, err)
		return
	}
	v := newView(ctx, c)
	defer v.close()
	ns, ok := v.enterBy(ctx, nc, msg.Namespace)
	if !ok {
		return
	}
	text, err := c.s.told(ns, msg.Commit)
	if errors.Is(err, fs.ErrBusy) {
		wire.Refuse(nc, err)
		return
	} else if err != nil {
		nc.Reject(ssh.Prohibited, err.Error())
		return
	}
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	c.wg.Go(func() { ssh.DiscardRequests(reqs) })
	ch.Write([]byte(text + wire.AnswerEnd))
}

// told returns what the forge was told of a commit's runs, as text.
func (s *Server) told(ns, commit string) (string, error) {
	if !ci.IsHash(commit) {
		return "", fmt.Errorf("%.80q is not the whole name of a commit", commit)
	}
	if s.reporter == nil {
		return report.Answer{}.Text(), nil
	}
	a, err := s.reporter.Told(ns, commit)
	return a.Text(), err
}
