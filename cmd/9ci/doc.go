/*
9ci runs a repository's mk targets at a revision in a clean virtual machine,
keeps what came out as a directory, and serves it over 9P; or it replays the
run that another executor made of the same revision.

	9ci [run] [-f] [-n] [-q] [-v] [-x] [-r] [-b] [--raw] [-D] [rev [target...]]
	9ci serve [-a ADDR]... [-root DIR] [-D]
	9ci ls [-l] [-a ADDR] [PATH...]
	9ci cat [-a ADDR] PATH...
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
Where a daemon answers in $NAMESPACE the run is handed to it and followed;
else this process is the executor, posts its tree at $NAMESPACE/9ci (9ci.PID
where that is taken) and stays connected until a signal.

What the test wrote goes to standard output and standard error, byte for byte,
in a run and in a replay alike. The output of the other steps goes to standard
error: all of it with -v or where that is no terminal, else a line a step, and
the whole of a step that did not pass.

The run is one of the commit, never of the dirty work tree. In the machine mk
makes prepare-runtime; base-image, an image named by the variable
CONTAINERIMAGE; test, or the targets given, in a container of that image or in
the machine itself where there is none; every target below
/var/run/ci/artifacts; and post-test. Targets the mkfile does not have are
skipped, but for test.

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
repositories, which it takes up with the line repo PATH written to its ctl and
keeps across restarts. ADDR is unix!PATH or tcp!HOST!PORT, the latter on the
loopback alone; without one it posts $NAMESPACE/9ci. With -root it serves a
directory read-only instead.

Ls, cat, cp, wait and write look at a tree: that of the repository one stands
in, at the daemon, at an executor posted in $NAMESPACE, at ADDR, or, where ADDR
is ssh://HOST[:PORT]/NAMESPACE or PATH that and a path, at an orchestrator. Write sends its
standard input in one message and prints the reply. Wait prints the status of
the run once it has ended, and exits with its code.

Mount shows a tree as a FUSE file system at DIR, until it is unmounted or a
signal comes.

Verify checks a run without any executor, and reports its content, its
metadata and its signature apart.

Image builds the core OS, lists what there is, or removes all but the one in use. Doctor says what this machine
lacks, and the command that mends it. Init writes a mkfile, a .env, a hook that
hands each commit to the daemon, and what has other CI call 9ci, where the
repository has none yet.

# Environment

A variable comes from the environment, then from .env in the repository, then
from ~/.config/9ci/env. A .env that git tracks cannot set CI_SIGNERS, CI_ENV
or CI_SECRETS.

	CI_ORCHESTRATOR  ssh://host:port[/namespace]
	CI_KEEP          once, a count, an age, a size, or several: which runs are kept
	CI_CONNECTED     until-signal, a duration, or 0
	CI_TIMEOUT       1h
	CI_MEMORY        2G
	CI_CPUS          all
	CI_NET           build: network for prepare-runtime and base-image; all; none
	CI_ENV           variables let into the machine
	CI_SECRETS       the same, their values masked in all output
	CI_RUNS          1: all steps see the kept runs at /n/ci
	CI_MATCH         commit, or tree: any commit of the same tree
	CI_MAXAGE        7d: older runs are not replayed
	CI_SIGNERS       an allowed_signers file
	CI_ARTIFACTS     a directory that artifacts are copied to
	CI_KEY           ~/.config/9ci/id_ed25519: signs and logs in

# Files

	$NAMESPACE/9ci                     the posted tree; see go doc 9ci/fs
	$XDG_STATE_HOME/9ci/NAMESPACE      the store of a namespace's runs
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

go doc 9ci/fs, go doc 9ci/cmd/mk, go doc 9ci/cmd/orchestrator
*/
package main
