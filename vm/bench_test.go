package vm_test

import (
	"io"
	"testing"

	"9ci/vm"
)

// From nothing to a guest that answers: a kernel's start, and going on
// from a saved machine.
func BenchmarkStart(b *testing.B) {
	b.Run("cold", func(b *testing.B) { benchmarkStart(b, true) })
	b.Run("saved", func(b *testing.B) { benchmarkStart(b, false) })
}

func benchmarkStart(b *testing.B, cold bool) {
	c := config(b)
	c.Cold = cold
	start(b, c).Kill() // it may be the one that is saved
	for b.Loop() {
		m, err := vm.Start(b.Context(), c)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		m.Kill()
		b.StartTimer()
	}
}

// The shortest command there and back.
func BenchmarkRun(b *testing.B) {
	m := start(b, config(b))
	for b.Loop() {
		if _, err := m.Run(b.Context(), vm.Cmd{Args: []string{"/bin/true"}}); err != nil {
			b.Fatal(err)
		}
	}
}

// 16 MiB of a command's output.
func BenchmarkOutput(b *testing.B) {
	m := start(b, config(b))
	b.SetBytes(16 << 20)
	for b.Loop() {
		if _, err := m.Run(b.Context(), vm.Cmd{Args: []string{"head", "-c", "16M", "/dev/zero"}, Stdout: io.Discard}); err != nil {
			b.Fatal(err)
		}
	}
}
