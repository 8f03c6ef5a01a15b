package vm

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"os/exec"
)

// image is the kernel proper of arm64, which Debian may pack with gzip. The header is
// that of the kernel's Documentation/arm64/booting.rst.
func image(packed []byte) ([]byte, error) {
	b := packed
	if z, err := gzip.NewReader(bytes.NewReader(packed)); err == nil {
		if b, err = io.ReadAll(z); err != nil {
			return nil, fmt.Errorf("unpack the kernel: %w", err)
		}
	}
	const magic = 0x38
	if len(b) < magic+4 || string(b[magic:magic+4]) != "ARM\x64" {
		return nil, fmt.Errorf("not an arm64 Image")
	}
	return b, nil
}

// vmlinux takes the kernel proper out of a bzImage. qemu starts it by its
// PVH note, seconds sooner under TCG than the bzImage unpacks itself.
//
// The header is that of the kernel's Documentation/x86/boot.rst.
func vmlinux(bz []byte) ([]byte, error) {
	const setupSects, magic, version, offset, length, end = 0x1f1, 0x202, 0x206, 0x248, 0x24c, 0x250
	if len(bz) < end || string(bz[magic:magic+4]) != "HdrS" {
		return nil, fmt.Errorf("not a bzImage")
	}
	le := binary.LittleEndian
	if v := le.Uint16(bz[version:]); v < 0x208 {
		return nil, fmt.Errorf("bzImage of boot protocol %#x, want 0x208 or later", v)
	}
	sects := int(bz[setupSects])
	if sects == 0 {
		sects = 4
	}
	from := (sects+1)*512 + int(le.Uint32(bz[offset:]))
	n := int(le.Uint32(bz[length:]))
	if n < 8 || from > len(bz) || n > len(bz)-from {
		return nil, fmt.Errorf("bzImage is cut short")
	}
	payload := bz[from : from+n]
	var cmd *exec.Cmd
	switch {
	case bytes.HasPrefix(payload, []byte("\xfd7zXZ")):
		cmd = exec.Command("xz", "-dc", "--single-stream") // its size follows the stream
	case bytes.HasPrefix(payload, []byte("\x28\xb5\x2f\xfd")):
		cmd = exec.Command("zstd", "-dc")
		payload = payload[:n-4]
	case bytes.HasPrefix(payload, []byte("\x1f\x8b")):
		cmd = exec.Command("gzip", "-dc")
		payload = payload[:n-4]
	default:
		return nil, fmt.Errorf("kernel compressed in a way we do not know (%x)", payload[:4])
	}
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(payload), &stderr
	elf, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("unpack the kernel: %s: %w: %s", cmd.Args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	if !bytes.HasPrefix(elf, []byte("\x7fELF")) {
		return nil, fmt.Errorf("the kernel that was unpacked is not an ELF file")
	}
	return elf, nil
}
