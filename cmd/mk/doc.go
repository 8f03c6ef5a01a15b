// Mk maintains related files.
//
// Usage:
//
//	mk [-f mkfile] ... [option ...] [name=value ...] [target ...]
//
// Mk makes targets, usually files, from what they depend on, as the rules of a
// mkfile say. It is Plan 9's mk(1) in the form plan9port gave it for Unix: the same
// language, messages and exit status. Without targets it makes those of the first
// rule whose targets have no pattern.
//
// Only the first letter of an option counts. The first argument that does not
// begin with a - ends the options, which are:
//
//	-a	all targets are out of date; implies -i
//	-C dir	go to dir first, as cd does
//	-d[egp]	print what was parsed (p), the graph (g), what is run (e)
//	-e	say why each target is made
//	-f mkfile
//		read this, instead of mkfile; may be repeated
//	-h	print the usage
//	-i	make missing intermediate targets
//	-k	go on after errors, with what does not depend on them; mk still fails
//		at its end
//	-n	print recipes, do not run them
//	-N	compare times in nanoseconds, not in whole seconds
//	-o	print the output of each recipe when the recipe ends
//	-s	make the targets one after the other
//	-t	touch targets, do not run recipes
//	-u	print at the end for how many seconds 0, 1, 2, ... recipes ran
//	-v	say so if the built-in shell is used
//	-w names
//		these, separated by commas, count as modified just now
//
// The mk of plan9port lacks C, h, N, o and v.
//
// # Mkfiles
//
// The first unquoted :, = or < of a line makes it a rule, an assignment or an
// include. A # begins a comment, a backslash before a newline joins lines.
//
//	target ... :attributes: prereq ...
//		recipe
//	name=value ...
//	name=U=value ...
//	<file
//	<|command
//
// A recipe is the lines that begin with white space, less its first character;
// an empty line ends it. In all other lines single and double quotes keep text as it
// is, and a backslash the next character. `{command} and `command` stand for what a
// command prints when the line is read; $name, ${name} and ${name:A%B=C%D} for the
// words of a variable, in the last form with each word A%B made C%D. A missing <file
// is only warned of; a <|command must succeed.
//
// A target with a % or & makes a meta-rule, for every name that matches. % matches
// any string, also none, and & one without dots and slashes: the stem, which replaces
// % and & in the prerequisites. A meta-rule counts if these are files, or if a chain
// of rules leads from them to files or to a rule without a pattern. It is used once
// on such a chain, or NREP times.
//
// Several rules may have one target:
//
//   - A rule replaces an earlier one that has the same prerequisites.
//   - A rule without a recipe adds its prerequisites.
//   - The recipe of a rule without a pattern is preferred to those of meta-rules.
//   - Otherwise two recipes are ambiguous, which is an error.
//
// The prerequisites of the first rule come first, then those of the others, from the
// last rule to the second.
//
// # Variables
//
// The words of a variable come from the environment, as one word, from the mkfile, or
// from an argument name=value, which wins over both. References in a rule are replaced
// when it is read. Those in a recipe are the shell's: it gets all variables, but those
// with attribute U, in its environment, with blanks between the words. Mk sets:
//
//	alltarget	all targets of the rule
//	newmember	the members in newprereq, without their archive's name
//	newprereq	the prerequisites that are not older than target
//	nproc	the recipe's slot, from 0 to one less than NPROC
//	pid	mk's process id
//	prereq	all prerequisites
//	stem	what % or & matched; else empty
//	stem0-stem9	what a regular expression matched, to the end of the target, and
//		its subexpressions
//	target	the targets that are to be made
//
// These are empty outside of recipes. Mk also sets or reads:
//
//	MKARGS	the targets of the command line
//	MKFLAGS	its options, but -C, and assignments
//	MKOUTPUT	the same as -o, if it is neither empty nor 0
//	MKSHELL	the shell, and its arguments, for the recipes and commands that follow
//	NPROC	how many recipes may run at once; 1 if it is not set
//	NREP	how often a meta-rule is used on a chain; 1 if it is not set
//	TMPDIR	where output waits with -o; /tmp if it is not set
//
// Where the environment has MKARGS or MKFLAGS, these stay.
//
// MKSHELL is sh where a mkfile or an included file begins, whatever the environment
// says, and the includer's again behind that file. If the last element of its path
// begins with rc, quotes and lists in the environment are rc's.
//
// # Execution
//
// A target is out of date if it does not exist, or if a prerequisite is not older, in
// whole seconds. Once its recipe has run it is up to date, whatever its time is then.
// A target that is no file even then, such as a virtual one, has the time of its
// newest prerequisite; without prerequisites it makes no file out of date. A file
// that was modified in the future is warned of.
//
// A missing file is not made if it has prerequisites and the files that need it are
// newer than these: it then counts as the newest of them. This goes one step: of two
// missing files in a chain both are made. With -i all missing files are made.
//
// Recipes run in the order in which they become ready, each as the standard input of
// a sh -e. Mk prints it before, with the mkfile's variables expanded. After a failure
// mk starts no other, waits for those that run, and ends.
//
// With -o and an NPROC over 1 the echo and the output of a recipe are printed when it
// ends. What it leaves running can print until mk ends.
//
// # Aggregates
//
// The name a(b) is member b of the archive a, in the format of GNU's or BSD's ar(1).
// A rule such as a(%):N: % says which file it comes from, and the recipe of a replaces
// $newmember. A member that is not there is out of date.
//
// # Attributes
//
//	D	remove the target if its recipe fails
//	E	run the shell without -e
//	N	no recipe is fine: making the prerequisites is all
//	n	a meta-rule that is not for virtual targets
//	Pprog	prog TARGET PREREQ says, by success, that TARGET is up to date
//	Q	do not print the recipe
//	R	the target is a regular expression, as in regexp(7); a prereq's '\1' is
//		its first subexpression
//	U	nothing
//	V	the target is virtual: not a file
//
// P is the last, and ends at the colon.
//
// # Examples
//
// A program, and a target to remove it:
//
//	CFLAGS=-O2 -Wall
//	OFILES=main.o parse.o
//
//	prog: $OFILES
//		cc -o $target $prereq
//
//	%.o: %.c parse.h
//		cc $CFLAGS -c $stem.c
//
//	clean:V:
//		rm -f prog $OFILES
//
// For other flags once say mk 'CFLAGS=-O0 -g'.
//
// A library, in which only what has changed is replaced:
//
//	OFILES=abs.o div.o
//
//	libm.a: ${OFILES:%=libm.a(%)}
//		ar r $target $newmember
//
//	libm.a(%):N: %
//
//	%.o: %.c
//		cc -c $stem.c
//
// Two files of one recipe. What includes x.tab.h is compiled again only if its
// contents have changed:
//
//	lex.o: lex.c x.tab.h
//		cc -c lex.c
//
//	x.tab.h: y.tab.h
//		cmp -s x.tab.h y.tab.h || cp y.tab.h x.tab.h
//
//	y.tab.c y.tab.h: gram.y
//		yacc -d gram.y
//
// A tree in another directory:
//
//	all:V: bin/net/dial.o
//
//	'bin/([^/]+)/(.*)\.o':R: 'src/\1/\2.c'
//		mkdir -p bin/$stem1
//		cc -c -o $target $prereq
//
// Tests, four at a time, with mk -o:
//
//	NPROC=4
//	TESTS=`{ls *_test.sh}
//
//	test:V: ${TESTS:%.sh=%}
//
//	%_test:VQ: %_test.sh
//		sh $prereq && echo $stem passed
//
// Settings that a program finds out:
//
//	<|echo OS=`uname`
//	GO=`echo ${GO:-go}`
//
//	build-$OS:V:
//		$GO build -o prog-$OS
//
// # Where this mk is right instead
//
// Plan9port's mk crashes or gives up where this one does not:
//
//   - Nothing is cut. Theirs exports the first 16,383 bytes of a value. Here a
//     recipe or command fails before it runs, and its target stays as it is, if
//     the system does not take its environment: on Linux 131,072 bytes for one
//     variable with its name, and what ulimit -s allows for all. The message
//     names the longest variable.
//   - Names of 1000 bytes and more, chains of 3,600 rules and more, a P rule
//     without prerequisites, ${x:A%B=C} where A and B overlap, a backslash or a
//     dollar at the end of a file.
//   - A graph takes time and memory in proportion to its size.
//   - SIGINT, SIGTERM, SIGHUP and SIGQUIT reach the recipes that run and their
//     descendants, each once, even if the terminal or timeout(1) has sent the
//     signal to some of them itself. Mk waits for all of them, kills what has not
//     ended after five seconds, or at a second signal, removes those targets with
//     attribute D that have changed since their recipe began, and dies of the
//     signal; as PID 1 its exit status is 128 and the signal's number. An output
//     that nobody reads keeps it for eleven seconds at most, two after a second
//     signal. What a recipe left in the background gets the signal too, SIGTERM if
//     it ignores that signal, but not a daemon, which has a session of its own,
//     unless mk is PID 1.
//   - Signals that are ignored where mk starts stay ignored, in recipes too:
//     SIGHUP; SIGINT, and with it SIGQUIT; and SIGTERM if the parent of mk ignores
//     it. Use a shell that waits for mk for that, not exec.
//   - Mk reaps what recipes leave behind, as PID 1 must. It is the parent of such
//     processes as long as it runs.
//   - Includes nest 1,000 deep; the next file is skipped with a warning, the next
//     command is an error.
//   - A message gives the line on which the statement begins; theirs gives the
//     line after its end.
//   - Mk -k exits with 1 if a target could not be made, also one that does not
//     exist and has no rule, and does not call it up to date.
//   - A target that a job is making is not also made by one of another rule that
//     names it. There, with NPROC above 1, mk could end in an assertion.
//   - A regular expression and a name that look the same are two targets.
//   - A mkfile or an include that is there but cannot be read, such as a directory,
//     is an error.
//   - The targets of a command line are not taken together for a target of their
//     own, which %: would match.
//   - If its standard output cannot be written to, mk says so, runs no more
//     recipes and exits with 1. It says nothing if that is a pipe without a reader.
//   - Bytes are passed on as they are. Theirs replaces what is no UTF-8, and drops
//     what follows a NUL. A NUL outside a recipe is a syntax error.
//   - Mk -t finds the members of archives that GNU ar has made.
//   - A program of attribute P gets no recipe variables; theirs gets those of the
//     last recipe.
//   - A & takes a quote in a name for a character as any other.
//   - -dp and -dg print small numbers for addresses.
//
// A line and the output of a `{command} are limited to 64 MiB, a recipe to 256
// MiB, the graph to a depth of 200,000 rules.
//
// Where there is no /bin/sh and no sh in $PATH, a POSIX shell that is part of mk
// runs the recipes; MKSHELL=builtin asks for it. It does what dash(1) does: it has
// traps on EXIT and signals, descriptors 0 to 9, functions, local, kill, umask and
// getopts, and its echo interprets backslashes. A recipe that needs what it lacks
// fails, with the line and a message that says so: alias, unalias, ulimit, fc, the job
// control of jobs, fg, bg and %1, set -o pipefail and other options than -a, -C, -e,
// -f, -u and -x, and what only bash has, such as arrays. A background process is not
// deaf to SIGINT; SIGQUIT, SIGALRM, SIGUSR1 and SIGUSR2 end the shell with status 128
// and their number.
//
// # Files
//
//	mkfile	is read if there is no -f, and need not exist
//
// # Exit status
//
// 0, or 1 for any error, also one that -k let pass.
//
// # See also
//
// A. Hume, Mk: a Successor to Make. A. Hume and B. Flandrena, Maintaining Files
// on Plan 9 with Mk.
//
// # Bugs
//
// CFLAGS=-DX=1 has an unknown attribute: put a blank behind the first =.
//
// A rule with attribute R makes one target at a time. The program of P is asked
// before PREREQ is made, and not again after.
//
// An empty string in quotes ends the list that it is in.
//
// What the echo of a recipe shows may not be what the shell makes of it.
package main
