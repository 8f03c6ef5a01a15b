//go:build !amd64

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// catch has f called with the first of signals that arrives, and gives them
// back their default effect before. Those that are ignored stay so.
func catch(f func(syscall.Signal), signals ...syscall.Signal) {
	c := make(chan os.Signal, 1)
	for _, sig := range signals {
		if !signal.Ignored(sig) {
			signal.Notify(c, sig)
		}
	}
	go func() {
		sig := <-c
		signal.Reset()
		f(sig.(syscall.Signal))
	}()
}
