#!/bin/sh
# A person at the page of a story's orchestrator: person.sh URL [CODE]. The browser is
# logged in by the cookie in the file session. It shows the key of URL, or the one that
# waits for the code, answers with $ANSWER, and goes where it is sent. What it has seen
# last is in the file seen.
set -eu
page() { curl -sS --unix-socket "$WORK/page" -H "Cookie: __Host-9ci=$(cat "$WORK/session")" -f -o "$WORK/seen" "$@"; }
field() { sed -n '/<main/,$p' "$WORK/seen" | sed -n "s/.*name=\"$1\" value=\"\([^\"]*\)\".*/\1/p" | sed "s/&#43;/+/g; 1q"; }
site=http://127.0.0.1
page "$site/${1#https://127.0.0.1/}"
if [ $# -gt 1 ]; then
	page --data-urlencode "token=$(field token)" --data-urlencode "code=$2" "$site/approve"
fi
to=$(page -w '%{redirect_url}' --data-urlencode "token=$(field token)" --data-urlencode "request=$(field request)" --data-urlencode "key=$(field key)" -d "answer=${ANSWER:-approve}" "$site/approve/answer")
if [ -n "$to" ]; then
	echo "$to" >"$WORK/went"
	curl -sS -o "$WORK/seen" "$to"
fi
