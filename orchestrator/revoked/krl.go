package revoked

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/ssh"
)

// A KRL is OpenSSH's key revocation list: PROTOCOL.krl in its source. parseKRL
// understands all of it but extensions and signatures, which ssh-keygen does not
// write.
const krlMagic = "SSHKRL\n\x00"

// Sections of a KRL.
const (
	krlCertificates = 1
	krlKeys         = 2
	krlSHA1         = 3
	krlSignature    = 4
	krlSHA256       = 5
	krlExtension    = 255
)

// Sections of krlCertificates.
const (
	krlSerialList   = 0x20
	krlSerialRange  = 0x21
	krlSerialBitmap = 0x22
	krlKeyID        = 0x23
	krlCertExt      = 0x39
)

// A certList is what a list says of certificates of one authority, or of all.
type certList struct {
	authority []byte // a key as it travels; nil: all
	serials   []serialRange
	bitmaps   []serialBitmap
	ids       map[string]bool // key ids
}

// A serialRange is of both serial numbers and those between them.
type serialRange struct{ first, last uint64 }

// In a serialBitmap bit n is of the serial number first+n.
type serialBitmap struct {
	first uint64
	bits  *big.Int
}

// certOf returns a list of one certificate: by its serial number or, where it has
// none, by its key id, as ssh-keygen -k does.
func certOf(cert *ssh.Certificate) certList {
	c := certList{authority: cert.SignatureKey.Marshal(), ids: make(map[string]bool)}
	if cert.Serial == 0 {
		c.ids[cert.KeyId] = true
	} else {
		c.serials = []serialRange{{cert.Serial, cert.Serial}}
	}
	return c
}

func (c *certList) has(cert *ssh.Certificate) bool {
	if c.authority != nil && !bytes.Equal(c.authority, cert.SignatureKey.Marshal()) {
		return false
	}
	if c.ids[cert.KeyId] {
		return true
	}
	if cert.Serial == 0 { // the authority has given it none
		return false
	}
	for _, r := range c.serials {
		if r.first <= cert.Serial && cert.Serial <= r.last {
			return true
		}
	}
	for _, b := range c.bitmaps {
		if n := cert.Serial - b.first; cert.Serial >= b.first && n < uint64(b.bits.BitLen()) && b.bits.Bit(int(n)) == 1 {
			return true
		}
	}
	return false
}

var errKRL = errors.New("the KRL is cut short or damaged")

func parseKRL(b []byte) (*List, error) {
	l := newList()
	s := cryptobyte.String(b)
	var format uint32
	if !s.Skip(len(krlMagic)) || !s.ReadUint32(&format) {
		return nil, errKRL
	}
	if format != 1 {
		return nil, fmt.Errorf("a KRL of format %d: this version of 9ci knows 1", format)
	}
	var reserved, comment cryptobyte.String
	// krl_version, generated_date, flags
	if !s.Skip(3*8) || !readString(&s, &reserved) || !readString(&s, &comment) {
		return nil, errKRL
	}
	for !s.Empty() {
		var kind uint8
		var body cryptobyte.String
		if !s.ReadUint8(&kind) || !readString(&s, &body) {
			return nil, errKRL
		}
		var err error
		switch kind {
		case krlCertificates:
			var c certList
			c, err = parseCerts(body)
			l.certs = append(l.certs, c)
		case krlKeys:
			err = readBlobs(body, l.blobs, 0)
		case krlSHA1:
			err = readBlobs(body, l.sha1, sha1.Size)
		case krlSHA256:
			err = readBlobs(body, l.sha256, sha256.Size)
		case krlExtension:
			err = skipExtension(body)
		case krlSignature:
			err = errors.New("the KRL is signed, and this version of 9ci checks no signature of a KRL")
		default:
			err = fmt.Errorf("the KRL has a section of the unknown type %d", kind)
		}
		if err != nil {
			return nil, err
		}
	}
	return l, nil
}

func parseCerts(s cryptobyte.String) (certList, error) {
	c := certList{ids: make(map[string]bool)}
	var authority, reserved cryptobyte.String
	if !readString(&s, &authority) || !readString(&s, &reserved) {
		return c, errKRL
	}
	if len(authority) > 0 {
		key, err := ssh.ParsePublicKey(authority)
		if err != nil {
			return c, fmt.Errorf("the KRL has an authority that cannot be read: %w", err)
		}
		c.authority = plain(key).Marshal()
	}
	for !s.Empty() {
		var kind uint8
		var body cryptobyte.String
		if !s.ReadUint8(&kind) || !readString(&s, &body) {
			return c, errKRL
		}
		var err error
		switch kind {
		case krlSerialList:
			for !body.Empty() {
				var n uint64
				if !body.ReadUint64(&n) {
					return c, errKRL
				}
				c.serials = append(c.serials, serialRange{n, n})
			}
		case krlSerialRange:
			var r serialRange
			if !body.ReadUint64(&r.first) || !body.ReadUint64(&r.last) || !body.Empty() || r.first > r.last {
				return c, errKRL
			}
			c.serials = append(c.serials, r)
		case krlSerialBitmap:
			b := serialBitmap{bits: new(big.Int)}
			var bits cryptobyte.String
			if !body.ReadUint64(&b.first) || !readString(&body, &bits) || !body.Empty() || len(bits) > 0 && bits[0]&0x80 != 0 { // negative
				return c, errKRL
			}
			b.bits.SetBytes(bits)
			c.bitmaps = append(c.bitmaps, b)
		case krlKeyID:
			err = readBlobs(body, c.ids, 0)
		case krlCertExt:
			err = skipExtension(body)
		default:
			err = fmt.Errorf("the KRL has a section of the unknown type %#x for certificates", kind)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// readBlobs reads strings into a set. Each has size bytes, or any number if size
// is 0.
func readBlobs(s cryptobyte.String, into map[string]bool, size int) error {
	for !s.Empty() {
		var one cryptobyte.String
		if !readString(&s, &one) || size > 0 && len(one) != size {
			return errKRL
		}
		into[string(one)] = true
	}
	return nil
}

// skipExtension passes over an extension, unless it says that it must be
// understood.
func skipExtension(s cryptobyte.String) error {
	var name, body cryptobyte.String
	var critical uint8
	if !readString(&s, &name) || !s.ReadUint8(&critical) || !readString(&s, &body) || !s.Empty() {
		return errKRL
	}
	if critical != 0 {
		return fmt.Errorf("the KRL has the critical extension %.80q, which this version of 9ci does not know", []byte(name))
	}
	return nil
}

// readString reads a string of RFC 4251 §5.
func readString(s, to *cryptobyte.String) bool {
	var n uint32
	return s.ReadUint32(&n) && uint64(n) <= uint64(len(*s)) && s.ReadBytes((*[]byte)(to), int(n))
}
