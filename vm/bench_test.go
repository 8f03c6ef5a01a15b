package vm_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"9ci/vm"
	"9ci/vm/network/networktest"
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

// The network of a machine beside qemu's own, slirp: 64 MiB from a host outside and
// to it, and connections one after another.
func BenchmarkNetwork(b *testing.B) {
	b.Run("ours", benchmarkNetwork)
	b.Run("slirp", func(b *testing.B) {
		program := vm.Needs()[0].Name
		real, err := exec.LookPath(program)
		if err != nil {
			b.Fatal(err)
		}
		dir := b.TempDir()
		script := `#!/bin/sh
for a; do
	case $a in
	stream,id=net,*) a=user,id=net ;;
	virtio-net-device,*) a=virtio-net-device,netdev=net ;;
	esac
	set -- "$@" "$a"
	shift
done
exec ` + real + ` "$@"
`
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(real)), []byte(script), 0o755); err != nil {
			b.Fatal(err)
		}
		b.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		benchmarkNetwork(b)
	})
}

func benchmarkNetwork(b *testing.B) {
	const size = 64 << 20
	o := networktest.New(b)
	serve := func(f func(net.Conn)) string {
		l := o.Listen(b, "tcp", "0.0.0.0:0")
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					f(c)
				}()
			}
		}()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		return fmt.Sprintf("/dev/tcp/%v/%s", o.Addr, port)
	}
	source := serve(func(c net.Conn) { c.Write(make([]byte, size)) })
	sink := serve(func(c net.Conn) {
		io.Copy(io.Discard, c)
		io.WriteString(c, "all\n")
	})
	quiet := serve(func(net.Conn) {})
	c := config(b)
	c.Net = true
	m := start(b, c)
	for _, bm := range []struct {
		name   string
		bytes  int64
		script string
	}{
		{"from", size, "test $(cat <" + source + " | wc -c) = " + strconv.Itoa(size)},
		{"to", size, "exec 3<>" + sink + "; head -c " + strconv.Itoa(size) + " /dev/zero >&3"},
		{"connect", 0, "for i in {1..50}; do read <" + quiet + "; done; true"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.SetBytes(bm.bytes)
			for b.Loop() {
				exit, err := m.Run(b.Context(), vm.Cmd{Args: []string{"bash", "-c", bm.script}})
				if err != nil || exit.Code != 0 {
					b.Fatal(exit, err)
				}
			}
		})
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
