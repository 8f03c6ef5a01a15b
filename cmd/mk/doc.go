// Mk maintains related files.
//
// Usage:
//
//	mk [-f mkfile] ... [option ...] [name=value ...] [target ...]
//
// Mk makes targets from what they depend on, as the rules of a mkfile say. It
// is Plan 9's mk(1) in the form plan9port gave it for Unix: the same language,
// messages and exit status. Without targets it makes those of the first rule
// whose targets have no pattern.
//
// A target is out of date if it does not exist or if it is not newer than all
// its prerequisites, in whole seconds. $NPROC says how many recipes may run at
// once, 1 if it is not set.
//
// Only the first letter of an option counts. The first argument that does not
// begin with a - ends the options, which are:
//
//	-a	all targets are out of date; implies -i
//	-C dir	go to dir first, as cd does
//	-d[egp]	print what was parsed (p), the graph (g), what is run (e); all three
//		without a letter
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
// an empty line ends it. It is the standard input of sh -e. A target with a %
// is a meta-rule: % stands for any string, & for one without dots and slashes,
// and both stand for the same in the prerequisites. The attributes are
//
//	D	remove the target if its recipe fails
//	E	run the shell without -e
//	N	no recipe is fine: making the prerequisites is all
//	n	a meta-rule that is not for virtual targets
//	Pprog	prog TARGET PREREQ says, by success, that TARGET is up to date
//	Q	do not print the recipe
//	R	the target is a regular expression, as in regexp(7); a prereq's \1 is
//		its first subexpression
//	U	nothing
//	V	the target is virtual: not a file
//
// $name, ${name} and ${name:A%B=C%D} stand for the words of a variable. With U=
// it is not exported to recipes. `{command} and `command` stand for the output
// of a command. Variables come from the environment, the mkfiles, and arguments
// of the form name=value, the later ones winning.
//
// A variable of 128 KiB or more needs U=: the system does not take it. If all the
// prerequisites of a recipe are as long, make them those of a virtual target
// without a recipe, and let the recipe's target depend on that one.
//
// The environment of recipes also has alltarget, newprereq, newmember, nproc,
// pid, prereq, stem, stem0 to stem9 and target. MKSHELL is the shell of the
// recipes and commands that follow. If the last element of its path begins with
// rc, quotes are rc's.
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
//     descendants (a terminal sends them itself), but not a process whose parent
//     among these has ended. Mk waits for the recipes, kills them after five
//     seconds, removes their targets with attribute D, and dies of the signal.
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
// runs the recipes; MKSHELL=builtin asks for it. It has no kill, umask,
// ulimit and job control, and $0 is gosh.
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
package main
