package main

import (
	"os"

	"golang.org/x/sys/unix"

	"9ci/fs"
)

// setOpenTime gives the open file f, name in root, its time.
func setOpenTime(f *os.File, _ *os.Root, _ string, st fs.Stat) error {
	ts, err := unix.TimeToTimespec(st.ModTime)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(int(f.Fd()), "", []unix.Timespec{ts, ts}, unix.AT_EMPTY_PATH)
}
