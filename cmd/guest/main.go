//go:build linux

package main

import (
	"fmt"
	"net"
	"os"

	"9ci/vm/guest"
)

// commands are what guest does when it is not PID 1.
var commands = map[string]func(args []string) error{
	"serve":   serve,
	"kvmloop": kvmLoop,
	"mkquery": query,
	"env":     withEnv,
	"service": service,
}

func main() {
	if len(os.Args) > 1 { // which may be PID 1 of a container
		if f := commands[os.Args[1]]; f != nil {
			if err := f(os.Args[2:]); err != nil {
				if status, ok := err.(exitStatus); ok {
					os.Exit(int(status))
				}
				if err != errSaid {
					fmt.Fprintf(os.Stderr, "guest: %s: %v\n", os.Args[1], err)
				}
				os.Exit(1)
			}
			return
		}
	}
	if os.Getpid() == 1 {
		initialize()
	}
	fmt.Fprintln(os.Stderr, "usage: guest serve | kvmloop | mkquery MAX [VARIABLE...] | env PROGRAM [ARG...] | service NAME PROGRAM [ARG...]")
	os.Exit(1)
}

// serve is a machine that is a process.
func serve([]string) error {
	c, err := net.FileConn(os.Stdin)
	if err != nil {
		return err
	}
	os.Stdin.Close()
	s := guest.Server{}
	return s.Serve(c)
}
