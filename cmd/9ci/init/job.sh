#!/bin/sh
# A job of another CI: it replays the run of this commit or, if there is none, makes it.
# 9ci init wrote this file, which is the repository's from then on.
#
# usage: sh .9ci/job           replay, or else run
#        sh .9ci/job replay    or fail: a job may restore its cache only then
#        sh .9ci/job run
#
# It keeps what it needs in .9ci-job: the release, the core OS in cache, and artifacts.
set -eu

# A variable of the job of the name that stands behind comes first.
url=[[quote .URL]] # NINECI_URL: a release of 9ci, a .tar.gz. Without one, 9ci is in PATH
sum=[[quote .Sum]] # NINECI_SHA256: its SHA-256
orchestrator=[[quote .Orchestrator]] # CI_ORCHESTRATOR: where runs are looked for; the job's own token logs in
hosts=[[quote .Hosts]] # NINECI_KNOWN_HOSTS: the orchestrator's lines of known_hosts

url=${NINECI_URL:-$url} hosts=${NINECI_KNOWN_HOSTS:-$hosts}
sum=$(printf '%s' "${NINECI_SHA256:-$sum}" | tr A-F a-f)
export CI_ORCHESTRATOR="${CI_ORCHESTRATOR:-$orchestrator}"
cd "$(dirname "$0")/.."
job=$PWD/.9ci-job
export XDG_CACHE_HOME="${XDG_CACHE_HOME:-$job/cache}"
export CI_ARTIFACTS="${CI_ARTIFACTS:-.9ci-job/artifacts}"

die() {
	echo ".9ci/job: $1" >&2
	exit 125
}

# The clone of a container may be another user's, and is the job's all the same.
clone() {
	command -v git >/dev/null || die 'git is not installed here'
	git rev-parse --git-dir >/dev/null 2>&1 || git config --global --add safe.directory "$PWD"
	exclude=$(git rev-parse --git-path info/exclude) || die "$PWD is no clone"
	mkdir -p "$job" "$(dirname "$exclude")"
	grep -qsxF /.9ci-job/ "$exclude" || echo /.9ci-job/ >>"$exclude"
}

install() {
	if [ -n "$url" ]; then
		case $sum in
		'' | *[!0-9a-f]*) die "NINECI_SHA256 is '$sum': want the SHA-256 of $url in hex" ;;
		esac
		if [ ! -d "$job/$sum" ]; then
			command -v curl >/dev/null || die 'curl is not installed here'
			rm -rf "$job/new"
			mkdir "$job/new"
			curl -fsSL --connect-timeout 30 --retry 3 -o "$job/new/release" "$url" || die "$url cannot be fetched"
			got=$(sha256sum "$job/new/release")
			[ "${got%% *}" = "$sum" ] || die "$url has the SHA-256 ${got%% *}, not $sum: it is not the release that was meant"
			tar -xzf "$job/new/release" --strip-components=1 -C "$job/new" || die "$url is no .tar.gz of a release"
			rm "$job/new/release"
			mv "$job/new" "$job/$sum"
		fi
		PATH=$job/$sum/bin:$PATH
	fi
	command -v 9ci >/dev/null || die 'there is no 9ci here: set NINECI_URL and NINECI_SHA256 to a release and its SHA-256'
}

known() {
	[ -n "$hosts" ] || return 0
	[ -d "$HOME/.ssh" ] || mkdir -m 700 "$HOME/.ssh"
	printf '%s\n' "$hosts" | while read -r line; do
		grep -qsxF -e "$line" "$HOME/.ssh/known_hosts" || printf '%s\n' "$line" >>"$HOME/.ssh/known_hosts"
	done
}

# The signers whose runs count stand in .9ci/allowed_signers on the default branch, which
# the clone of a job seldom has.
signers() {
	git rev-parse -q --verify 'refs/remotes/origin/HEAD^{commit}' >/dev/null && return
	head=$(git ls-remote origin HEAD | cut -f 1)
	if [ -n "$head" ] && { git cat-file -e "$head^{commit}" 2>/dev/null || git fetch -q --no-tags --depth=1 origin "$head"; }; then
		git update-ref refs/remotes/origin/HEAD "$head"
	else
		echo '.9ci/job: the default branch cannot be fetched, so its .9ci/allowed_signers does not count' >&2
	fi
}

kvm() {
	[ -e /dev/kvm ] && { [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; } || return 0
	sudo -n chmod a+rw /dev/kvm || echo '.9ci/job: this job may not open /dev/kvm: machines run without it, slowly' >&2
}

replay() { 9ci run -r -x; }

run() {
	kvm
	9ci doctor -fix >&2 || exit 125
	9ci run -x
}

command=${1:-all}
case $command in
all | replay | run) ;;
*) die "there is no $command: want replay, run or nothing" ;;
esac
clone
install
known
signers
case $command in
all) replay || run ;;
*) $command ;;
esac
