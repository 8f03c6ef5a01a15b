package orchestrator

import (
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"

	"9ci/orchestrator/access"
	"9ci/orchestrator/access/forge"
)

// The files of a state directory.
const (
	hostKeyFile        = "ssh_host_ed25519_key"
	authorizedKeysFile = "authorized_keys"
	revokedFile        = "revoked"
	sourcesFile        = "sources"
)

// openState makes in dir what a first start needs, and returns the host keys: the
// one of hostKeyFile first, then those of other files ssh_host_*_key by name.
func openState(dir string) (hostKeys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	first := filepath.Join(dir, hostKeyFile)
	host, err := access.PrivateKey(first, "9ci orchestrator")
	if err != nil {
		return nil, err
	}
	hosts := hostKeys{host}
	others, err := otherHostKeys(dir)
	if err != nil {
		return nil, err
	}
	for _, path := range others {
		k, err := access.PrivateKey(path, "")
		if err != nil {
			return nil, err
		}
		if hosts.find(k.PublicKey().Marshal()) == nil {
			hosts = append(hosts, k)
		}
	}
	return hosts, errors.Join(access.MakeAuthorizedKeys(filepath.Join(dir, authorizedKeysFile)), forge.MakeFile(filepath.Join(dir, forge.File)))
}

// otherHostKeys returns the files of host keys but for hostKeyFile, by name.
func otherHostKeys(dir string) ([]string, error) {
	names, err := iofs.Glob(os.DirFS(dir), "ssh_host_*_key")
	var all []string
	for _, name := range names {
		if name != hostKeyFile {
			all = append(all, filepath.Join(dir, name))
		}
	}
	return all, err
}
