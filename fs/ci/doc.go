/*
Package ci is ci(4): the tree of files that an executor serves, as text. It
reads and writes what is in those files, and says what they may hold. It opens
no store and serves nothing: package store does.

What follows is the manual of the tree.

# The tree: ci(4)

	/ctl                 commands: run [ATTR=VALUE...] REV [TARGET...], cancel ID, keep ID, forget ID, gc
	/status              attr=value lines: mode version arch accel coreos memory cpus running queued
	                     kept orchestrator
	/event               blocks; first the unfinished runs, then a line for each change: id, then as status
	/index               a line for each run, newest first: id, then as status, then tree commit signer score
	/ci/ID/              a run
	    status           state code seconds time
	    stdout           the standard output of the step test; its end is the current end
	    stderr           the standard error of the same
	    log              the output of prepare-runtime and what follows, in the order it came
	    live             the bytes that log says; blocks until the run ends
	    wait             blocks until the run has ended, then reads as status
	    hold             attr=value lines: until by shells; while the machine of the run is held, or is to be
	    key              attr=value lines, sorted: what makes two runs interchangeable
	    info             attr=value lines: id commit tree repo host image coreos version start end
	    step/STEP/       boot clone prepare-runtime base-image test artifacts post-test
	        status       as that of the run, of the step
	        log          the step's output, as log
	    service/NAME/    a service of the test; without services there is no service
	        log          its output, as log; no other log has it
	    artifacts/       what the run left, with its modes and times; of a failed test, what that itself put there
	    artifacts.mtree  mtree(5): type mode time size link sha256 of each artifact
	    manifest         sha256sum(1) lines of every regular file, sorted
	    manifest.sig     an SSH signature of manifest, in the namespace run@9ci
	    ctl              commands: cancel, keep, forget, and hold DURATION where the executor can hold a machine
	/ci/ID.tar           the whole sealed run as one stream
	/ci/REV              an alias of the best run of a commit or tree, given whole or by seven digits or more
	/ci/last             an alias of the newest run, the first in /index: the one made or adopted last
	/ci/head             an alias of the best run of the repository's head, by tree where the commit has none
	/ci/green            an alias of the run of the head's nearest ancestor, itself included, that passed
	/ci/held             an alias of the run that failed last of those whose machines are held
	/artifacts/ID        an alias of /ci/ID/artifacts

Several processes may share a store. A run that goes on is in the tree of its own
process; once it has ended it is in all of them, and the event file of each has a
line of it.

An ID is the first twelve digits of the run's commit, a dot, and a number that
the store gives once.

Of several runs of a commit, the best is one of the default targets, if there
is one. Of those it is one that passed; or else one that failed, that goes on, or
that was cut short, in this order. Of those it is the newest. A prefix of two
commits, or of a commit and a tree, names nothing.

Artifacts.mtree, manifest and ID.tar are there when the run is sealed.
Manifest.sig is there when the run was signed, service when its test had a target
service/NAME. A NAME is of 1 to 64 letters, digits, _ and -; a run has at most 16.

# Listings

A directory lists every stored byte once, and nothing that blocks: live, wait, hold,
event, the tars and the aliases in /ci can be walked to and are not listed.
/artifacts lists its aliases. An alias is a symbolic link. To a client without
links (9P2000) it is a directory with qids of its own, so that a copy of all of
/artifacts is a second copy there; such a client finds the forty newest runs
listed in /ci, and for a symbolic link among the artifacts a file that holds its
target. Over SFTP an alias with a slash behind it is the directory.

SFTP answers in order, so a read that blocks would freeze a whole mount. There
live and event end at their current end, and wait cannot be opened before the
run has ended: ssh HOST wait waits, with the path of the run.

# Texts

One blank separates fields, and - stands for what is not known. A value is
quoted as mk and rc quote: between single quotes, where a quote is doubled. Times
are RFC 3339 in UTC to the second; seconds have three digits after the point.
The time in a status is when the state was entered; of a run that has ended, its
end. The seconds are those from the beginning of its first step until then. The
code of a run is mk's exit status, or - where there was none.

The state of a run is queued, then the name of the step that goes on, and at
last passed, failed, cancelled or error. The state of a step is queued, running,
and then one of the last four, or skipped where the step had nothing to do or was
not reached.

A line of a log is

	2026-11-24T21:04:05.000000000Z stdout F the text

as the kubelet writes it: a time, the stream, F for a whole line or P for a
part, and the bytes, at most 16384. The bytes of a stream are its texts in
order, with a newline behind each F. A part of a line waits 50 ms for its rest.

# Modes, qids and users

Our files have mode 0444, in directories of 0555. Artifacts keep their modes,
plus read permission for the owner. A user that may read a run may read all of
it: the mode of an artifact is kept and bars no reader, as ID.tar holds the
artifact too. Times are kept to the nanosecond, before 1970 too, where the
client can be told: 9P2000 and SFTP have whole seconds from 1970 on, and say
1970 of all that is older; bsdtar(1) unpacks a fraction before 1970 wrong. Only
a ctl can be written. A sealed run's files have the time of its end. A qid.path
is a hash of the file's path, below 2^56. A qid.vers is 0 where a file may still
change; in a sealed run it comes from the run's score.

A ctl has mode 0666, and takes commands from authenticated users: over a Unix
socket from the executor's own user and root. An unauthenticated user does not
find it. It reads as its manual. After a write the same open file reads the
reply, once, at whatever offset: for run the id of the new run, for gc the
count of runs that went, or the text of the error that the write got. A newline
between quotes does not end a line.

The attributes of run are the CI_ variables that say what a run is, in lower case
and without CI_ (net=all); force=1, which lets no other run stand for this one;
repo=PATH, the clone of the namespace that REV is taken from, which is otherwise
the one last named; and wait=1. A run that was asked for with wait=1 alone is
cancelled when the last ctl on which that was written is closed, or has had cancel
ID written to it. If others wait, the reply to that cancel says so. Any other
cancel ends the run for all.

# Limits

The artifacts of a run are files, directories and symbolic links: at most 262144
of them, 16 GiB together with their holes, at most 64 names deep. A name is UTF-8
without control characters, of at most 255 bytes; all of them together make an
artifacts.mtree of at most 64 MiB. Holes stay holes. A run has at most 16 services.
The standard output and error of a test and all logs have 24 GiB together. A run of
ours that passes a limit says so and has not passed; a peer's is refused.

# Held machines

The machine of a run that failed may be held for a while after the run was sealed:
with CI_HOLD, and with hold DURATION, such as 90s, 1h30m or 7d, in the ctl of the run. To a
run that goes on that says what is done if the run fails; of a machine that is held it
sets the time anew, from then on; and hold 0 lets the machine go. A run of which the
machine is held is not removed. The file hold says until when, - while the run goes on;
by, who has asked; and how many shells there are. It is no part of the run, and gone with
the machine.

# Sealed runs

When a run ends it is sealed: its directory gets exactly the names above, but
ctl and what is not listed, read-only, and becomes visible as a whole. Nothing
in it changes afterwards. Manifest and artifacts.mtree name all that is in it.
The tar of a run is the same from every store that has the run. It begins with
manifest and manifest.sig, and unpacks with tar -xp to the same names, modes and
times. So

	cd RUN && sha256sum -c manifest
	ssh-keygen -Y verify -n run@9ci -s manifest.sig ... <manifest

check a run on disk, out of a tar, or on a mounted tree.

An adopted run keeps its maker's id, unless the store has another run of that
name; its tar has the maker's id always.
*/
package ci
