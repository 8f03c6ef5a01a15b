# 9ci. go run ./cmd/mk demo and go run ./cmd/mk test set up all they need.

BIN=.bin
PKG=./...
BENCH=.
FUZZTIME=1m
TIMEOUT=30m

# Debian packages: what 9ci runs, and the peers its tests run beside it.
QEMU=`{case $(uname -m) in aarch64) echo qemu-system-arm ;; *) echo qemu-system-x86 ;; esac}
NEEDS=git openssh-client $QEMU mmdebstrap erofs-utils e2fsprogs xz-utils ca-certificates
PEERS=9base binutils bsdutils chromium curl diod fish fuse3 groff-base iproute2 libarchive-tools make mandoc ninja-build openssh-server openssl pre-commit rc rsync socat sqlite3 sshfs systemd zsh

# What else the tests of the pages run: axe-core of npm, its version and SHA-512.
AXE_VERSION=4.14.1
AXE_SUM=1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b734f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5

# Tests that start machines, and stories that do: mk test leaves them out in a machine of
# 9ci, which has no room for others. There it does not fuzz either, but for the seeds.
MACHINES=TestGuestLimits|TestGuestOutOfMemory|TestGuestPanics|TestHostDiskFull|TestKernelClient|TestLent|TestMachine|TestNetwork|TestPlainUser|TestSavedMachine|TestSavedMachineDamaged|TestSelf
STORIES=client_misused|dist_debian|doctor_fixes|host_floods|host_git|host_secret|host_secrets|host_shares|help_tutorial|init_hooks|init_repository|init_shims|machine_killed|orchestrator_down|orchestrator_tls|replay_refused|replay_shared|run_bounded|run_cancelled|run_databases?|run_fails|run_held|run_image|run_leaves|run_misused|run_outlives|run_passes|run_repository|run_services|serve_adopts_leaver|serve_ends|serve_hands|serve_killed|token_job|token_login|token_secret

all:V:
	sh .ci/build $BIN

# The manuals as man pages, of the day of the commit.
man:V: all
	rm -rf $BIN/man
	day=$(git log -1 --format=%ct 2>/dev/null || :)
	SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$day} $BIN/9ci help -man $BIN/man

demo:V: needs all
	PATH=$PWD/$BIN:$PATH sh cmd/testdata/demo.sh

test:V: needs peers
	if test -d /var/run/ci; then
		skip="^($MACHINES)\$|^TestScripts\$/^($STORIES)\$"
	else
		axe=$(sh .ci/axe $AXE_VERSION $AXE_SUM)
	fi
	go vet $PKG
	AXE=$axe go test -count=1 -timeout=$TIMEOUT -skip="$skip" $PKG
	test -d /var/run/ci || go run ./cmd/mk PKG="$PKG" FUZZTIME=1000x fuzz

# In a machine of 9ci: its Go, which is the module that go.mod asks for, since Debian's own
# is older, and all that the tests read without a network.
prepare-runtime:V: needs peers
	sh .ci/need golang-go
	go=golang.org/toolchain@v0.0.1-go$(sed -n 's/^go //p' go.mod).linux-$(dpkg --print-architecture)
	dir=$(cd / && GOFLAGS=-modcacherw go mod download -json $go | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
	chmod +x $dir/bin/* $dir/pkg/tool/*/*
	ln -s $dir/bin/* /usr/local/bin
	go mod download

check:V: needs peers all
	axe=$(sh .ci/axe $AXE_VERSION $AXE_SUM)
	test -z "$(gofmt -l . | tee /dev/stderr)"
	go vet $PKG
	GOARCH=arm64 go vet $PKG
	GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 go build -o /dev/null ./cmd/9ci ./cmd/orchestrator
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 $PKG
	go run golang.org/x/vuln/cmd/govulncheck@latest $PKG ||
		echo 'govulncheck did not pass, or its database cannot be had here' >&2
	sh .ci/forges $PWD/$BIN/forges
	FORGES=$PWD/$BIN/forges PATH=$PWD/$BIN/forges:$PATH AXE=$axe CHECK=1 CGO_ENABLED=1 FLEET_ROUNDS=400 go test -race -short -count=1 -timeout=3h $PKG

bench:V: needs peers all
	go test -run='^$' -bench=$BENCH -benchmem -timeout=60m $PKG

# Every fuzz target in turn.
fuzz:V:
	for p in $(go list $PKG); do
		for f in $(go test -list '^Fuzz' $p | grep '^Fuzz'); do
			go test -run='^$' -fuzz="^$f\$" -fuzztime=$FUZZTIME $p
		done
	done

# One more test of machines, of the other architecture, by emulation: its core OS, ten
# minutes of CPU. test does without it.
arm64:V: needs
	sh .ci/need arch-test binfmt-support qemu-system-arm qemu-user-static
	ARM64=1 go test -count=1 -v -timeout=60m -run='^TestARM64$' ./vm

# Tests of logins and of commit statuses with a real forge: a Gitea that is built here,
# five minutes of CPU. test does without it.
GITEA_VERSION=v1.23.8

gitea:V:
	sh .ci/need gcc libc6-dev git
	bin=$PWD/$BIN
	mkdir -p $bin
	root=$(cd / && go mod download -json code.gitea.io/gitea@$GITEA_VERSION | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
	(cd $root && CGO_ENABLED=1 nice go build -tags='sqlite sqlite_unlock_notify' -o $bin/gitea .)
	GITEA=$bin/gitea GITEA_ROOT=$root go test -count=1 -tags=gitea -run='^TestGitea' ./orchestrator/access/forge

# DESTDIR stands in front of PREFIX, and not in what is installed: for packages.
PREFIX=/usr/local

install:V: all man
	sh .ci/install $BIN "$PREFIX" "$DESTDIR"

# Packages of the commit for SYSTEMS: tarballs, Debian packages, and SHA256SUMS, signed by
# the key CI_KEY if that is set.
SYSTEMS=linux/amd64 linux/arm64 darwin/arm64

dist:V:
	sh .ci/need ca-certificates git openssh-client
	sh .ci/dist $BIN/dist $SYSTEMS

clean:V:
	rm -rf $BIN

needs:VQ:
	sh .ci/need $NEEDS

peers:VQ:
	sh .ci/need $PEERS
