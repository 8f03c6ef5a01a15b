package vm

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"9ci/vm/lend"
)

// Whoever changes what the core OS is made of says so: the label is in
// every run's key, and images of the old recipe are in users' caches.
func TestRecipeHasItsLabel(t *testing.T) {
	const want = "debian-12/2 1674f44faf23c466"
	h := sha256.New()
	fmt.Fprintln(h, lend.Release, packages, epoch, rootUUID, bootstrapArgs("root", "amd64"))
	if got := fmt.Sprintf("%s %.8x", CoreOS, h.Sum(nil)); got != want {
		t.Errorf("recipe is %q, want %q: raise CoreOS once the old one was released", got, want)
	}
}

// bzImage is one with a kernel that holds text.
func bzImage(text string) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	fmt.Fprintf(w, "\x7fELF%s", text)
	w.Close()
	payload := binary.LittleEndian.AppendUint32(z.Bytes(), uint32(4+len(text)))
	b := make([]byte, 2*512, 4096)
	b[0x1f1] = 1
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(b[0x248:], 16)
	binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(payload)))
	return append(append(b, make([]byte, 16)...), payload...)
}

func TestVmlinux(t *testing.T) {
	good := bzImage("kernel")
	if got, err := vmlinux(good); string(got) != "\x7fELFkernel" || err != nil {
		t.Errorf("vmlinux = %q, %v", got, err)
	}
	old := bytes.Clone(good)
	old[0x206] = 7
	other := bytes.Clone(good)
	other[2*512+16] = 'L'
	for _, test := range []struct {
		bz   []byte
		want string
	}{
		{nil, "not a bzImage"},
		{[]byte(strings.Repeat("x", 4096)), "not a bzImage"},
		{good[:len(good)-10], "cut short"},
		{old, "boot protocol"},
		{other, "a way we do not know"},
	} {
		if _, err := vmlinux(test.bz); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("vmlinux: %v, want %q", err, test.want)
		}
	}
}

func TestUnsign(t *testing.T) {
	const magic = "~Module signature appended~\n"
	info := string([]byte{0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9})
	for _, test := range []struct{ in, want string }{
		{"module", "module"},
		{"module" + "signature" + info + magic, "module"},
		{magic, magic},
		{"x" + info + magic, "x" + info + magic}, // longer than the file
	} {
		if got := unsign([]byte(test.in)); string(got) != test.want {
			t.Errorf("unsign(%q) = %q, want %q", test.in, got, test.want)
		}
	}
}

// Another implementation reads our archives, one after another.
func TestCPIO(t *testing.T) {
	var b bytes.Buffer
	w := newCPIO(&b)
	w.file("a/b/empty", 0o644, nil)
	w.file("a/b/odd", 0o755, []byte("odd\n!"))
	w.file("a/c", 0o600, []byte("1234"))
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bsdtar", "-tvf", "-")
	cmd.Env = []string{"TZ=UTC", "LC_ALL=C"}
	cmd.Stdin = &b
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("bsdtar: %v\n%s", err, out)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		got = append(got, f[0]+" "+f[4]+" "+f[len(f)-1])
	}
	want := "drwxr-xr-x 0 a|drwxr-xr-x 0 a/b|-rw-r--r-- 0 a/b/empty|-rwxr-xr-x 5 a/b/odd|-rw------- 4 a/c"
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("bsdtar -tv: %s\nwant %s", s, want)
	}
}

// What a machine needs has a name on every architecture, also on one that has no machines.
func TestNeedsHaveNames(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64", "riscv64"} {
		for _, n := range needs(arch) {
			if n.Name == "" || n.Package == "" {
				t.Errorf("on %s: need %+v", arch, n)
			}
		}
	}
}
