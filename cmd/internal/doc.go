/*
Package internal is where to start if you work on 9ci: the map of the packages,
how to run a part of the tests, recipes for what is often added, and how code
reads here. It holds no code.

Read README.md first, then go doc ./fs/ci (every file that we serve), then
cmd/internal/executor/run.go (the life of a run).

# Packages

Packages are mechanisms that do not know each other. They meet in cmd. The table
in cmd/import_test.go says which package may import which, and a test holds it.

	fs                        Node, Dir, File, and what makes trees of them; imports nothing of ours
	fs/ci                     ci(4) as text: attributes, status, steps, ids, log, manifest, tar layout; its manual
	fs/store                  the run store, sealing, adoption, and the tree of a store
	fs/internal/...           what those three share
	fs/treetest               for tests only: every tree passes treetest.Test, and again through every door
	vm                        machine, core OS, QMP, KVM probe, saved machines
	vm/guest                  the protocol between a host and the guest in a machine
	vm/lend                   what a host lends a machine: Debian's archive, proxies, registries, CAs
	vm/network                a machine's network: a router in this process, and what it dials for a guest
	vm/network/networktest    for tests only: a host other than this one
	mk                        the language: lex, parse, graph, recipe, job
	proto/ninep               9P2000 and 9P2000.L: server, client, dialling
	proto/mux                 9P connections forwarded through another server
	proto/sftp                SFTP over a tree
	proto/fuse                FUSE over a tree
	proto/internal/...        what the protocols share: frames, words, errors
	proto/internal/load       for tests only: a server under load
	proto/internal/testtree   for tests only: a small tree with a live file
	orchestrator              the mux of connected executors: members, namespaces, find, events
	orchestrator/access       whose key this is, and what it may read and publish
	orchestrator/access/forge what a forge says of its CI jobs and of people: id_tokens, OAuth2, rights; what it is told
	orchestrator/access/forge/forgetest for tests only: a forge that makes id_tokens, and one with people
	orchestrator/access/account  the accounts of people: files, sessions, invitations
	orchestrator/web          the page for people: logins, passkeys, approval of keys
	orchestrator/report       forges are told how runs ended
	orchestrator/revoked      lists of revoked keys: KRLs and public keys
	orchestrator/door         an SSH server over a tree: sessions, exec verbs, sftp, 9p
	orchestrator/dial         the client's side: connect, known hosts, export, import
	orchestrator/internal/... what those share
	cmd/9ci                   flags, wiring, words on the terminal: one file a command; doc.go is the manual
	cmd/orchestrator          the same of the mux
	cmd/mk                    the same of mk
	cmd/guest                 the first process of a machine
	cmd/internal/executor     the steps of a run, and the queue
	cmd/internal/replay       the key of a run, and runs that stand for another
	cmd/internal/host         an executor with its store, signers and orchestrator
	cmd/internal/daemon       what 9ci serve is: hosts of many repositories
	cmd/internal/show         all that is printed; how a run is printed
	cmd/internal/ask          what clients ask a tree: a file, a status, the reply of a ctl
	cmd/internal/artifacts    the directory CI_ARTIFACTS
	cmd/internal/config       the CI_ variables, in one table
	cmd/internal/repo         questions to git
	cmd/internal/sign         signatures of runs, and whose count
	cmd/internal/attest       signed statements that a run has passed
	cmd/internal/home         the user's directories
	cmd/internal/manual       the manuals on a terminal and as man pages, of the text that go doc shows
	cmd/internal/version      the revision that a program was built of
	cmd/internal/service      sockets from systemd, and what it is told
	cmd/internal/sh           the built-in shell of mk, for machines that have none

The import rules in short: fs/..., vm and mk never import each other. fs/ci imports
fs; fs/store imports fs and fs/ci. proto/... imports fs alone; orchestrator/...
imports fs, fs/ci and proto/...; cmd imports all. Packages that are for tests only
are imported by tests alone. The top level has these folders and no other.

# Tests

	go run ./cmd/mk test                                     all, as .ci/run has it
	go run ./cmd/mk check                                    gofmt, vet, staticcheck, govulncheck, the race detector
	go test -count=1 -run 'TestScripts/^verify$' ./cmd       one story, cmd/testdata/verify.txt
	go test -count=1 -run 'TestCases/^NAME$' ./mk            one case, mk/testdata/case/NAME.txt
	go test -count=1 -run 'TestTraces/^flush$' ./proto/ninep one trace, proto/ninep/testdata/flush.txt
	FLEET_SEED=7 go test -count=1 -run '^TestFleet$' ./cmd     a fleet that breaks as it did with that seed
	SCREENSHOTS=DIR go test -count=1 -run Screens ./orchestrator/web      pictures of every page, in DIR
	go test -run=^$ -fuzz '^FuzzMask$' ./cmd/internal/executor

The pages of the orchestrator are held against axe-core, a package of npm, whose path
AXE names; mk test fetches it, and says so where it cannot.

Tests that run the go command or built programs need -count=1: the test cache does
not see what they read. Stories boot machines, which takes a minute where there is
no KVM. A story that takes longer begins with [!check] skip: mk check plays it, and
CHECK=1 go test does. As root, stories that a plain user's rights may change are played
once more as one (TestPlainUser, which lists them); mk check plays so all but what makes
packages. A line that needs root begins with [root]. mk arm64 runs a machine of the other
architecture by emulation.

A story is a script of the go command's kind (testscript). cmd/script_test.go has
the commands that we add: init, commit, user, trust, ran, orchestrator, account, silent,
waitfor, status.

A trace is a conversation with a 9P server: lines "<- Tmessage" are sent, and lines
"-> Rmessage" must come back. 9ci serve -D and 9ci run -D print the same form for
real clients on standard error, so what such a client did can become a trace.

With -update a test writes what it finds instead of comparing: the plans and
outputs of the cases (go test ./mk -update), and the variables in 9ci's manual (go
test ./cmd/9ci -update). Read the difference before you commit it.

# Recipes

A new file NAME in /ci/ID:

	fs/ci/manifest.go      a row of Entries
	fs/store/run.go        what writes it, or fs/store/runtree.go if it is computed
	fs/ci/doc.go           its line in the manual

A new verb of ssh HOST VERB:

	orchestrator/door/exec.go     a row of commands, and its function
	cmd/orchestrator/doc.go       the manual's list

A new step of a run:

	fs/ci/status.go               its name in Steps, at its place
	cmd/internal/executor/run.go  a row of steps, and its function
	fs/ci/doc.go                  the manual's list

A new variable CI_NAME:

	cmd/internal/config/table.go  a row: default, manual, who may set it, whether a daemon is told
	cmd/internal/config/config.go the field of Config
	cmd/9ci/doc.go                go test ./cmd/9ci -update writes the manual's line

If it makes two runs different, cmd/internal/replay/key.go has an attribute of it.

# Names

Use the words of the field, as the manuals spell them.

  - 9P: fid, afid, qid, tag, msize, iounit, uname, aname, ename; Twalk, Rwalk;
    attach, walk, clunk, flush.
  - mk: rule, meta-rule, target, prereq, recipe, stem, arc, node, job.
  - CI: run, revision, artifact, log, status, replay. A run has steps; only mk
    has jobs.
  - VM: machine, host, guest, console.

Fs is our package; import the standard one as iofs. No package is called util,
helper, common, manager or impl. Short names have short lives: r is a run, m a
machine, tx and rx a T- and an R-message. A type is named for what it is
(activeRun, not running); a comment says why.

# English

Write for an engineer whose first language may be another, and who reads the line
once. The subject comes first, then the verb. Write "a client that", never a bare
"who", and "it" or "they" for programs. No pronoun stands for a noun of another
sentence. A rule is written as a rule. Words are short and sentences whole.

	before: what cannot be kept of the run Seal tells
	after:  Seal reports output that could not be kept.

# Comments

Say what callers cannot see: units, what blocks, who closes, which errors they may
test for, and where a number comes from. Name the source of a rule where the code
obeys it: walk(5), RFC 4254 §5.4. The comment of a mutex lists what it guards, and
that of a channel says who closes it. A package comment says what the package is
and what its words mean. The doc.go of a command is its manual page, fs/ci/doc.go
that of the tree, and tests hold them to the flags and files that there are. A
comment or manual that is no longer true is a bug.

# Code

A file begins with the type that a reader came for, then what makes it, then its
methods in the order of its life; callers stand above callees. Each rule of a format
or a protocol stands in one place; what must be stricter wraps it. What has a
number or an order is listed once. Main is flags, wiring, serve.

Interfaces have one to three methods. Take interfaces and return structs. Prefer an
operation that answers iofs.ErrPermission to an optional interface, which wrappers
hide.

Errors say what was being done, in lower case and without "failed to", and what the
user can do next. Wrap them with %w once for each package boundary. Log an error or
return it, never both. Users read our errors with cat, so their texts are
interface: proto/internal/wire has one table of enames and Linux errnos. Output of a recipe
that exits non-zero is a result of the run and no error of the executor. Panic only
if the program is wrong, never for what a peer sends.

Logs are log/slog, in a field and never a package's default logger: constant
messages, and facts as attributes with the keys run, step, target, uname, fid, tag,
took, err. All that a person reads is printed by cmd/internal/show.

Ctx is the first parameter. Only an adapter to an interface without one keeps a ctx
in a struct, and says so. A Tflush cancels one request, a hangup all of a
connection. The function that starts a goroutine waits for it.

# How to test

A test is a story that another engineer could tell. Its failure says
"Walk(%q) = %v, want %v". Doubles are real: a pipe, a loopback listener, a machine
that is a process. Time is that of testing/synctest: no test sleeps. All that a
peer may send has a fuzz target. Each mended fault has a test that fails without its
mending. Timings are for benchmarks and no limits of tests.

# Commits

	proto/ninep: cancel requests when the connection hangs up

	A reader of a live log waited in ReadAt after its client had gone, and
	held its run open. Derive each request's context from the connection's,
	and end that one first.

The package, a colon, and a verb in lower case, some fifty characters in all. The
body says what was wrong and why this mends it. A commit holds one change, with its
test and its manual. A new module brings its reason. A change of the table of
imports is a commit of its own.
*/
package internal
