package replay

import (
	"slices"
	"testing"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/sign"
	"9ci/fs/ci"
)

// Offers are tried one of each executor first, and those of signers that nobody
// trusts never.
func TestOrder(t *testing.T) {
	alice, mallory, ca := newSigner(t), newSigner(t), newSigner(t)
	a, m := sign.Fingerprint(alice.PublicKey()), sign.Fingerprint(mallory.PublicKey())
	found := []ci.Offer{
		{Executor: "m", ID: "1", State: "passed", Signer: m},
		{Executor: "m", ID: "2", State: "passed", Signer: a},
		{Executor: "m", ID: "3", State: "passed", Signer: a},
		{Executor: "m", ID: "4", State: "passed", Signer: a},
		{Executor: "a", ID: "1", State: "passed", Signer: a},
		{Executor: "b", ID: "1", State: "passed", Signer: a},
		{Executor: "a", ID: "2", State: "passed", Signer: a},
		{Executor: "a", ID: "3", State: "passed"},
		{Executor: "a", ID: "4", State: "test", Signer: a},
		{Executor: "a", ID: "5", State: "failed", Signer: a},
	}
	for _, tt := range []struct {
		name   string
		signer string // a line of allowed_signers besides that of alice
		want   []string
	}{
		{"keys", "", []string{"m/2", "a/1", "b/1", "m/3", "a/2", "m/4"}},
		{"certificates", "x cert-authority " + string(ssh.MarshalAuthorizedKey(ca.PublicKey())),
			[]string{"m/2", "a/1", "b/1", "m/3", "a/2", "m/4", "m/1"}},
	} {
		signers, err := trusting(alice)(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		signers.AddText("signers", tt.signer, func(err error) { t.Error(err) })
		var got []string
		for _, o := range order(found, signers) {
			got = append(got, o.Executor+"/"+o.ID)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: order = %v, want %v", tt.name, got, tt.want)
		}
	}
}
