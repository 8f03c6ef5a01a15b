// Package fs is the tree an executor serves: files that are computed,
// kept on disk, or imported from another tree.
//
// A Node names a file and holds nothing. A File is an open Node and must
// be closed. Every door (9P2000, 9P2000.L, SFTP, io/fs) serves Nodes and
// knows nothing of runs.
package fs
