# roman(n) is n, from 1 to 3999, as the Romans wrote it; arabic(s) reads it
# again and is 0 where s is no number.

function roman(n,    i, s) {
	if (n < 1 || n > 3999 || n != int(n))
		return ""
	for (i = 1; i in value; i++)
		while (n >= value[i]) {
			s = s symbol[i]
			n -= value[i]
		}
	return s
}

function arabic(s,    i, n, rest) {
	rest = s
	for (i = 1; i in value; i++)
		while (index(rest, symbol[i]) == 1) {
			n += value[i]
			rest = substr(rest, length(symbol[i]) + 1)
		}
	return rest == "" && roman(n) == s ? n : 0
}

BEGIN {
	split("1000 900 500 400 100 90 50 40 10 9 5 4 1", value)
	split("M CM D CD C XC L XL X IX V IV I", symbol)
}
