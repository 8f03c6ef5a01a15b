package fs

import (
	"bufio"
	"context"
	iofs "io/fs"
	"maps"
	"sync"
)

// Gather returns a file of that name for a Root: it reads the files of that
// name in all trees, and holds their lines as they come. Of each line, without
// its newline, and its namespace, line makes what stands in the file. A read
// blocks until there is a line, and ends only with its context.
func (s *Namespaces) Gather(name string, line func(namespace, line string) string) Node {
	return gathered{s, name, line}
}

type gathered struct {
	s    *Namespaces
	name string
	line func(namespace, line string) string
}

func (g gathered) Stat(context.Context) (Stat, error) {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	return FileStat(g.name, RootQid.Child(g.name), 0, g.s.time), nil
}

func (g gathered) Open(ctx context.Context, mode OpenMode) (File, error) {
	if mode != OpenRead {
		return nil, iofs.ErrPermission
	}
	ctx, cancel := context.WithCancel(WithUser(context.Background(), UserOf(ctx)))
	f := &openGathered{gathered: g, cancel: cancel}
	f.wg.Go(func() { f.follow(ctx) })
	return f, nil
}

// An openGathered gathers lines as long as it is open.
type openGathered struct {
	gathered
	feed   Feed
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// follow reads the file of every namespace there is and will be.
func (f *openGathered) follow(ctx context.Context) {
	followed := make(map[string]bool)
	for {
		added := f.s.added.Wait()
		f.s.mu.Lock()
		trees := maps.Clone(f.s.trees)
		f.s.mu.Unlock()
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

// copy reads the file of one namespace to its end.
func (f *openGathered) copy(ctx context.Context, name string, tree Dir) {
	n, err := tree.Walk(ctx, f.name)
	if err != nil {
		return
	}
	file, err := n.Open(ctx, OpenRead)
	if err != nil {
		return
	}
	defer file.Close()
	for lines := bufio.NewScanner(NewReader(ctx, file)); lines.Scan(); {
		f.feed.Write(f.line(name, lines.Text()) + "\n")
	}
}

func (f *openGathered) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return f.feed.ReadAt(ctx, p, off)
}

func (f *openGathered) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, iofs.ErrPermission
}

func (f *openGathered) Close() error {
	f.cancel()
	f.wg.Wait()
	return nil
}
