package dial

import (
	"strings"
	"testing"
)

// The words of ssh_config(5) are replaced, and what a shell or a program could take
// for something else is refused.
func TestExpandProxy(t *testing.T) {
	for _, test := range []struct{ command, addr, user, want, err string }{
		{"ssh -W %h:%p bastion", "mux.example:2222", "9ci", "ssh -W mux.example:2222 bastion", ""},
		{"nc -X connect -x p:3128 %n %p %r %%", "[2001:db8::1]:22", "a_b", "nc -X connect -x p:3128 2001:db8::1 22 a_b %", ""},
		{"x %h", "$(id):22", "9ci", "", "not a name"},
		{"x %h", "a;id:22", "9ci", "", "not a name"},
		{"x %h", "-oProxyCommand=id:22", "9ci", "", "not a name"},
		{"x %h", "a\nb:22", "9ci", "", "not a name"},
		{"x", "a:22", "`id`", "", "not a name"},
		{"x %p", "a:22 b", "9ci", "", "is no number"},
		{"x %d", "a:22", "9ci", "", "want %h, %p, %r"},
		{"x %", "a:22", "9ci", "", "ends in %"},
	} {
		got, err := expandProxy(test.command, test.addr, test.user)
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("expandProxy(%q, %q, %q) = %q, %v, want %q, %q", test.command, test.addr, test.user, got, err, test.want, test.err)
		}
	}
}
