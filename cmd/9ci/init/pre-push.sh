# Replays the run of each commit that is pushed, or makes it. If one does not pass,
# nothing is pushed.
command -v 9ci >/dev/null || {
	echo 'pre-push: 9ci is not in PATH, so what is pushed was not tested' >&2
	exit 0
}
tested=
while read -r _ id to _; do
	case $to in refs/heads/* | refs/tags/*) ;; *) continue ;; esac
	case $id in *[!0]*) ;; *) continue ;; esac # the ref is deleted
	commit=$(git rev-parse -q --verify "$id^{commit}") || continue
	git cat-file -e "$commit:mkfile" 2>/dev/null || continue
	case $tested in *"$commit"*) continue ;; esac
	tested="$tested $commit"
	9ci run -r -x "$commit" </dev/null || 9ci run -x "$commit" </dev/null || {
		code=$?
		echo "pre-push: $commit did not pass, so nothing is pushed: git push --no-verify does it all the same" >&2
		exit $code
	}
done
