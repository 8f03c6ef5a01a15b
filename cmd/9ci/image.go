package main

import (
	"context"
	"fmt"

	"9ci/cmd/internal/home"
	"9ci/cmd/internal/show"
	"9ci/vm"
)

// imageCommand builds the core OS, lists the images in the cache, or removes all
// images but the one in use.
func imageCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("image")
	if err := parseFlags(f, args, 1, 1); err != nil {
		return exitError, err
	}
	cache, err := home.Cache()
	if err != nil {
		return exitError, err
	}
	var images []*vm.Image
	switch f.Arg(0) {
	case "build":
		images = make([]*vm.Image, 1)
		images[0], err = vm.EnsureImage(ctx, vm.ImageOptions{Cache: cache, Progress: show.Err, Verify: true})
	case "ls":
		images, err = vm.Images(cache)
	case "gc":
		err = vm.CollectImages(ctx, cache)
	default:
		err = fmt.Errorf("unknown command image %s: want build, ls or gc", f.Arg(0))
	}
	if err != nil {
		return exitError, err
	}
	for _, im := range images {
		show.Out.Printf("%s %s\n", im.Label, im.Digest)
	}
	return 0, nil
}
