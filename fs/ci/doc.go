/*
Package fs is the tree an executor serves: files that are computed, kept on
disk, or imported from another tree. It is also the store of the runs that the
tree shows.

A Node names a file and holds nothing. A File is an open Node and must be
closed. Every door (9P2000, 9P2000.L, SFTP, io/fs) serves Nodes and knows
nothing of runs. A Store keeps the runs of one namespace; NewTree is the tree
of a Store; Namespaces are several trees under one root, each at its namespace
as [CleanNamespace] has it: host/owner/repo, or local/NAME.

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
	    key              attr=value lines, sorted: what makes two runs interchangeable
	    info             attr=value lines: id commit tree repo host image coreos version start end
	    step/STEP/       boot clone prepare-runtime base-image test artifacts post-test
	        status       as that of the run, of the step
	        log          the step's output, as log
	    artifacts/       what the run left, with its modes and times
	    artifacts.mtree  mtree(5): type mode time size link sha256 of each artifact
	    manifest         sha256sum(1) lines of every regular file, sorted
	    manifest.sig     an SSH signature of manifest, in the namespace run@9ci
	    ctl              commands: cancel, hold DURATION, keep, forget
	/ci/ID.tar           the whole sealed run as one stream
	/ci/REV              an alias of the best run of a commit or tree, given whole or by seven digits or more
	/ci/last             an alias of the newest run, the first in /index: the one made or adopted last
	/ci/head             an alias of the best run of the repository's head, by tree where the commit has none
	/ci/green            an alias of the run of the head's nearest ancestor, itself included, that passed
	/artifacts/ID        an alias of /ci/ID/artifacts

An ID is the first twelve digits of the run's commit, a dot, and a number that
the store gives once. The best run of a commit is of the default targets, or
else of others; it passed, or else failed, goes on, or was cut short; it is the
newest of those. A prefix of two commits, or of a commit and a tree, names
nothing.

Artifacts.mtree, manifest, manifest.sig and ID.tar are there when the run is
sealed, and manifest.sig only where somebody signed.

# Listings

A directory lists every stored byte once, and nothing that blocks: live, wait,
event, the tars and the aliases in /ci can be walked to and are not listed.
/artifacts lists its aliases. An alias is a symbolic link that leads on; to a
client without links (9P2000) it is a directory with qids of its own, so that a
copy of all of /artifacts is a second copy there, /ci lists the forty newest
runs, and a symbolic link among the artifacts is a file that holds its target.

# Texts

Fields are separated by one blank, what is not known is -, and a value is
quoted as mk and rc quote: between single quotes, where a quote is doubled. Times are RFC 3339 in UTC to the second,
seconds have three digits after the point. The time in a status is when the
state was entered, of a run that has ended its end; the seconds are those from
the beginning of its first step until then. The code of a run is mk's exit
status, or - where there was none.

The state of a run is queued, a step's name while that goes on, and then
passed, failed, cancelled or error. The state of a step is queued, running, and
then one of the last four, or skipped where there was nothing to do or it was
not reached.

A line of a log is

	2026-11-24T21:04:05.000000000Z stdout F the text

as the kubelet writes it: a time, the stream, F for a whole line or P for a
part, and the bytes, at most 16384. The bytes of a stream are its texts in
order, with a newline behind each F. A part of a line waits 50 ms for its rest.

# Modes, qids and users

Our files have mode 0444 in directories of 0555, an artifact what it had; but
what its owner could not read is readable for him. Whoever may read a run may
read all of it: the mode of an artifact is kept and keeps nobody out, for ID.tar
holds it as well. Nothing can be written but a ctl. A sealed run's files are of
its end. A qid.path is a hash of the file's path, below 2^56; qid.vers is 0 where
a file may still change, and comes from the run's score in a sealed run.

A ctl has mode 0666, and takes commands from authenticated users: over a Unix
socket from the executor's own user and root. Who came in unauthenticated does
not find it. It reads as its manual. After a write the same open file reads the
reply, once, at whatever offset: for run the id of the new run, for gc the
count of runs that went, or the text of the error that the write got. A newline
between quotes does not end a line.

# Limits

The artifacts of a run are files, directories and symbolic links: at most 262144
of them, 16 GiB together with their holes, at most 64 names deep. A name is UTF-8
without control characters, of at most 255 bytes; all of them together make an
artifacts.mtree of at most 64 MiB. Holes stay holes. The standard output and
error of a test and all logs have 4 GiB together. A run of ours that passes a
limit says so and has not passed; a peer's is refused.

# Sealed runs

When a run ends it is sealed: its directory gets exactly the names above, but
ctl and what is not listed, read-only, and becomes visible as a whole. Nothing
in it changes afterwards. Manifest and artifacts.mtree name all that is in it.
The tar of it is the same from whoever has it, begins with manifest and
manifest.sig, and unpacks with tar -xp to the same names, modes and times. So

	cd RUN && sha256sum -c manifest
	ssh-keygen -Y verify -n run@9ci -s manifest.sig ... <manifest

check a run on disk, out of a tar, or on a mounted tree.

An adopted run keeps its maker's id, unless the store has another run of that
name; its tar has the maker's id always.
*/
package ci
