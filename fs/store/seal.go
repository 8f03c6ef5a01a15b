package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"9ci/fs/ci"
	"9ci/fs/internal/disk"
)

// A SignFunc signs a manifest. It returns the text of manifest.sig, an armored
// SSHSIG in the namespace run@9ci.
type SignFunc func(manifest []byte) (sig []byte, err error)

// Seal ends the run in state passed, failed, cancelled or error, with an exit
// status, or -1 where there is none. When it returns, the run is complete on
// disk and never changes again. Seal makes the state error, whatever the caller
// says, where output could not be kept.
//
// A nil sign leaves the run without a signature. So does one that fails: the
// run is sealed all the same, and Seal returns sign's error.
//
// After another error the run has not ended: call Seal again, or Discard.
func (r *Run) Seal(ctx context.Context, state string, code int, sign SignFunc) error {
	if !ci.Finished(state) {
		return fmt.Errorf("store: seal %s: %q is not how a run ends", r.id, state)
	}
	signErr, err := r.seal(ctx, state, code, sign)
	if noSpace(err) {
		// Better a run without its output than none.
		r.shed(err)
		signErr, err = r.seal(ctx, "error", -1, sign)
	}
	if err != nil {
		return fmt.Errorf("store: seal %s: %w", r.id, err)
	}
	if signErr != nil {
		return fmt.Errorf("store: %s is sealed without a signature: %w", r.id, signErr)
	}
	return nil
}

func (r *Run) seal(ctx context.Context, state string, code int, sign SignFunc) (signErr, err error) {
	r.mu.Lock()
	if r.state != runOpen {
		r.mu.Unlock()
		return nil, r.ended()
	}
	if r.err == nil {
		r.lines.flush()
	}
	if r.err != nil && state != "cancelled" {
		state, code = "error", -1
	}
	if r.step >= 0 {
		st := state
		if st == "passed" {
			st = "error" // the step was cut short, its run was not
		}
		r.leave(r.step, st, -1)
	}
	final := r.finish(state, code)
	r.state = runSealing
	r.mu.Unlock()

	rec, signErr, err := r.writeSealed(ctx, final, sign)
	if err == nil {
		err = r.publish(rec)
	}
	if err != nil {
		r.mu.Lock()
		r.state = runOpen
		r.mu.Unlock()
		return nil, err
	}
	r.mu.Lock()
	r.status = final
	r.mu.Unlock()
	r.s.tell(r.id, final)
	r.end()
	os.Remove(r.lock.Name())
	r.lock.Close()
	r.s.enforce()
	return signErr, nil
}

// finish makes the run's last status, and completes its info and its steps.
// r.mu is held.
func (r *Run) finish(state string, code int) ci.Status {
	end, err := ci.ParseTime(r.info.Get("end"))
	if err != nil || end.IsZero() {
		end = time.Now().UTC().Truncate(time.Second)
	}
	final := ci.Status{State: state, Code: code, Took: -1, Time: end}
	if !r.start.IsZero() {
		// The end may be given, and is to the second only.
		final.Took = max(r.status.Took, 0)
		if now := time.Now(); now.Sub(end) < 2*time.Second && now.After(r.start) {
			final.Took = now.Sub(r.start)
		} else if d := end.Sub(r.start); d > final.Took {
			final.Took = d
		}
	}
	r.info = r.info.With(ci.Attr{Name: "end", Value: ci.FormatTime(end)})
	for i := range r.steps {
		if r.steps[i].State == "queued" {
			r.steps[i] = ci.Status{State: "skipped", Code: -1, Took: -1}
		}
	}
	return final
}

// writeSealed completes the run's directory and makes it last.
func (r *Run) writeSealed(ctx context.Context, final ci.Status, sign SignFunc) (rec *record, signErr, err error) {
	soften(r.dir) // an earlier attempt may have come far
	os.Remove(filepath.Join(r.dir, ".new"))
	os.Remove(filepath.Join(r.dir, askedFile))
	os.Remove(filepath.Join(r.dir, "service")) // if no service came to be in it
	r.mu.Lock()
	key, info := r.key.Text(), r.infoText()
	steps := slices.Clone(r.steps)
	r.mu.Unlock()
	for i, st := range steps {
		if err := r.writeText(filepath.Join("step", ci.Steps[i], "status"), st.Append(nil)); err != nil {
			return nil, nil, err
		}
	}
	if err := r.writeTexts(key, info, final); err != nil {
		return nil, nil, err
	}
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	sub, err := root.OpenRoot("artifacts")
	if err != nil {
		return nil, nil, err
	}
	defer sub.Close()
	tree, err := ci.ReadArtifacts(sub, true)
	if err != nil {
		return nil, nil, err
	}
	if err := r.writeText("artifacts.mtree", ci.FormatMtree(tree)); err != nil {
		return nil, nil, err
	}
	var sums []ci.Sum
	services, err := ci.ReadServices(root)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range ci.Files(services) {
		if err := context.Cause(ctx); err != nil {
			return nil, nil, err
		}
		d, _, err := disk.Hash(root, name)
		if err != nil {
			return nil, nil, err
		}
		sums = append(sums, ci.Sum{Name: name, Digest: d})
	}
	shareLog(root, sums)
	for _, a := range tree {
		if a.Mode.IsRegular() {
			sums = append(sums, ci.Sum{Name: "artifacts/" + a.Name, Digest: a.Digest})
		}
	}
	manifest := ci.FormatManifest(sums)
	if err := r.writeText("manifest", manifest); err != nil {
		return nil, nil, err
	}
	os.Remove(filepath.Join(r.dir, "manifest.sig")) // of an earlier attempt
	if sign != nil {
		var sig []byte
		sig, signErr = sign(manifest)
		if signErr == nil && len(sig) == 0 {
			signErr = errors.New("the signature is empty")
		}
		if signErr == nil {
			if err := r.writeText("manifest.sig", sig); err != nil {
				return nil, nil, err
			}
		}
	}
	if err := settle(root, final.Time, tree); err != nil {
		return nil, nil, err
	}
	rec, err = recordOf(r.dir)
	return rec, signErr, err
}

// shareLog makes the log of the only step that said anything another name of the
// run's log, which has the same bytes: large logs take room once. Where that cannot be
// done there are two files.
func shareLog(root *os.Root, sums []ci.Sum) {
	i := slices.IndexFunc(sums, func(x ci.Sum) bool { return x.Name == "log" })
	if fi, err := root.Lstat("log"); i < 0 || err != nil || fi.Size() == 0 {
		return
	}
	for _, x := range sums {
		if x.Digest == sums[i].Digest && strings.HasPrefix(x.Name, "step/") && root.Link("log", ".new") == nil {
			root.Rename(".new", x.Name)
			root.Remove(".new") // rename(2) does nothing if they are one file already
		}
	}
}

// soften undoes what settle did to our files.
func soften(dir string) {
	services := servicesIn(dir)
	for _, name := range ci.Dirs(services) {
		os.Chmod(filepath.Join(dir, name), 0o700)
	}
	for _, name := range ci.Files(services) {
		os.Chmod(filepath.Join(dir, name), 0o600)
	}
}

// settle makes a complete run read-only, dates our files, and waits until all
// of it is on disk.
func settle(root *os.Root, end time.Time, tree []ci.Artifact) error {
	services, err := ci.ReadServices(root)
	if err != nil {
		return err
	}
	names := slices.Concat(ci.Files(services), []string{"manifest"})
	if _, err := root.Lstat("manifest.sig"); err == nil {
		names = append(names, "manifest.sig")
	}
	dirs := ci.Dirs(services)
	slices.Reverse(dirs) // children first
	for _, name := range slices.Concat(names, dirs) {
		mode := os.FileMode(0o444)
		if slices.Contains(dirs, name) {
			mode = 0o555
		}
		if err := root.Chmod(filepath.FromSlash(name), mode); err != nil {
			return err
		}
		if name == "." {
			d, err := root.Open(".")
			if err != nil {
				return err
			}
			ts := unix.NsecToTimeval(end.UnixNano())
			err = cmp.Or(unix.Futimes(int(d.Fd()), []unix.Timeval{ts, ts}), d.Close())
			if err != nil {
				return fmt.Errorf("futimes: %w", err)
			}
			continue
		}
		if err := setTime(root, filepath.FromSlash(name), end); err != nil {
			return err
		}
	}
	if len(tree) > 64 {
		d, err := root.Open(".")
		if err != nil {
			return err
		}
		defer d.Close()
		return syncDisk(d)
	}
	for _, a := range tree {
		if a.Mode.IsRegular() || a.Mode.IsDir() {
			names = append(names, "artifacts/"+a.Name)
		}
	}
	return syncAll(root, slices.Concat(names, dirs))
}

// syncAll waits until files are on disk. It starts the writing of all before it
// waits for the first, so that one commit of the file system's journal does for
// most.
func syncAll(root *os.Root, names []string) (err error) {
	files := make([]*os.File, 0, len(names))
	defer func() {
		for _, f := range files {
			err = cmp.Or(err, f.Close())
		}
	}()
	for _, name := range names {
		f, err := root.Open(filepath.FromSlash(name))
		if err != nil {
			return err
		}
		files = append(files, f)
		startSync(f)
	}
	for _, f := range files {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// publish makes the sealed directory the run of its id.
func (r *Run) publish(rec *record) error {
	unlock, err := r.s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	rec.seq, rec.owner = r.seq, r.s.token
	_, rec.num, _ = ci.SplitID(r.id)
	return r.s.publish(r.dir, rec, r)
}

// shed gives up what a run holds on a full disk, except its texts, and says so
// in the log.
func (r *Run) shed(cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	soften(r.dir)
	remake(filepath.Join(r.dir, "artifacts"))
	for _, name := range ci.Files(servicesIn(r.dir)) {
		if strings.HasPrefix(name, "std") || strings.HasSuffix(name, "log") {
			os.Truncate(filepath.Join(r.dir, name), 0)
		}
	}
	r.logLen, r.liveLen = 0, 0
	line := r.complaint(fmt.Errorf("%w; the run's output and artifacts were given up", cause))
	if f, err := os.OpenFile(filepath.Join(r.dir, "log"), os.O_WRONLY|os.O_APPEND, 0); err == nil {
		f.Write(line)
		f.Close()
	}
}

// complaint returns a line of a log that tells of an error of ours.
func (r *Run) complaint(err error) []byte {
	return ci.LogLine{Time: time.Now(), Stream: "stderr", Full: true, Text: []byte("9ci: " + strings.ReplaceAll(err.Error(), "\n", " "))}.Append(nil)
}

// sigSigner returns the fingerprint of the key in an armored SSHSIG, as
// ssh-keygen -l prints it, or "" where it is none. That of a certificate is its
// key's. It verifies nothing.
func sigSigner(sig []byte) string {
	key, err := sigKey(sig)
	if err != nil {
		return ""
	}
	if k, err := ssh.ParsePublicKey(key); err == nil {
		if cert, ok := k.(*ssh.Certificate); ok {
			key = cert.Key.Marshal()
		}
	}
	d := sha256.Sum256(key)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(d[:])
}

// sigKey returns the public key in an SSHSIG (PROTOCOL.sshsig of OpenSSH).
func sigKey(sig []byte) ([]byte, error) {
	s, ok := strings.CutPrefix(string(sig), "-----BEGIN SSH SIGNATURE-----\n")
	s, _, ok2 := strings.Cut(s, "-----END SSH SIGNATURE-----")
	if !ok || !ok2 {
		return nil, errors.New("not an armored SSHSIG")
	}
	b, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(s, "\n", ""))
	if err != nil {
		return nil, err
	}
	const head = len("SSHSIG") + 4
	if len(b) < head+4 || string(b[:6]) != "SSHSIG" {
		return nil, errors.New("not an SSHSIG")
	}
	n := binary.BigEndian.Uint32(b[head:])
	if b = b[head+4:]; uint64(n) > uint64(len(b)) {
		return nil, errors.New("a short SSHSIG")
	}
	return b[:n], nil
}
