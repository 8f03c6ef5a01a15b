//go:build linux

package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"9ci/vm/guest"
)

// initialize is PID 1. It does not return. If it cannot go on it panics; then the
// kernel does too, and the host reads why on the console.
func initialize() {
	defer func() {
		if e := recover(); e != nil {
			fmt.Fprintf(os.Stderr, "guest: %v\n", e)
			os.Exit(1) // "Attempted to kill init!"
		}
	}()
	check("mount /dev", mount("devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"))
	check("mount /proc", mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	check("mount /sys", mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	m, err := readModules("/modules")
	check("modules", err)
	check("modules", m.load("virtio_mmio", "virtio_console"))
	port, err := openPort("ci.agent")
	check("port", err)

	var made guest.Prepare
	s := guest.Server{
		Env: environment,
		Prepare: func(p guest.Prepare) error {
			made = p
			return prepare(p, m)
		},
		Boot: func(b guest.Boot) error { return boot(b, made) },
		Halt: halt,
	}
	check("serve", s.Serve(port))
	halt() // the host hung up
}

// check panics unless err is nil.
func check(doing string, err error) {
	if err != nil {
		panic(fmt.Sprintf("%s: %v", doing, err))
	}
}

// openPort waits, five seconds at most, for the virtio-serial port of a name. The
// kernel learns of it from the device a little after the driver was loaded.
func openPort(name string) (*os.File, error) {
	const dir = "/sys/class/virtio-ports"
	for range 2500 {
		ports, _ := os.ReadDir(dir)
		for _, p := range ports {
			b, err := os.ReadFile(dir + "/" + p.Name() + "/name")
			if err == nil && string(b) == name+"\n" {
				return os.OpenFile("/dev/"+p.Name(), os.O_RDWR, 0)
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil, fmt.Errorf("no virtio-serial port %s", name)
}

// halt ends all processes, and then the machine.
func halt() {
	unix.Kill(-1, unix.SIGKILL)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	panic("the machine did not power off")
}
