# 9ci(1) completes its command lines itself: 9ci help -complete says what can stand for
# the last word. A name may come from others, so it is quoted.
_9ci() {
	local IFS=$' \t\n' line=${COMP_LINE:0:COMP_POINT} out name words
	read -a words <<<"$line"
	[[ $line == *[[:blank:]] ]] && words+=('')
	out=$(command 9ci help -complete -- "${words[@]:1}" 2>/dev/null)
	case $? in
	0) ;;
	1) compopt -o default; return ;;
	*) return ;;
	esac
	# Readline takes a word to begin behind the last of these characters.
	local breaks=${COMP_WORDBREAKS//[[:space:]]} word=${words[-1]}
	local before=${word%"${word##*["$breaks"]}"}
	COMPREPLY=()
	while IFS= read -r name; do
		[[ $name ]] || continue
		printf -v name %q "${name#"$before"}"
		COMPREPLY+=("$name")
	done <<<"$out"
	[[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace
}
complete -F _9ci 9ci
