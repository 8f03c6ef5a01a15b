# The line, end to end, as its users would type it: Alice runs a revision in
# a machine and serves the run; Bob replays it through an orchestrator.
set -eu

tmp=$(mktemp -d)
pids=
quit() {
	status=$?
	trap - EXIT INT TERM
	for p in $pids; do kill "$p" 2>/dev/null && wait "$p" || :; done
	[ "$status" = 0 ] || { cat "$tmp"/*.log 2>/dev/null; echo "the demo failed (status $status)"; } >&2
	rm -rf "$tmp"
	exit "$status"
}
trap quit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

act() { printf '\n# %s\n' "$*"; }
does() { printf '$ %s\n' "$*"; eval "$*"; }
now() { date +%s%N; }
until_is() { # a socket or a port that will be there soon
	for i in $(seq 100); do "$@" && return; sleep 0.1; done
	echo "waited ten seconds for: $*" >&2
	return 1
}
as() { # each of the two has a home of their own; the core OS is shared
	export NAMESPACE=$tmp/$1/ns XDG_STATE_HOME=$tmp/$1/state XDG_CONFIG_HOME=$tmp/$1/config
	mkdir -p -m 700 "$NAMESPACE" "$XDG_CONFIG_HOME/9ci"
	cd "$tmp/$1"
}
export XDG_CACHE_HOME="${XDG_CACHE_HOME:-$HOME/.cache}" CI_KEEP=10
unset CI CI_ORCHESTRATOR
# git and ssh are not to read or write what is in the user's own home.
export HOME=$tmp GIT_CONFIG_GLOBAL=$tmp/gitconfig
git config --global user.name Alice
git config --global user.email alice@example.org
git config --global init.defaultBranch main
sample=$(dirname "$(realpath "$0")")/sample

act 'Alice has a repository: a small program, its tests, and a mkfile.'
mkdir -p "$tmp/alice"
cp -r "$sample" "$tmp/alice/roman"
as alice
cd roman
does git init -q
does git remote add origin https://example.org/alice/roman.git
does git add -A
does git commit -q -m "'roman numerals'"
does cat mkfile

act 'She has a daemon, and asks for a run. It boots the core OS, which is built
# where there is none, in a machine of its own.'
does 9ci image build
9ci serve 2>$tmp/daemon.log & pids=$!
daemon=$!
printf '$ 9ci serve &\n'
until_is test -S "$NAMESPACE/9ci"
t0=$(now)
does '9ci run >$tmp/run.stdout 2>$tmp/run.stderr' || { cat "$tmp/run.stderr"; exit 1; }
t1=$(now)
does 'cat $tmp/run.stdout'
does 'cat $tmp/run.stderr'

act 'The run is a directory: look at it with ls and cat.'
does 9ci ls ci
does 9ci ls -l ci/head/
does 9ci cat ci/head/status
does 9ci cat ci/head/key
does 9ci cat ci/head/artifacts/size
does 9ci cat ci/head/step/post-test/log
does 9ci cat index

act 'Anyone can check it with no tool of ours.'
does 'mkdir $tmp/check && cd $tmp/check'
does '9ci cat -a unix!$NAMESPACE/9ci example.org/alice/roman/ci/last.tar | tar -xp'
does 'cd $(ls -d *.1)'
does 'sha256sum --quiet -c manifest && echo every file is what the manifest says'
does "printf 'alice %s\n' \"\$(cut -d' ' -f1,2 \$XDG_CONFIG_HOME/9ci/id_ed25519.pub)\" >\$tmp/allowed_signers"
does 'ssh-keygen -Y verify -n run@9ci -f $tmp/allowed_signers -I alice -s manifest.sig <manifest'

act 'An orchestrator. Alice and Bob may enter; Bob trusts what Alice signs.'
port=$(( 20000 + $$ % 20000 ))
orchestrator -a "tcp!127.0.0.1!$port" -state "$tmp/orchestrator" 2>$tmp/orchestrator.log & pids="$pids $!"
printf '$ orchestrator -a tcp!127.0.0.1!%s -state $tmp/orchestrator &\n' "$port"
mkdir -p -m 700 "$tmp/.ssh"
until_is sh -c "ssh-keyscan -p $port 127.0.0.1 >$tmp/.ssh/known_hosts 2>/dev/null && test -s $tmp/.ssh/known_hosts"
mkdir -p "$tmp/bob"
as bob
ssh-keygen -q -t ed25519 -N '' -C bob -f "$XDG_CONFIG_HOME/9ci/id_ed25519"
does 'cat $tmp/*/config/9ci/id_ed25519.pub >>$tmp/orchestrator/authorized_keys'
does 'cp $tmp/allowed_signers $XDG_CONFIG_HOME/9ci/allowed_signers'
export CI_ORCHESTRATOR=ssh://127.0.0.1:$port
as alice
cd roman
kill "$daemon"
wait "$daemon" || :
9ci serve 2>>$tmp/daemon.log & pids="$pids $!"
printf '$ CI_ORCHESTRATOR=%s 9ci serve &\n' "$CI_ORCHESTRATOR"
ssh="ssh -p $port -i $XDG_CONFIG_HOME/9ci/id_ed25519 -o IdentitiesOnly=yes -o UserKnownHostsFile=$tmp/.ssh/known_hosts 127.0.0.1"
until_is sh -c "$ssh cat namespace=example.org/alice/roman ci/last/status 2>/dev/null | grep -q ^passed"
printf '$ ssh -p %s 127.0.0.1 cat namespace=example.org/alice/roman ci/last/status\n' "$port"
$ssh cat namespace=example.org/alice/roman ci/last/status

act 'Bob has a clone, and asks for the same revision: he replays the run.'
as bob
does git clone -q '$tmp/alice/roman'
cd roman
does git remote set-url origin https://example.org/alice/roman.git
t2=$(now)
does '9ci run -x >$tmp/replay.stdout 2>$tmp/replay.stderr' || { cat "$tmp/replay.stderr"; exit 1; }
t3=$(now)
does 'cat $tmp/replay.stdout'
does 'tail -n 1 $tmp/replay.stderr'
does 'cmp $tmp/run.stdout $tmp/replay.stdout && echo the same, byte for byte'
does 9ci verify last
printf '\nThe run took %d ms, the replay %d ms.\n' $(( (t1-t0)/1000000 )) $(( (t3-t2)/1000000 ))
