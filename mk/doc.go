// Package mk reads and runs mkfiles, as Plan 9's mk(1) does.
//
// A mkfile is assignments and rules. A rule says that its targets are made
// from its prereqs by a recipe, a script for a shell. A meta-rule is a rule
// for every name that matches its target: A%B, A&B or, with the attribute
// R, a regular expression; what matched the % is the stem.
//
// [Parse] reads mkfiles and runs nothing unless Config.Exec is set: what only
// a command could tell (`{cmd}, <|cmd) is then unknown. [Mkfile.Run] builds
// the graph of what a target is made from, a node for each name and an arc
// for each prereq, and runs a job for each node that is out of date.
// [Mkfile.Plan] says which jobs those would be.
//
// Messages, their order on the two outputs and the environment of recipes
// are those of plan9port's mk; cmd/mk's manual lists where ours is
// deliberately right instead. Nothing here is global but the process's
// environment and working directory, which are read where a Config has none.
//
// Parse may be called by several goroutines at once, and so may the methods of one
// Mkfile. Calls of Run do not know of each other: each has its own graph, NPROC and
// processes, and two may make the same target at once, or wait for each other's
// files in vain. What a Config refers to is then used at once, too: its streams and
// Builtin.
package mk
