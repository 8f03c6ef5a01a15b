/*
9ci runs the mk targets of a repository at a revision in a clean virtual machine,
keeps what came out as a directory, and serves that over 9P. Or it replays the run
that another executor has made of the same revision.

	9ci [run] [-f] [-n] [-q] [-v] [-x] [-r] [-R] [-b] [--raw] [-D] [rev [target...]]
	9ci serve [-a ADDR]... [-adopt] [-direct ADDR] [-j N] [-root DIR] [-D]
	9ci ls [-l] [-a ADDR] [PATH...]
	9ci cat [-a ADDR] [--raw] PATH...
	9ci cp [-a ADDR] PATH DIR
	9ci wait [-a ADDR] REV
	9ci write [-a ADDR] PATH
	9ci sh [-root] [REV]
	9ci mount [-a ADDR] DIR
	9ci vouch [-push] [REV]
	9ci verify [-attest] REV|DIR
	9ci login [-code] [-f] [HOST]
	9ci logout [HOST]
	9ci whoami [HOST]
	9ci image build|ls|gc
	9ci doctor [-fix]
	9ci init [-hooks]
	9ci help [-man DIR] [-completion bash|zsh|fish] [-complete] [TOPIC...]
	9ci version

# Description

Each command has a section below, and 9ci help prints one alone: 9ci help run, 9ci help
environment. Without a command, 9ci is 9ci run.

A run goes on to its end, and a server serves, if what they print has no reader any more.

On a terminal every command prints only the text and the colours (SGR) of a run and
of what peers say. Other escapes and controls are dropped, and bytes that are not
UTF-8 are shown as U+FFFD. With --raw, run and cat print all bytes. In names and
messages, characters that cannot be printed are spelled as in a Go string; ls quotes
names that have such a character or a blank. Anything but a terminal gets all bytes
as they are.

A repository decides nothing about the host. Git says whose repositories may be used:
9ci refuses one of another user unless the user's safe.directory lists it, a bare
repository inside a work tree, and a core.worktree that leads to the work tree of
another repository. On the host 9ci runs no program that the repository's
configuration, attributes or hooks name. A file that a filter would change counts as
dirty by its stat.

The namespace of a repository is host/owner/repo, from the URL of its remote origin
after the user's url.*.insteadOf. The host is in lower case, and so is the path at
forges that ignore case; user, password, port and .git are left out. A path names no
namespace, and neither does a URL of another form, or one with a ?, a # or a second
@. Such a repository, or one without an origin, has the namespace local/NAME-XXXXXXXX:
the name of the directory, and eight digits of the SHA-256 of the key's fingerprint, a
newline and the path of the git directory. At an orchestrator others see a local
namespace only if a grant names it.

# Run

With no arguments, in a git repository, 9ci replays HEAD if it can have a passed run
with the same key from a trusted signer; otherwise it runs HEAD. See # Replays.

Its flags:

	-f  run, even if a replay exists
	-n  say what would happen, and why, and change nothing: if no run can be replayed,
	    what the nearest one of the commit, of the tree or else of the repository has
	    otherwise, a line for each attribute of the key, for its state, age and signer
	-q  print the test's bytes alone
	-v  print every step's output
	-x  exit when done, rather than stay connected
	-r  replay, or fail with status 126
	-R  the same, but replay a failed run if there is no passed one
	-b  hand the run to the daemon, print its id and return
	--raw
	    print all bytes of a run on a terminal, not only text and colours
	-D  trace 9P messages to standard error

If a daemon answers in $NAMESPACE, the run is handed to the daemon and followed. Clients
that ask for one key at a time share one run, which belongs to them all: a signal, or the end of
a client, cancels it if no other waits, and one that others wait for goes on. With -b the
run goes on in any case. Each run is of the clone in which it was asked for, also if
others of the namespace have been added. What is queued when a daemon ends or is killed, the
next one runs as it was asked for; only the values of secrets are in no file, so a run that had
secrets ends in error. If another run can stand for it by then, its id leads to that.
Otherwise this process is the executor: it posts its tree at $NAMESPACE/9ci, or
9ci.PID if that is taken, and stays connected until a signal comes. If it is to leave at
once, and its run passed, it first waits until an executor with serve -adopt has the run,
if one is connected in the namespace, for 30 s at most; a signal ends that. A run is handed
over with the environment of the user. So $NAMESPACE must be a directory of the user
in which others cannot write, and the server that answers there must be the user's or
root's. A server that does not answer within 20 s, because it is stopped say, is not used.
Without the variable it is /tmp/ns.USER.DISPLAY, as in plan9port.

What the test wrote goes to standard output and standard error, byte for byte, in a
run and in a replay alike. The output of the other steps goes to standard error: all
of it with -v or if that is no terminal, otherwise a line for each step and the whole
output of a step that did not pass. The line of the step that goes on stands last on the
terminal and has the seconds that have passed; but not where TERM is dumb or not set, and
during the test not if standard output is a pipe. A line of ours begins a line: if the
test's last line has no newline, one comes first.

A run is of a commit, never of the dirty work tree. In the machine mk makes
prepare-runtime; base-image, whose name is the variable CONTAINERIMAGE; test, or the
targets given, in a container of that image, or in the machine itself if there is no
image; every target below /var/run/ci/artifacts; and post-test. Apart from test,
targets that the mkfile does not have are skipped. What the test itself puts into
/var/run/ci/artifacts is an artifact too, also if the test fails.

The machine gets a clone of what this host has, and nothing is fetched: the history of
the commit and its tags, as far as a shallow clone goes; submodules, from the clones of
them in the git directory or the work tree; and the objects of Git LFS. It has no remote
and none of the host's configuration. A submodule with update = none in .gitmodules is
left out. A partial clone does if it has the files of the commit. If anything is missing
the run ends in error, which names that and the git command that fetches it.

A revision is anything that git takes for one commit. A range is refused, and so is a
name that refs of different commits share. Flags stand before the revision: a target
that begins with - is refused.

A cancel, and a limit that a run passes, end its machine at once, whatever goes on
in it. A run that takes longer than CI_TIMEOUT, says nothing for CI_IDLE, or writes more
than CI_OUTPUT is in error; what it wrote until then is kept. CI_OUTPUT is for each
stream of a service too; what services say does not count for CI_IDLE. If the memory of
the machine was full as a step failed, the log of the step says so.

Whatever keeps the executor from going on, a full disk or a TMPDIR that cannot be written,
ends the run in error, and the log of the step says why. If the executor is killed, the
next one of the repository seals the run, whose log says that.

With -R nothing runs, and the exit status is that of a run which passed or, if none
did, of one which failed. One that was cancelled or ended in error does not count. So

	git bisect run 9ci run -R -x

finds the commit that broke a test from the runs that exist, those no older than
CI_MAXAGE. If a commit may have none, bisect must not take 126 for bad, but skip it:

	git bisect run sh -c '9ci run -R -x; s=$?; exit $((s == 126 ? 125 : s))'

# Replays

A passed run of the same key stands for one of our own if a trusted signer has signed
it. Trusted are the
user's own key, the keys in CI_SIGNERS and ~/.config/9ci/allowed_signers, and those
in .9ci/allowed_signers at refs/remotes/origin/HEAD of the clone. The tested revision
and other clones name no signers. A line that cannot be read is skipped with a warning.

A run counts if its end is not in the future and a trusted signer has signed it:
valid-after and valid-before of the signer's line hold at the run's end and now, a
certificate of a cert-authority was valid at the run's end and names a principal of that
line, and no file revoked has the key, the certificate or the authority. The certificate
that an orchestrator gave to a CI job counts for runs of the job's commit, if the job may
publish. Revoked stands beside each allowed_signers, and
is a KRL or public keys as ssh-keygen(1) makes them, or fingerprints, one a line. It
counts at once. If it cannot be understood, nothing is replayed. Verify, the store and
what comes from others have this one rule.

A replay waits for other executors for CI_REPLAY_TIMEOUT in all; the time in which a
run with a good signature comes at 64 KiB/s or more does not count. One that is slower
for 10 s is given up, and the next is tried. One that is busy is asked again after the
others, for 30 s at most.

If a trusted executor at the orchestrator has the same key queued or running, 9ci says
so, waits, and replays that run; with -f it does not wait. One that has not passed is
followed by the first of those that waited. An executor whose connection is lost has
45 s to come back before another runs. If the orchestrator is lost meanwhile, 9ci asks
again until the run that it waits for has had the time that CI_TIMEOUT gives to ours.

A run of another executor comes by one of the ways in CI_LADDER: direct, from the
executor's own address; e2e, end to end through the orchestrator, to the executor's
own SSH server; or relay, from the orchestrator's tree. On the first two the executor
has to prove its host key, and the orchestrator does not see what is sent. It can
still read for itself what executors show it. The ways are tried in the order given,
each 0.1 s after the one before it or once that has failed; the one whose first bytes
come first is used, and the others are given up. A run that does not come whole, or is
not what was signed, is asked for by the ways that are left. The line that ends a
replay says which one it was.

# What is kept

The store keeps the runs of each namespace as CI_KEEP says. With once a run, whatever
its end, stays until the next one has ended, and a run that passed until the next one has
passed, also if 9ci has left meanwhile. A count, an age and a size each make runs go, the
oldest first, but not the last run. A run that was replayed is in the store too, and
makes neither the last run that was made here go nor the last of those that passed. What
a client reads, what ctl was told to keep, and the runs of other processes that live are
not evicted.

The artifacts of a passed run, and those that a failed test has left, are copied to
CI_ARTIFACTS, a path from the top of the work tree. The directory is replaced as a
whole: 9ci fills a new one beside it, with the mode and owner of the old one, and
renames that. 9ci replaces the directory only if all that is in it was put there by 9ci
and has not changed since; otherwise it refuses before the run. It also refuses a
symbolic link on the way, a place in a git directory, a directory that holds the work
tree, and a mount point. Artifacts that git would take for a repository are not copied.
A 9ci that is killed leaves the old files or the new ones, and perhaps a directory
.9ci-* beside, which the next one removes.

# Serve: the daemon

Serve is the daemon, for any number of repositories. Several runs go at once if their
machines have room together: CI_MEMORY in three quarters of the host's memory, and CI_CPUS
in its processors or, with -j, N runs at most. A run with a number in CI_CPUS has that many
processors to itself; one with CI_CPUS=all shares them, and counts as one: a host with eight
runs eight such at a time, if it has the memory. Alone a run goes in any case. The runs of a
repository begin in the order in which they came. If several repositories wait, that with
the fewest runs going is next, and of those the one that came first.

A signal ends the daemon. It cancels the runs that go on, and serves those that are connected
until these runs are sealed and those that wait for them have read so, for 2 s at most. What
has not begun is left to the next daemon.

The line repo PATH, written to its ctl, adds a repository and is answered by the
namespace. The daemon keeps its list of repositories across restarts, also those that
it cannot open. ADDR is unix!PATH or tcp!HOST!PORT; TCP is for the loopback alone.
Without ADDR the daemon posts $NAMESPACE/9ci, or serves the socket that systemd has opened
for it: see # As a service. If it loses one of its addresses, it
ends with an error. With -adopt it takes the passed runs of its namespaces into its
store as the orchestrator tells of them, the newest first, by the rules of a replay: from
trusted signers, none older than CI_MAXAGE, each once. It leaves out a run that CI_KEEP
would not keep, or for which one that ended later would go. With -root serve serves a
directory read-only instead.

With -direct others fetch runs from the daemon itself, at ADDR, which is HOST:PORT or
tcp!HOST!PORT, and on any network. What listens there is an SSH server whose host key
is CI_KEY. The orchestrator of CI_ORCHESTRATOR tells others of the address, and
vouches for each that it lets in: for as long as the orchestrator holds the door open,
and for one namespace. Nobody else enters, and while the orchestrator is away nobody
does. HOST is what others connect to; with * it is the name of this machine. A daemon
whose CI_KEY is another for some repository does not serve that one there.

# Ls, cat, cp, wait and write: looking at a tree

Ls, cat, cp, wait and write look at a tree. PATH is looked up in the namespace of the
repository that the working directory is in, at the daemon and then at each executor
posted in $NAMESPACE; with -a, at ADDR; and if ADDR is ssh://HOST[:PORT]/NAMESPACE, or
PATH is that followed by a path, at an orchestrator; or tls://HOST:PORT/NAMESPACE,
with a certificate (CI_TLS_CERT). What follows ssh://HOST[:PORT]/ and begins with no
namespace is a path of the orchestrator's root. If none of these answers for the
namespace, all but write look into the store. Links among the artifacts of a run are
followed within the run, but ls -l shows a link. Write sends its standard input in one
message and prints the reply; the line repo PATH to ctl goes to the daemon's own ctl.
Wait prints the status of a run once it has ended, and exits with its code.

Cp copies a file, or a directory with all that is in it, into DIR or, if there is no
such directory, to that name. The copy has the modes, but for setuid and setgid, and the
times, of links too: the copy of a run verifies. A sealed run is copied from its tar,
which is one stream, and so are its artifacts if they are most of that. A copy is
written over the files that are there, but no file takes the place of a directory, nor
the other way round.

# Mount

Mount shows a tree as a FUSE file system at DIR, until it is unmounted or a signal
comes.

# Verify

Verify checks a run without an executor. The run is that of the revision REV in the
store, or else the one in the directory DIR; a name with a slash is a directory. The
report has the run's content, its metadata and its signature. The ctl that a copy from a
tree has is named, and is no fault.

Verify -attest checks the attestations of the revision REV that the clone has:

	git fetch origin 'refs/attestations/*:refs/attestations/*'
	9ci verify -attest HEAD

It prints a line for each, and exits with 0 if a signer vouches for REV whose key itself is
trusted, by the rule for runs; a certificate does not count here. Attestations of others are
not read. The statement is the signer's word: 9ci run -r gets the run itself.

# Vouch

Vouch says in the user's name that a run of REV, or of HEAD, has passed. The run is in the
store, of test and no other targets; it has to verify, and a trusted signer has signed it: the
user, or another executor whose run 9ci has replayed. Of several such runs it is the first in
the order of ci/REV (ci(4)), and the commit's own come before those of its tree (CI_MATCH=tree).
If there is none, vouch says what is wrong with the best. A run of the same key that failed later
is named, and takes nothing back; an orchestrator that knows of it tells the forge of that one,
and vouch exits with 1.

Vouch writes an attestation, signed by CI_KEY, an ed25519 key of a file or an agent, and prints
its ref, refs/attestations/COMMIT/FINGERPRINT, where FINGERPRINT is the SHA-256 of the public
key in hexadecimal. The ref is a commit with the file attestation.dsse.json: a DSSE envelope,
with the fingerprint as ssh-keygen spells it as its keyid, around an in-toto Statement v1 whose
subject is the commit (gitCommit) and whose predicate test-result/v0.1 has the run's key and
score, and as its url the orchestrator's page, if that is known. With -push it goes to the
remote origin, in the place of an older one by the same key. The push has the user's git
configuration and none of the repository's but the URL; if the remote is a path, that
repository's hooks run.

Vouch also gives the commit a status at its forge: the context 9ci/ARCH, passed, with a link to
the orchestrator's page of the commit, if there is one. Where the environment has a token of
the forge, vouch posts the status itself. Each token is shown to one host:

	GITHUB_TOKEN, GH_TOKEN   that of GITHUB_SERVER_URL, or github.com
	GITLAB_TOKEN             that of GITLAB_HOST, or gitlab.com
	FORGEJO_TOKEN            that of FORGEJO_URL, or codeberg.org
	GITEA_TOKEN              that of GITEA_URL, or codeberg.org

The origin's host has to be that one: it chooses among the tokens. The URLs are https://, or
http:// on this machine. Otherwise the orchestrator of CI_ORCHESTRATOR, ssh:// or tls://,
tells the forge, as orchestrator(8) has it: unless an executor shows the run there already,
vouch does, for a minute at most, until the forge has it. A commit that is not pushed yet is
told by the orchestrator when it is, without another vouch, though this one exits with 1.
Where no way is configured, a line says so, and the attestation is all. A status that fails
never keeps the attestation from being made.

# Login, logout and whoami

Login gets a certificate for the user's key from an orchestrator on whose page the user
has an account. HOST is HOST[:PORT] or ssh://HOST[:PORT]; without it, or if it is the host
of CI_ORCHESTRATOR, that is meant. Where 9ci can open a browser, it opens the page there:
the user logs in, compares the key with the one in the terminal, approves it, and the
browser brings a code back to a port of 127.0.0.1, on which nothing else is answered. The
browser is one of $BROWSER, a list with colons in which %s stands for the URL; or else what
xdg-open starts if DISPLAY or WAYLAND_DISPLAY is set, and open on a Mac. Over SSH
(SSH_CONNECTION), without a browser, if it does not start, and with -code, 9ci prints a code
for the user to type on the page, in a browser anywhere. Either way there are ten minutes,
and ^C ends it. Approve a key only if you have started this yourself: whoever sends you a code
wants to be you.

The certificate stands beside the key, where ssh finds it too, and logs in for half a day.
As long as 9ci is connected with it, 9ci has the orchestrator renew it, after two thirds of
its life; other processes take over what they find in the file. If the orchestrator wants
the user to log in again, 9ci says so once, some four hours before the end. A certificate
that 9ci login has not made is left alone until its end; with -f login takes its place.

Logout has the orchestrator revoke the certificates of this key, and removes the file, also
if the orchestrator cannot be reached or refuses: then 9ci says until when a copy of it
would be good. Whoami prints what the orchestrator knows of this user, in attr=value lines:
key, principal, rights, namespaces, and expires, the end of the certificate; of a person
also publish, the namespaces where that is allowed, and forge, which is asked about those
that are exported. It does so for whatever logs in, a key in authorized_keys or CI_TOKEN
too. Without HOST and CI_ORCHESTRATOR, both ask the orchestrator of the last login.

# Image

Image builds the core OS, lists what there is, or removes all images but the one in
use. A core OS is verified, by the digest under which it is kept, when its files have
changed since it was verified last, and by image build and doctor always. A damaged one is
built anew.

# Doctor

Doctor prints what this machine lacks, and the command that mends it: a line each of programs,
the core OS, KVM, the directories that need room, the configuration and the orchestrator. No is
what runs can do without. With -fix doctor first has apt-get install the packages that are
missing, by sudo if the user is not root, and builds the core OS if it is missing or damaged.

# Init

Init writes the files that a repository lacks: a mkfile that tests it as it is, with packages
of Debian 12, if it is in Go, Rust, JavaScript, Python or C, as far as the files at its top
say; if they do not, the mkfile's test does nothing, and init says so; a .env; and the files
with which the CI of its forge calls 9ci: see # In a CI job. The forge is the one that the
host of origin is named for, GitHub, GitLab or Forgejo, or else each whose files are there, or
else all; Woodpecker, if its files are there.

With -hooks init writes instead two hooks of git for this clone. Post-commit hands each commit
to the daemon, if one answers: 9ci run -b. Git does not wait for it. Pre-push lets no commit of
a branch or a tag through that has a mkfile and does not pass: 9ci run -r -x || 9ci run -x; git
push --no-verify goes without it. A hook that is there goes on: it is NAME.before then, runs
first, and ends both if it fails. Init writes to the directory in which git looks for hooks,
that of core.hooksPath too, if it is in the repository, and where husky has that, to husky's
files. Pre-commit and these hooks call each other, whichever came first. For lefthook, whose
hooks are its own, init writes lefthook-local.yml.

# Help and version

Help prints what the manual says of a command, or another section by its title; of 9ci,
orchestrator, mk, ci or tutorial, that whole manual; and without a name, what there is.
With -man it writes all of them as man pages into man1 and so on of the directory DIR,
dated by $SOURCE_DATE_EPOCH or else by the commit that 9ci was built of. With
-completion it prints what bash, zsh or fish is to read to complete 9ci's command lines:
commands, flags, revisions, the ids of runs and the paths of the tree. These scripts are
installed with 9ci, and ask 9ci help -complete -- WORDS what can stand for the last of
the words behind 9ci; its exit status is 1 if that is a file of this host. A shell that does
not look where they are installed, as Debian's fish does not in /usr/local, reads them so:

	source <(9ci help -completion bash)      in ~/.bashrc
	source <(9ci help -completion zsh)       in ~/.zshrc, behind compinit
	9ci help -completion fish | source       in ~/.config/fish/config.fish

Version prints the revision of the sources that 9ci was built of, which status has too.

# What a machine is given

A machine sees the revision and, at /n/ci, the kept runs of the repository: in
post-test, and with CI_RUNS=1 in all steps. It can write to neither. It gives back its
output and its artifacts, within the limits of ci(4).

If CI_NET gives the machine a network, with build in prepare-runtime, base-image and
post-test, with all in the test too, the machine reaches what this host reaches, and
from this host's address: other machines of the host's network too. It reaches no
socket of the host itself, at whatever address, nor 169.254.0.0/16 and the other
addresses at which clouds tell a host its credentials; its questions for names go
through 9ci to the host's resolvers.

Where the machine has the network, the host lends it, at ports of 10.0.2.2, its own ways
to the outside: the sources of Debian's packages that it has in /etc/apt; the proxies of
http_proxy, https_proxy, ftp_proxy and all_proxy, those on the host's loopback too, but
through none of them what is the host's own, as far as the host knows the name; and the
registries of CI_REGISTRIES and CI_AUTHFILE, to pull from. Their addresses and passwords
stay at the host, which adds them to what the machine asks. A revision can pull what the
passwords of CI_AUTHFILE let it pull. If the host trusts more CAs than Debian does, the
machine gets their certificates.

A variable that CI_SECRETS names is in the environment of every step. 9ci prints *** in
the place of its value, of each of its lines, and of their base64, in all output and
in all that it keeps of the run; at the end of an output the first 8 bytes of them are
enough, since a limit or a cancel may have cut it off there. Artifacts are kept as the
test made them. The value is never in the key.

In the machine CI is true, whatever CI_ENV says, and a PATH that CI_ENV names stands
behind the machine's own, or the image's.

# The test and its services

The test runs in a container of the image, whatever the image says of an entry point, a
command, volumes and a check of its health. If the image has no shell, mk's own runs the
recipes. The repository is at the image's working directory, or at /src if that is / or
not set, and belongs to the image's user, as /var/run/ci/artifacts does. Mk, rc and the
other tools of Plan 9 run in any image: their directory, /usr/lib/plan9/bin, is the last
one in PATH. LANG=C.UTF-8, TERM=dumb and, for root, HOME=/root are those of the core OS
unless the image or CI_ENV sets them. The hostname, the limit on open files and the size
of /dev/shm, half of the memory, are those of the core OS always. Git takes every
directory for safe. Mk is the first process of the container, and reaps the others.

Without CI_NET=all the test has a network of nothing but a loopback, in the core OS too.

A target service/NAME is a service of the test; NAME has letters, digits, _ and - and no
others. Mk makes it in the core OS, as root and in the network of the test:

	service/db:V:
		setpriv --reuid=postgres --regid=postgres --init-groups \
			/usr/lib/postgresql/15/bin/postgres -D /var/lib/postgresql/db

	service/db/ready:V:
		pg_isready -h 127.0.0.1

The test begins when service/NAME/ready of each service has been made, or at once where
there is no such target: 9ci tries again and again for 60 s. A service that fails or ends
before it is ready fails the run; the test's log names one that fails later. After the
test all processes of the services get a SIGTERM, daemons that left their mk too, and ten
seconds later a SIGKILL. What a service says is in /ci/ID/service/NAME/log.

# Sh: a shell in the machine of a failed run

With CI_HOLD=D the machine of a run that fails, or that ends in error while its machine
goes on, is held for the time D, and so is that of a run to whose ctl somebody has written
hold D before its end:

	CI_HOLD=30m 9ci                                # the run, in short
	9ci sh                                         # in its machine
	echo hold 1h | 9ci write ci/held/ctl           # an hour from now; hold 0 lets it go
	9ci cat ci/held/hold                           # until when, by whom, how many shells

The run is sealed when it ends, as any other. Its machine has no place in the queue, so
that other runs go on, but it has its memory. A process therefore holds four at most, or as
many as have half of the host's memory together, and one in any case. If there is no room
for another, those go that were held first and in which nobody has a shell; if that does not
do, it is not held. A machine ends with the 9ci that holds it, which with -x stays that
long; a signal ends it. Of several requests for one run, the longest hold counts. A .env
that git tracks asks for CI_MAX_HOLD at most.

Sh opens a shell in the machine of the run REV, or without REV of the one that failed last; of
the runs of a commit it is the best that is held: in a container as the test had it, with its
mounts, environment, user, working directory, network and limits, and what the test has left
in it, if the hold was asked for before the test began. A shell has a container of its own.
The services of the run have ended. With -root, or if the run has no base image, it is in the
core OS, as root: there nsenter --net=/run/netns/loopback has the network of the test. The
shell is bash, sh or rc, the first that there is. On a terminal it has one, of the same size.
The exit status is the shell's, 255 if the machine ended without one, and 125 if 9ci lost its
connection or its reader went.

A shell shows the machine as it is: secrets are in its environment, and nothing is masked
or filtered. What runs there can do to the terminal what a remote machine can over ssh.

A daemon or executor that is posted in $NAMESPACE answers SSH on the same socket, for its
own user and root. Elsewhere, an executor that is connected to an orchestrator answers at
its own SSH server:

	ssh -t -J MUX EXECUTOR sh ci/ID                # sh -root ci/ID: the core OS

for the holder of its CI_KEY, and of the keys in ~/.config/9ci/shell_keys that may read the
namespace at the orchestrator: public keys without options, one a line. The file is not
used if another user could write it, or if it has a line of another form. The orchestrator
cannot open a shell, nor see what is said there.

# Environment

A variable comes from the environment, then from .env at the top of the work tree,
then from ~/.config/9ci/env. An empty value stands for the default.

Any source sets these, a .env that git tracks too, within the CI_MAX_ limits:

	CI_NET             build            network for prepare-runtime, base-image and post-test; all: for the test too; none
	CI_MATCH           commit           what is run and replayed; tree: any commit of the same tree
	CI_RUNS            0                1: all steps see the kept runs at /n/ci; such a run is never replayed
	CI_TIMEOUT         1h               how long a run may take, without the building of the core OS; 0: no limit
	CI_IDLE            0                how long a run may say nothing, from prepare-runtime on; 0: no limit
	CI_MEMORY          2G               the machine's RAM
	CI_CPUS            all              its processors: all that the host has, shared with other runs, or a number
	CI_HOLD            0                how long the machine of a run that fails is held for 9ci sh

These a .env that git tracks does not set:

	CI_OUTPUT          4G               how much a run, and a service of it, may write to stdout, and to stderr; 0: no limit but that of a run's files
	CI_MAXAGE          7d               older runs are not replayed
	CI_REPLAY_TIMEOUT  60s              how long a replay waits for peers, while less than 64 KiB/s comes of a signed run; 0: no limit
	CI_LADDER          direct,e2e,relay  ways to a run of another executor, in this order: at its address, end to end, or relayed
	CI_KEEP            once             which runs are kept: once, the last and the last that passed; a count, an age, a size, or several; the daemon has 20 7d
	CI_CONNECTED       until-signal     or a duration: how long a run is served after its end; 0 where CI=true
	CI_ARTIFACTS       none             a directory that artifacts are copied to, as a whole
	CI_ENV             none             variables let into the machine, each NAME or NAME=VALUE; they are in the key
	CI_SECRETS         none             the same, but only names are in the key, and values are masked in all output
	CI_REGISTRIES      none             registries to pull from through the host, each NAME or NAME=MIRROR, a URL
	CI_AUTHFILE        none             logs in there, at the host: a file as podman login --authfile writes it

These say whom to trust. A .env comes last, and one that git tracks does not set them:

	CI_KEY             ~/.config/9ci/id_ed25519  signs and logs in; made on first use; an agent's key by its .pub
	CI_SIGNERS         none             an allowed_signers file, besides ~/.config/9ci/allowed_signers
	CI_ORCHESTRATOR    none             ssh://HOST[:PORT][/NAMESPACE], or tls://HOST:PORT[/NAMESPACE], which relays alone
	CI_TLS_CERT        none             logs in at tls://: a certificate in PEM whose only URI is ci:NAME or spiffe://...
	CI_TLS_KEY         none             its key; none: it stands in CI_TLS_CERT
	CI_TLS_CA          none             the CAs of the orchestrator's certificate at tls://; none: the system's

These start a program of the host. No .env sets them:

	CI_PROXY_COMMAND   none             connects to the orchestrator: ssh -W %h:%p BASTION; %r is the user

This logs in, and is a secret. No .env sets it:

	CI_TOKEN           none             a repository's token, of orchestrator token NAMESPACE: logs in at ssh://, and no key does

These limit what a .env that git tracks asks for. No .env sets them:

	CI_MAX_TIMEOUT     6h               or another time; 0: no limit
	CI_MAX_MEMORY      half the host's  or a size
	CI_MAX_CPUS        all              or a number
	CI_MAX_HOLD        0                or a time

A file has lines NAME=VALUE, which are read as sh(1) reads assignments, and has 1 MiB
at most. Nothing is expanded but a leading ~/ of a path. A value in quotes may go on
over several lines. Other lines are skipped.

CI_PROXY_COMMAND is a command whose standard input and output are the connection to
the orchestrator, as ProxyCommand in ssh_config(5): "ssh -W %h:%p bastion" has ssh's
own configuration, jumps and proxies, "nc -X connect -x PROXY:3128 %h %p" is by an
HTTP proxy. $SHELL runs it; %h, %p and %r are the orchestrator's host and port and the
user; what it writes to standard error is printed once. Peers that have an address of
their own are still dialled there, unless CI_LADDER has no direct.

At ssh:// the orchestrator's host key is to be in ~/.ssh/known_hosts or in
/etc/ssh/ssh_known_hosts, as itself or by an authority, and revoked in neither.

What logs in at ssh:// is CI_TOKEN, if it is set, and nothing else then. Otherwise it is
the certificate beside the key, of 9ci login or of an operator's authority, or the key;
if neither may enter and this is a CI job, the job's own token. A token gets a
certificate of an hour for the key, which stays in memory and is renewed before it ends:
what is served and read goes on. If it cannot be renewed, 9ci tries until it ends, and
connects again when it can; runs go on without the orchestrator. A token that is refused
is told of once. The certificate signs runs too, for those whose allowed_signers has the
orchestrator's authority: see # In a CI job.

A token is shown to the orchestrator of CI_ORCHESTRATOR and to no other. Git, qemu, the
command of CI_PROXY_COMMAND and all other programs that 9ci starts run without CI_TOKEN,
CI_ID_TOKEN, CI_JOB_TOKEN, ACTIONS_ID_TOKEN_REQUEST_TOKEN and the tokens of forges that 9ci
vouch knows, and no machine sees them: a helper of git that wants one has to find it elsewhere.
CI_SECRETS may name them but for CI_TOKEN, and CI_ENV none. A daemon
logs in with the CI_TOKEN that it was started with, whoever hands it a run.

A .env is read if it is a plain file of the user with one name, and if other users can
neither write nor replace it. Otherwise a warning says why it is not read. A .env that
git does not track counts as the user's own word; note that an archive, unlike a
clone, may bring one along. A .env that git tracks, in the index or in HEAD, came with
the repository. One warning names the variables that it sets and may not. If it asks
for more than a limit, or for no limit, the run gets the limit, and a warning names
both. Files that say whom to trust, and ~/.config/9ci, must not be inside the work tree
or its git directory.

CI_ENV and CI_SECRETS name variables that are set in the environment or in a file that
may set the two, or give them: NAME=VALUE. A secret is empty or has 8 bytes or more. A
revision that gets a secret can do with it what it likes. A URL of an orchestrator must
not have a password: a key or a token logs in.

A warning names each CI_ variable that 9ci does not know, and the nearest known one. Of
the environment, in which other CI has variables of its own, it names only what looks
like a slip of the pen.

# In a CI job

What init writes for the CI of a forge calls .9ci/job, a script of sh(1), which replays the
run of the commit or, if there is none, makes it: 9ci run -r -x || 9ci run -x. The script installs
a release, lets the job open /dev/kvm if sudo may, has doctor -fix install what a machine needs,
and keeps the core OS and the artifacts in .9ci-job, where the workflow caches and uploads them.
Its variables are those of the job, or else what its first lines say, which have what
init found in its own environment and in known_hosts:

	NINECI_URL           a release of 9ci, a .tar.gz; without it, the 9ci in PATH
	NINECI_SHA256        its SHA-256 in hex
	NINECI_KNOWN_HOSTS   lines of known_hosts with the orchestrator's key
	CI_ORCHESTRATOR      the orchestrator

A job needs CI_ORCHESTRATOR, and the orchestrator's host key in ~/.ssh/known_hosts. The
orchestrator's file forges is to have the job's forge (see orchestrator(8)). What
the job may do there is in the claims of its token: it reads its own repository's runs
and, on events that a fork cannot trigger, publishes those of its own commit. The token
is for the host in CI_ORCHESTRATOR, which the orchestrator is to know as its own by -url,
and for the key of the job.

At GitHub the job asks for the token if its permissions let it:

	jobs:
	  test:
	    permissions:
	      contents: read
	      id-token: write
	    steps:
	      - run: 9ci
	        env:
	          CI_ORCHESTRATOR: ssh://ci.example.org:2222

Forgejo has enable-openid-connect: true at the top of the workflow instead. At either,
pull requests of forks have no token. At GitLab the token is in .gitlab-ci.yml, and its
aud is the host:

	test:
	  id_tokens:
	    CI_ID_TOKEN:
	      aud: ci.example.org
	  variables:
	    CI_ORCHESTRATOR: ssh://ci.example.org:2222
	  script:
	    - 9ci

Such a token ends when the job times out. Without it CI_JOB_TOKEN logs in, and the job
may only read. The orchestrator shows that token to the GitLab of CI_SERVER_URL; until
the job ends, its operator could do by it what the job can.

The key of a job ends with the job, so no list of signers can have it. A line of
allowed_signers that has the orchestrator's authority, ca_ed25519.pub in its state
directory, trusts the runs of the jobs that it let publish:

	github:repo:1296269 cert-authority,namespaces="run@9ci" ssh-ed25519 AAAA...

# As a service

The daemon as a service of the user, with systemd (mk install puts the units 9ci.service
and 9ci.socket in /usr/local/share/systemd/user, and with PREFIX=$HOME/.local where systemd finds
them for that user alone):

	systemctl --user enable --now 9ci
	loginctl enable-linger             # also while the user is not logged in
	journalctl --user -u 9ci

Systemd opens the socket, which is there as long as the user's services are: a client that
comes while the daemon starts anew waits for it. The daemon has a service's environment, not
a shell's, so CI_ variables belong in ~/.config/9ci/env. The socket is that of DISPLAY=:0. If
programs are to find the daemon with another DISPLAY or NAMESPACE, systemctl --user edit
9ci.socket adds that:

	[Socket]
	ListenStream=/tmp/ns.%u.:1/9ci

Serve takes the sockets that systemd passes with the FileDescriptorName 9ci, or with none,
and those of -a too. It tells systemd when it serves and when it stops (sd_notify(3)). When
it is stopped it cancels its runs, and seals them.

# Packages

In the sources, go run ./cmd/mk dist makes packages of the commit in .bin/dist: a tarball for
Linux and one for a Mac, to be unpacked in /usr/local with --strip-components=1; Debian
packages of 9ci and of the orchestrator; and SHA256SUMS, signed by the key CI_KEY if that is
set. With the same go, all but the signature have the same bytes wherever they are made.
To check them:

	ssh-keygen -Y verify -f allowed_signers -I SIGNER -n file -s SHA256SUMS.sig <SHA256SUMS
	sha256sum --ignore-missing -c SHA256SUMS

# On a Mac

On a Mac with Apple's processor, 9ci is the same. Its machines run under hvf, with the qemu and
the e2fsprogs of Homebrew, and on the core OS of arm64, which is built on Linux: copy the
directory coreos of ~/.cache/9ci from there. Mount needs macFUSE. The programs mk and guest
in ../lib/9ci are Linux's, and go into the machine.

# Files

	$NAMESPACE/9ci                     the posted tree; see ci(4)
	$XDG_STATE_HOME/9ci/NAMESPACE      the store of a namespace's runs
	$XDG_STATE_HOME/9ci/.artifacts     records of what 9ci has put in CI_ARTIFACTS
	$XDG_STATE_HOME/9ci/.repos         the work trees that the daemon serves, one a line
	$XDG_CACHE_HOME/9ci                the core OS
	~/.config/9ci/env                  configuration; readable by the user alone, if it has CI_TOKEN
	~/.config/9ci/allowed_signers      signers whose runs are replayed: ssh-keygen(1)
	~/.config/9ci/shell_keys           keys whose holders get a shell in machines that are held
	~/.config/9ci/revoked              signers whose runs are replayed no more: a KRL, or keys
	~/.config/9ci/id_ed25519           the key; made on first use
	~/.config/9ci/id_ed25519-cert.pub  its certificate, which logs in if it is there; read at each connection, written by 9ci login

~ is $HOME, or the home directory in the password file if HOME is not absolute.
~/.config is $XDG_CONFIG_HOME if that is absolute. Without such variables
$XDG_STATE_HOME is ~/.local/state and $XDG_CACHE_HOME is ~/.cache. If there is no home
directory either, 9ci exits with status 125.

# Exit status

That of mk, 0 or 1; 125 if the executor failed or was misused; 126 if a replay was
demanded with -r or -R and no run could be trusted; 129, 130 or 143 if a signal cut the
run short: SIGHUP, SIGINT or SIGTERM. A SIGHUP that the parent ignores, as by nohup(1), is
none.

Ls, cat, cp and write exit with 1 if a file is not there or cannot be read, verify if the run
is not what it says or nobody trusted vouches, vouch if no run has passed that it can vouch
for or the commit's status has failed, and doctor if runs cannot work, after what -fix could
mend; login if it is refused, whoami and logout if nobody is logged in, and logout if the
orchestrator has not revoked anything. Wait has the code of a run only if it has read how the
run ended, and else exits with 125. Sh has that of the shell, 255 if that is not to be had,
and 125 if no machine is held. Ls, cat, cp, write, wait, login, logout and whoami exit with 75
if a server has no room for the moment: they may be tried again. What cannot be written, to
standard output or standard error too, is 125 in every command.

# See also

ci(4), mk(1), orchestrator(8), 9ci-tutorial(7); safe.directory in git-config(1)

9ci help ci prints ci(4), and so on; so does man where they are installed, and go doc
9ci/fs/ci in the sources.
*/
package main
