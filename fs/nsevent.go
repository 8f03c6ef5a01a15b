package fs

import (
	"bufio"
	"context"
	iofs "io/fs"
	"maps"
	"sync"
)

// Event returns the file event of a root of namespaces: the lines of all their
// event files, as they come, each id a path from that root.
func (s *Namespaces) Event() Node { return nsEvent{s} }

type nsEvent struct{ s *Namespaces }

func (e nsEvent) Stat(context.Context) (Stat, error) {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	return Stat{Name: "event", Mode: 0o444, ModTime: e.s.time, UID: uid, GID: gid, Path: rootPath.child("event").path()}, nil
}

func (e nsEvent) Open(ctx context.Context, mode OpenMode) (File, error) {
	if mode != OpenRead {
		return nil, iofs.ErrPermission
	}
	ctx, cancel := context.WithCancel(WithUser(context.Background(), UserOf(ctx)))
	f := &openNsEvent{feed: newFeed(), cancel: cancel}
	f.wg.Go(func() { f.follow(ctx, e.s) })
	return f, nil
}

// An openNsEvent gathers lines as long as it is open.
type openNsEvent struct {
	feed   *feed
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// follow reads the event file of every namespace there is and will be.
func (f *openNsEvent) follow(ctx context.Context, s *Namespaces) {
	followed := make(map[string]bool)
	for {
		added := s.added.wait()
		s.mu.Lock()
		trees := maps.Clone(s.trees)
		s.mu.Unlock()
		for name, tree := range trees {
			if !followed[name] {
				followed[name] = true
				f.wg.Go(func() { f.copy(ctx, name, tree) })
			}
		}
		select {
		case <-added:
		case <-ctx.Done():
			return
		}
	}
}

// copy ends when the namespace's store is closed.
func (f *openNsEvent) copy(ctx context.Context, name string, tree Dir) {
	n, err := tree.Walk(ctx, "event")
	if err != nil {
		return
	}
	file, err := n.Open(ctx, OpenRead)
	if err != nil {
		return
	}
	defer file.Close()
	for lines := bufio.NewScanner(NewReader(ctx, file)); lines.Scan(); {
		f.feed.write(name + "/ci/" + lines.Text() + "\n")
	}
}

func (f *openNsEvent) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return f.feed.readAt(ctx, p, off)
}

func (f *openNsEvent) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, iofs.ErrPermission
}

func (f *openNsEvent) Close() error {
	f.cancel()
	f.wg.Wait()
	return nil
}
