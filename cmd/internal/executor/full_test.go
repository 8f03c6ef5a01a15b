package executor

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"9ci/cmd/internal/config"
	"9ci/fs/ci"
	"9ci/vm"
)

// smallDisk mounts a tmpfs of 8 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("9ci-test", dir, "tmpfs", 0, "size=8M"); err != nil {
		t.Skipf("a small file system needs the right to mount one: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// A crowded is a machine on a host whose disk somebody fills in one of the steps.
type crowded struct {
	double
	step   string
	now    func() string // the step that goes on
	fill   func()
	outbox []byte
}

func (m *crowded) Run(_ context.Context, c vm.Cmd) (vm.Exit, error) {
	if slices.Contains(c.Args, "mkquery") {
		targets := `"prepare-runtime","test","/var/run/ci/artifacts/x","post-test"`
		if m.step == "base-image" {
			targets += `,"base-image"`
		}
		fmt.Fprintf(c.Stdout, `{"Targets":[%s]}`, targets)
		return vm.Exit{}, nil
	}
	if m.now() != m.step || m.step == "artifacts" {
		return vm.Exit{}, nil
	}
	m.fill()
	_, err := c.Stdout.Write(bytes.Repeat([]byte("said\n"), 1<<14))
	return vm.Exit{}, err
}

func (m *crowded) Outbox() *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(m.outbox), 0, int64(len(m.outbox)))
}

// The disk is full in any of the steps: the run ends in error, its log says why, and
// those that wait for it see the end.
func TestFullDisk(t *testing.T) {
	for _, step := range ci.Steps {
		t.Run(step, func(t *testing.T) {
			disk := smallDisk(t)
			tmp := filepath.Join(disk, "tmp")
			if err := os.Mkdir(tmp, 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv("TMPDIR", tmp)
			e, req := newExecutor(t, filepath.Join(disk, "store"), &config.Config{Net: "all"})
			fill := func() {
				f, err := os.Create(filepath.Join(disk, "fill"))
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				for err == nil {
					_, err = f.Write(make([]byte, 4096))
				}
			}
			m := &crowded{step: step, fill: fill, now: func() string {
				for run := range e.Store.Runs() {
					return run.State
				}
				return ""
			}}
			if step == "artifacts" {
				var b bytes.Buffer
				w := tar.NewWriter(&b)
				w.WriteHeader(&tar.Header{Name: "big", Mode: 0o644, Size: 16 << 20})
				w.Write(bytes.Repeat([]byte("full"), 4<<20))
				w.Close()
				m.outbox = b.Bytes()
			}
			e.Start = func(context.Context, vm.Config) (Machine, error) {
				if step == "clone" {
					fill() // before the host writes the clone
				}
				return m, nil
			}
			id, err := e.Submit(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Wait(id); err != nil {
				t.Errorf("the run cannot be kept: %v", err)
			}
			run, err := e.Store.Get(id)
			if err != nil || run.Run != nil || run.State != "error" {
				t.Fatalf("the run is %v, %v, want it sealed in error", run, err)
			}
			log, err := os.ReadFile(filepath.Join(run.Dir, "step", step, "log"))
			all, aerr := os.ReadFile(filepath.Join(run.Dir, "log")) // has the reason where output was given up for it
			if err != nil || aerr != nil || !strings.Contains(string(log)+string(all), "no space left on device") {
				t.Errorf("the log of %s is %.300q, %v, %v", step, log, err, aerr)
			}
			st, _ := os.ReadFile(filepath.Join(run.Dir, "step", step, "status"))
			if !strings.HasPrefix(string(st), "error ") {
				t.Errorf("the status of %s is %q", step, st)
			}
			if rep, err := ci.VerifyDir(run.Dir); err != nil || len(rep.Content)+len(rep.Metadata) > 0 {
				t.Errorf("VerifyDir = %q, %q, %v", rep.Content, rep.Metadata, err)
			}
			if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
				t.Errorf("in TMPDIR is %v, %v", left, err)
			}
		})
	}
}

// A TMPDIR that cannot be written is the error of a run, and not one for which all wait.
func TestBadTemp(t *testing.T) {
	e, req := newExecutor(t, t.TempDir(), new(config.Config))
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "none"))
	id, err := e.Submit(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Wait(id); err != nil {
		t.Error(err)
	}
	run, err := e.Store.Get(id)
	if err != nil || run.Run != nil || run.State != "error" {
		t.Fatalf("the run is %v, %v, want it sealed in error", run, err)
	}
	if log, err := os.ReadFile(filepath.Join(run.Dir, "step/boot/log")); err != nil || !strings.Contains(string(log), "set TMPDIR to a directory that can be written") {
		t.Errorf("the log of boot is %q, %v", log, err)
	}
}

// A run that cannot be sealed, as its store has gone, ends for those that wait.
func TestStoreGone(t *testing.T) {
	dir := t.TempDir()
	e, req := newExecutor(t, dir, new(config.Config))
	begun := make(chan struct{})
	e.Start = func(context.Context, vm.Config) (Machine, error) {
		<-begun
		return nil, errors.Join(errors.New("no machine in this test"), os.RemoveAll(dir))
	}
	id, err := e.Submit(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	run, err := e.Store.Get(id)
	if err != nil || run.Run == nil {
		t.Fatal(run, err)
	}
	close(begun)
	if err := e.Wait(id); err == nil {
		t.Error("Wait says nothing of a run that is lost")
	}
	<-run.Run.Done()
	if _, err := e.Store.Get(id); err == nil {
		t.Errorf("%s is there", id)
	}
}
