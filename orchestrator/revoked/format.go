package revoked

import (
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/ssh"
)

// Format returns a KRL, made at the time now, that revokes the certificates of an
// authority with these serial numbers, none of which is 0.
func Format(authority ssh.PublicKey, serials []uint64, now time.Time) []byte {
	serials = slices.Clone(serials)
	slices.Sort(serials)
	var b cryptobyte.Builder
	b.AddBytes([]byte(krlMagic))
	b.AddUint32(1)                      // the format
	b.AddUint64(uint64(now.UnixNano())) // krl_version: one that is newer has more
	b.AddUint64(uint64(now.Unix()))
	b.AddUint64(0) // flags
	addString(&b, nil)
	addString(&b, []byte("9ci orchestrator"))
	if len(serials) == 0 {
		return b.BytesOrPanic()
	}
	section(&b, krlCertificates, func(b *cryptobyte.Builder) {
		addString(b, authority.Marshal())
		addString(b, nil)
		for len(serials) > 0 {
			first, last := serials[0], serials[0]
			for len(serials) > 0 && serials[0]-last <= 1 {
				last, serials = serials[0], serials[1:]
			}
			section(b, krlSerialRange, func(b *cryptobyte.Builder) {
				b.AddUint64(first)
				b.AddUint64(last)
			})
		}
	})
	return b.BytesOrPanic()
}

func section(b *cryptobyte.Builder, kind uint8, body cryptobyte.BuilderContinuation) {
	b.AddUint8(kind)
	b.AddUint32LengthPrefixed(body)
}

func addString(b *cryptobyte.Builder, s []byte) {
	b.AddUint32LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(s) })
}
