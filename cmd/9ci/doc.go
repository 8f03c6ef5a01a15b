/*
9ci runs a repository's mk targets at a revision in a clean virtual machine,
keeps what came out as a directory, and serves it over 9P; or it replays the
run that another executor made of the same revision.

	9ci [run] [-f] [-n] [-q] [-v] [-x] [-r] [-b] [--raw] [-D] [rev [target...]]
	9ci serve [-a ADDR]... [-root DIR] [-D]
	9ci ls [-l] [-a ADDR] [PATH...]
	9ci cat [-a ADDR] [--raw] PATH...
	9ci cp [-a ADDR] PATH DIR
	9ci wait [-a ADDR] REV
	9ci write [-a ADDR] PATH
	9ci mount [-a ADDR] DIR
	9ci verify REV|DIR
	9ci image build|ls|gc
	9ci doctor
	9ci init

# Description

With no arguments, in a git repository, 9ci replays HEAD if a passed run with
the same key can be had from a signer whom one trusts, and else runs it.
Trusted are one's own key, the keys in CI_SIGNERS and
~/.config/9ci/allowed_signers, and those in .9ci/allowed_signers of the clone's
own refs/remotes/origin/HEAD: never the tested revision's, nor another clone's.
Where a daemon answers in $NAMESPACE the run is handed to it and followed;
else this process is the executor, posts its tree at $NAMESPACE/9ci (9ci.PID
where that is taken) and stays connected until a signal. A run is handed over
with its environment: $NAMESPACE is a directory of the user's own that others
cannot write in, and what answers there is the user's or root's, or it is not
used. Without the variable it is /tmp/ns.USER.DISPLAY, as plan9port has it.

What the test wrote goes to standard output and standard error, byte for byte,
in a run and in a replay alike. The output of the other steps goes to standard
error: all of it with -v or where that is no terminal, else a line a step, and
the whole of a step that did not pass.

On a terminal every command shows of a run's bytes, and of what peers say, text
and colours (SGR) alone: no other escape or control gets there, and what is not
UTF-8 shows as U+FFFD. --raw of run and cat lets all through. In names and
messages nothing passes that cannot be printed: it is spelled as in a string of
Go's, and ls quotes a name that holds such or a blank. Off a terminal all bytes
are as they are.

The run is one of the commit, never of the dirty work tree. In the machine mk
makes prepare-runtime; base-image, an image named by the variable
CONTAINERIMAGE; test, or the targets given, in a container of that image or in
the machine itself where there is none; every target below
/var/run/ci/artifacts; and post-test. Targets the mkfile does not have are
skipped, but for test.

A repository decides nothing about the host. Git says whose it may be: one that
another user owns is refused, unless the user's safe.directory has it, and so
is a bare repository that lies in a work tree, or a work tree that core.worktree
puts where another is. No program that its configuration, attributes or hooks
name is run on the host; a file that a filter would change counts as dirty by
its stat.

Its namespace is host/owner/repo, of the URL of its remote origin after the
user's url.*.insteadOf: the host in lower case, and the path too at forges that
ignore case, without user, password, port or .git. A URL with a ?, a #, another
@, or else no such form, names none, as a path does. Without one it is
local/NAME-XXXXXXXX: the directory's name, and eight digits of the SHA-256 of
the key's fingerprint, a newline and the path of the git directory. Others see
that at an orchestrator only where a grant names it.

What a passed run left is copied to CI_ARTIFACTS, a path from the top of the
work tree, as a whole: it is filled beside and renamed, and keeps its mode and
owner. It is replaced only while it holds nothing but what 9ci put there, and
that unchanged; else it is refused before the run. So is a symbolic link on the
way, a place in a git directory, one that holds the work tree, and a mount
point. Artifacts that git would take for a repository are not copied. A 9ci that
is killed leaves the old files or the new ones, and perhaps a directory .9ci-*
beside, which the next one removes.

Flags of run:

	-f  run, even if a replay exists
	-n  say what would happen, and why
	-q  the test's bytes alone
	-v  every step's output
	-x  exit when done, rather than stay connected
	-r  replay, or fail with status 126
	-b  hand the run to the daemon, print its id and return
	--raw
	    let all escapes of a run through to a terminal, not only colour
	-D  trace 9P messages to standard error

Serve is the daemon: it runs one revision at a time, of any number of
repositories, which it takes up with the line repo PATH written to its ctl,
answered by the namespace, and keeps across restarts. ADDR is unix!PATH or
tcp!HOST!PORT, the latter on the loopback alone; without one it posts
$NAMESPACE/9ci. With -root it serves a directory read-only instead.

Ls, cat, cp, wait and write look at a tree: that of the repository one stands
in, at the daemon, at an executor posted in $NAMESPACE, at ADDR, or, where ADDR
is ssh://HOST[:PORT]/NAMESPACE or PATH that and a path, at an orchestrator.
Write sends its standard input in one message and prints the reply. Wait prints
the status of the run once it has ended, and exits with its code.

Mount shows a tree as a FUSE file system at DIR, until it is unmounted or a
signal comes.

Verify checks a run without any executor: that of a revision in the store, or
the directory of a run, where the store has none of that name or the name has a
slash. It reports the run's content, its metadata and its signature apart.

Image builds the core OS, lists what there is, or removes all but the one in
use. Doctor says what this machine lacks, and the command that mends it. Init
writes a mkfile, a .env, a hook that hands each commit to the daemon, and what
has other CI call 9ci, where the repository has none yet.

# What a machine is given

A machine sees the revision and, at /n/ci, the kept runs of the repository: in
post-test, with CI_RUNS=1 in all steps. It can write neither. What it hands back
is its output and its artifacts, within the limits of go doc 9ci/fs.

Where CI_NET gives it a network, it reaches what this host reaches, and from this
host's address: other machines of the host's network, the host's own addresses,
and at 10.0.2.2 its loopback. A service of the host that trusts who comes from
127.0.0.1 trusts the machine: with CI_NET=build in prepare-runtime, base-image
and post-test, with all in the test too, with none never.
Of the host's configuration it is lent the places of Debian's packages and the
proxies to them, without the names and passwords in their URLs.

A variable that CI_SECRETS names is in the environment of every step. Its value
is *** in all output and all that is kept of the run, by itself, by lines and in
base64; but artifacts are as the test made them. It is never in the key.

# Environment

A variable comes from the environment, then from .env at the top of the work
tree, then from ~/.config/9ci/env. An empty one stands for the default.

Any source sets these, a .env that git tracks too, within the CI_MAX_ limits:

	CI_NET           build            network for prepare-runtime, base-image and post-test; all: for the test too; none
	CI_MATCH         commit           what is run and replayed; tree: any commit of the same tree
	CI_RUNS          0                1: all steps see the kept runs at /n/ci; such a run is never replayed
	CI_TIMEOUT       1h               how long a run may take; 0: no limit
	CI_MEMORY        2G               the machine's RAM
	CI_CPUS          all              its processors: all that the host has, or a number

These a .env that git tracks does not set:

	CI_MAXAGE        7d               older runs are not replayed
	CI_KEEP          once             which runs are kept: once, a count, an age, a size, or several
	CI_CONNECTED     until-signal     or a duration: how long a run is served after its end; 0 where CI=true
	CI_ARTIFACTS     none             a directory that artifacts are copied to, as a whole
	CI_ENV           none             variables let into the machine, each NAME or NAME=VALUE; they are in the key
	CI_SECRETS       none             the same, but only names are in the key, and values are masked in all output

These say whom to trust. A .env comes last, and one that git tracks does not set them:

	CI_KEY           ~/.config/9ci/id_ed25519  signs and logs in; made on first use; an agent's key by its .pub
	CI_SIGNERS       none             an allowed_signers file, besides ~/.config/9ci/allowed_signers
	CI_ORCHESTRATOR  none             ssh://HOST[:PORT][/NAMESPACE]

These limit what a .env that git tracks asks for. No .env sets them:

	CI_MAX_TIMEOUT   6h               or another time; 0: no limit
	CI_MAX_MEMORY    half the host's  or a size
	CI_MAX_CPUS      all              or a number

A file has lines NAME=VALUE as sh(1) reads assignments, and is of 1 MiB at most.
Nothing in it is expanded but a leading ~/ of a path; a quote that begins a
value may end it some lines further on; and what is no such line is skipped.

A .env is read if it is a plain file of the user's own, with one name, and if no
others can write or replace it; else a warning says why not. One that git does
not track is taken to be the user's word: an archive that was made elsewhere,
unlike a clone, can bring one along. If git tracks it,
in the index or in HEAD, it came with the repository: one warning names what it
sets and may not. If it asks for more than a limit, or for no limit, the run
gets the limit, and a warning names both. What says whom to trust is refused if
it is inside the work tree or its git directory, and so is ~/.config/9ci.

CI_ENV and CI_SECRETS name variables, found in the environment or in a file that
may set them both, or give them: NAME=VALUE. A secret has 8 bytes or more, or
none. To let it in is to trust the revision with it. A URL of an orchestrator
with a password is refused, for a key logs in.

A CI_ variable that 9ci does not know is named, with the nearest it knows; of
the environment, where other CI has its own, only what looks like a slip.

# Files

	$NAMESPACE/9ci                     the posted tree; see go doc 9ci/fs
	$XDG_STATE_HOME/9ci/NAMESPACE      the store of a namespace's runs
	$XDG_STATE_HOME/9ci/.artifacts     what was put where CI_ARTIFACTS says
	$XDG_STATE_HOME/9ci/.repos         the work trees that the daemon serves
	$XDG_CACHE_HOME/9ci                the core OS
	~/.config/9ci/env                  configuration
	~/.config/9ci/allowed_signers      whose runs are replayed: ssh-keygen(1)
	~/.config/9ci/id_ed25519           the key; made on first use

~ is $HOME, or the password file's home directory where HOME is not absolute;
~/.config is $XDG_CONFIG_HOME, where that is absolute, and without the others
$XDG_STATE_HOME is ~/.local/state and $XDG_CACHE_HOME ~/.cache. Where there is
no home directory either, the exit status is 125.

# Exit status

That of mk, 0 or 1; 125 where the executor failed or was misused; 126 where a
replay was demanded and none could be trusted; 130 or 143 where a signal cut
the run short.

# See also

go doc 9ci/fs, go doc 9ci/cmd/mk, go doc 9ci/cmd/orchestrator; safe.directory
in git-config(1)
*/
package main
