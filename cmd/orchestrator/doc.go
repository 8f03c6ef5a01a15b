// Orchestrator connects executors: an SSH-authenticated 9P mux over the trees
// of those that are connected to it.
//
//	orchestrator [-a ADDR]... [-state DIR] [-ca FILE] [-D]
//
// Executors dial it, say which namespaces they hold, and serve their tree on
// the same connection; whoever may read a namespace sees all of its executors
// in one tree, and finds a run by its key. The orchestrator keeps no runs: it
// forgets an executor that leaves.
//
//	-a ADDR     listen on tcp!HOST!PORT or unix!PATH; may be repeated; default tcp!*!2222
//	-state DIR  where the host key and authorized_keys are; made on a first start;
//	            default $STATE_DIRECTORY, else ~/.local/state/9ci-orchestrator, where ~ is
//	            $HOME, or the password file's where that is not absolute
//	-ca FILE    trust SSH certificates that the keys in FILE have signed; its lines
//	            are as in authorized_keys. A certificate without principals is refused
//	-D          print 9P messages on standard error, one a line
//
// # Who may enter
//
// A key with a line in authorized_keys, which sshd(8) describes; or a
// certificate of an authority there (cert-authority) or in -ca's file. Options
// before the key narrow what it may do:
//
//	namespace="github.com/alice/hello"   only that; may be repeated; * matches within
//	                                     an element, a last ... all that follows.
//	                                     Without it, all. What is one executor's own,
//	                                     local/NAME, needs one that begins with local/
//	read, publish                        only that right; with neither, both
//	expiry-time="YYYYMMDD[HHMM[SS]][Z]"
//	cert-authority, principals="A,B"     certificates of this key, of these principals
//
// A line with an option that is not known grants nothing. Edits count at once; a
// connection whose key may do something else now is ended at its next channel,
// or within 65 seconds. The user's name means nothing.
//
// # What they see
//
//	/status /event          the whole, as far as the key may know it
//	/HOST/OWNER/REPO/       a namespace; an aname enters it
//	    ci/REV/             the best finished run by commit, tree, a prefix of
//	                        seven or more digits, score, or last
//	    artifacts/REV/      what it left
//	    n/EXECUTOR/         the whole tree of one executor, ci(4)
//	    find                write attr=value pairs of a key, read a line for each run
//	    status event        who is connected; joins, leaves, results
//
// Ci's entries, artifacts and event can be walked to and are not listed. In the
// root ci, n, artifacts and find are those of the key's only namespace. An
// executor has a ctl for the key that exports it and for no other. What is
// absent and what is forbidden answer alike.
//
// # With stock OpenSSH
//
//	ssh HOST cat ci/REV/stdout       also ls, stat, wait and whoami; a path that begins with
//	                                 ci, n or artifacts is in the key's only namespace, or the
//	                                 one that namespace=NS before the paths names
//	sftp, scp, sshfs HOST:           the tree, read-only
//	ssh -J HOST EXECUTOR COMMAND     the same commands, sftp and 9p at the executor's own SSH
//	                                 server, end to end: its host key is the executor's key
//	ssh -s HOST 9p                   9P on standard input and output, for 9pserve or socat
//	ssh -s HOST 9p/EXECUTOR          9P with that executor's tree as its root
//	ssh -s HOST 9p-export            exports the 9P server on standard input and output
//	ssh -R 564:HOST:PORT HOST        exports a 9P server on a port: no port is opened
//	ssh -R /9p/NAMESPACE/n/NAME:SOCKET HOST
//	                                 exports one on a socket, under that name
//
// A stock client's namespace and name, where it does not say them, are those of
// its key's line: namespace=, and the host in a comment user@host.
//
// # Files
//
//	ssh_host_ed25519_key ssh_host_ed25519_key.pub
//	authorized_keys
//
// # Exit status
//
// 0 after SIGINT or SIGTERM, 1 where it cannot serve, 2 where it was misused.
//
// # See also
//
// go doc 9ci/fs, go doc 9ci/orchestrator, go doc 9ci/cmd/9ci
package main
