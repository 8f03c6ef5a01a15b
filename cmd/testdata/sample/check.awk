# The unit tests of roman.awk, in the Test Anything Protocol.

function is(got, want, name) {
	print (got == want ? "ok " : "not ok ") ++tests " - " name
	if (got != want) {
		print "got " got ", want " want | "cat >&2"
		failed++
	}
}

END {
	is(roman(1), "I", "one")
	is(roman(1994), "MCMXCIV", "subtraction")
	is(roman(3999), "MMMCMXCIX", "the largest")
	is(roman(0), "", "there is no zero")
	is(roman(2.5), "", "there are no parts")
	is(arabic("MMXXVI"), 2026, "read")
	is(arabic("IIII"), 0, "four is IV")
	for (n = 1; n <= 3999; n++)
		if (arabic(roman(n)) != n)
			wrong++
	is(wrong + 0, 0, "1 to 3999, there and back")
	print "1.." tests
	print tests " tests, " failed + 0 " failed" | "cat >&2"
	exit failed > 0
}
