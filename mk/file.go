package mk

import (
	"fmt"
	"math"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// timeOf returns when name was modified, or 0 if it does not exist. Unless force is
// true, a time that -w has set counts.
func (r *run) timeOf(name string, force bool) int64 {
	if isMember(name) {
		return r.memberTime(name, force)
	}
	if !force && len(r.times) > 0 {
		if t, ok := r.times[name]; ok {
			return t
		}
	}
	return r.modTime(name)
}

// modTime returns when a file was modified.
func (r *run) modTime(name string) int64 {
	var st syscall.Stat_t
	if syscall.Stat(r.cfg.path(name), &st) != nil {
		return 0
	}
	sec, nsec := st.Mtim.Unix()
	if r.cfg.Nano {
		return sec*1e9 + nsec
	}
	return sec
}

// stamp tells a file from what is made of it. It is zero if there is none.
type stamp struct {
	inode uint64
	size  int64
	mtime syscall.Timespec
}

func (r *run) stamp(name string) stamp {
	var st syscall.Stat_t
	if syscall.Stat(r.cfg.path(name), &st) != nil {
		return stamp{}
	}
	return stamp{st.Ino, st.Size, st.Mtim}
}

// now returns the time in the unit of file times.
func (r *run) now() int64 {
	if r.cfg.Nano {
		return time.Now().UnixNano()
	}
	return time.Now().Unix()
}

// skew is how far in the future a file may be. File systems that store times in
// steps of two seconds may round up, and clocks of file servers differ a little.
const skew = 2 * time.Second

// checkTime warns, once, of a file that was modified in the future: what is made
// from it is out of date until then. The clock is read only if n is later than all
// nodes before it.
func (r *run) checkTime(n *node) {
	if n.time <= r.latest {
		return
	}
	unit := time.Second
	if r.cfg.Nano {
		unit = 1
	}
	now := r.now()
	if r.latest = now + int64(skew/unit); n.time <= r.latest {
		return
	}
	r.latest = math.MaxInt64
	ahead := time.Duration(math.MaxInt64)
	if d := n.time - now; d < int64(ahead/unit) {
		ahead = time.Duration(d) * unit
	}
	r.out.error("mk: warning: '" + n.name + "' was modified " + brief(ahead) + " in the future: see to the clock, or touch it\n")
}

// brief returns a duration in its two largest units.
func brief(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// touch makes name's time now, and prints that.
func (r *run) touch(name string) {
	r.out.print("touch(" + name + ")\n")
	if r.cfg.NoExec {
		return
	}
	if isMember(name) {
		r.touchMember(name)
		return
	}
	path := r.cfg.path(name)
	var err error
	if syscall.Access(path, 0) == nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, path, nil, 0) // now, which needs no more than permission to write
	} else {
		var f *os.File
		if f, err = os.Create(path); err == nil {
			err = f.Close()
		} else {
			err = syscall.EBADF // mk closes what it could not create
		}
	}
	if err != nil {
		r.out.error(name + ": " + errno(err) + "\n")
		panic(bail{err})
	}
}

// remove removes a target whose recipe failed.
func (r *run) remove(name string) {
	if isMember(name) {
		r.out.error("hoon off; mk can'tdelete archive members\n")
	} else if err := os.Remove(r.cfg.path(name)); err != nil {
		r.out.error("remove " + name + ": " + errno(err) + "\n")
	}
}

// whatIf sets the times of the names of -w to now.
func (r *run) whatIf() {
	now := r.now()
	for _, name := range strings.FieldsFunc(r.cfg.WhatIf, func(c rune) bool { return c == ' ' || c == ',' || c == '\n' }) {
		r.times[name] = now
	}
}
