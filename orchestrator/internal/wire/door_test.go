package wire

import (
	"bytes"
	"strings"
	"testing"
)

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"

func TestParseDoor(t *testing.T) {
	for text, want := range map[string]string{
		"key='" + testKey + "'\naddress=10.0.0.1:22\nuser=x\nmore=1\n": "",
		"key='" + testKey + "'\naddress=[::1]:22\nuser=x\n":            "",
		"key='" + testKey + "'\naddress=''\nuser=''\n":                 "",
		"address=10.0.0.1:22\nuser=x\n":                                "door: key",
		"key='" + testKey + "'\naddress=10.0.0.1:22\n":                 "want host:port, and a user",
		"key='" + testKey + "'\naddress=10.0.0.1\nuser=x\n":            "want host:port",
		"key='" + testKey + "'\naddress='a b:1'\nuser=x\n":             "want host:port",
		"":                             "door: key",
		"key":                          "door: ",
		strings.Repeat("a", MaxDoor+1): "over 8192 bytes",
	} {
		if _, err := ParseDoor([]byte(text)); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("ParseDoor(%.100q): %v, want %q", text, err, want)
		}
	}
}

func FuzzParseDoor(f *testing.F) {
	f.Add([]byte("key='" + testKey + "'\naddress=10.0.0.1:22\nuser=x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDoor(b)
		if err != nil {
			return
		}
		again, err := ParseDoor(d.Text())
		if err != nil || again.Address != d.Address || again.User != d.User || !bytes.Equal(again.Key.Marshal(), d.Key.Marshal()) {
			t.Errorf("%+v is read back as %+v, %v", d, again, err)
		}
	})
}
