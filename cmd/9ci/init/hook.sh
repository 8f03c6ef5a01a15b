#!/bin/sh
# 9ci init -hooks wrote this hook. The one that was here before it is [[.Name]].before, and runs first.
before=${0%.legacy}.before # pre-commit calls this file [[.Name]].legacy
[[- if .Stdin]]
input=$(cat)
if [ [[.Test]] "$before" ]; then
	{ [ -z "$input" ] || printf '%s\n' "$input"; } | [[.Sh]]"$before" "$@" || exit
fi
exec <<EOF
$input
EOF
[[- else]]
if [ [[.Test]] "$before" ]; then [[.Sh]]"$before" "$@" || exit; fi
[[- end]]

[[.Core -]]
