package access

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An account sees its certificates and revokes some of them, and nobody else's.
func TestCertificatesOfAccount(t *testing.T) {
	a := newAuthority(t, nil)
	first, second := a.token(hello, false, time.Time{}), a.token(hello, true, time.Time{})
	one, two, others := a.login(first), a.login(first), a.login(second)
	all, err := a.Certificates(one.KeyId)
	if err != nil || len(all) != 2 || all[0].Serial != one.Serial || all[1].Serial != two.Serial || all[1].Expires != time.Unix(int64(two.ValidBefore), 0).UTC() {
		t.Fatalf("Certificates = %+v, %v", all, err)
	}
	if err := a.RevokeOf(one.KeyId, func(c Certificate) bool { return c.Serial == others.Serial }); err != nil {
		t.Fatal(err)
	}
	a.enters(others)
	changed := a.policy.Changed()
	if err := a.RevokeOf(one.KeyId, func(c Certificate) bool { return c.Serial == one.Serial }); err != nil {
		t.Fatal(err)
	}
	a.policy.Changed()
	<-changed
	a.refused("a revoked certificate", one, "revoked")
	a.enters(two)
	a.enters(others)
	if all, err := a.Certificates(one.KeyId); err != nil || len(all) != 1 || all[0].Serial != two.Serial {
		t.Errorf("Certificates after one was revoked = %+v, %v", all, err)
	}
	a.enters(a.login(first)) // nobody is barred
}

func TestAdmits(t *testing.T) {
	a := newAuthority(t, nil)
	if err := a.Admits("github:1"); err != nil {
		t.Error(err)
	}
	if err := a.Admits("github:1,github:2"); err == nil {
		t.Error("what is no principal is admitted")
	}
	if _, err := Revoke(a.dir, []string{"github:1"}); err != nil {
		t.Fatal(err)
	}
	if err := a.Admits("github:1"); !errors.Is(err, ErrBarred) {
		t.Errorf("a barred account: %v", err)
	}
	if err := os.Remove(filepath.Join(a.dir, barredFile)); err != nil {
		t.Fatal(err)
	}
	if err := a.Admits("github:1"); !errors.Is(err, ErrBarred) {
		t.Errorf("the file is gone, and what it said does not stand: %v", err)
	}
}
