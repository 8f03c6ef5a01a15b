package access

import (
	"errors"
	"sync"

	"golang.org/x/crypto/ssh"
)

// A Joint is the Policy of Keys and of an Authority: the certificates that the Authority
// has made are its own, and all else is for Keys. What the operator has revoked counts
// for both.
type Joint struct {
	keys *Keys
	own  *Authority

	mu       sync.Mutex // guards what follows
	changed  chan struct{}
	of, ofCA <-chan struct{} // the channels of keys and own that changed stands for
}

// NewJoint returns the Policy of both.
func NewJoint(keys *Keys, own *Authority) *Joint {
	return &Joint{keys: keys, own: own, changed: make(chan struct{}), of: keys.Changed(), ofCA: own.Changed()}
}

// Changed is Policy's.
func (j *Joint) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	of, ofCA := j.keys.Changed(), j.own.Changed()
	if of != j.of || ofCA != j.ofCA {
		close(j.changed)
		j.changed, j.of, j.ofCA = make(chan struct{}), of, ofCA
	}
	return j.changed
}

// Identify is Policy's.
func (j *Joint) Identify(key ssh.PublicKey) (Identity, error) {
	if !j.own.made(key) {
		return j.keys.Identify(key)
	}
	if err := j.Revoked(key); err != nil {
		return Identity{}, err
	}
	return j.own.identify(key.(*ssh.Certificate))
}

// Grant is Policy's.
func (j *Joint) Grant(id Identity) (Grant, error) {
	if id.Key != nil && j.own.made(id.Key) {
		return j.own.grant(id)
	}
	return j.keys.Grant(id)
}

// Revoked returns an error if the operator has revoked key, or the key of a certificate.
func (j *Joint) Revoked(key ssh.PublicKey) error {
	if _, gone := j.keys.load(); gone.Has(key) {
		return errors.New("this key is revoked")
	}
	return nil
}
