package vm_test

import (
	"io"
	"testing"

	"9ci/vm"
)

// From nothing to a guest that answers, and its end.
func BenchmarkStart(b *testing.B) {
	c := config(b)
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
