# The core OS, finished inside mmdebstrap's chroot $1 (a customize hook).
# It runs as root, or as the root of a user namespace, outside the chroot.
# Everything that the host lends, or that differs from build to build, goes.
set -eu
umask 022
root=$1
out=$root/9ci
mkdir -p "$out/deb" "$out/kernel"

case $(chroot "$root" dpkg --print-architecture) in
amd64) arch=amd64 lib=x86_64-linux-gnu loader=ld-linux-x86-64.so.2 ;;
arm64) arch=arm64 lib=aarch64-linux-gnu loader=ld-linux-aarch64.so.1 ;;
esac

# One exact kernel: what the metapackage of the same lists depends on.
# It is unpacked, not installed: no initramfs-tools, and few of its modules.
kernel=$(APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache depends "linux-image-$arch" |
	sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p')
echo "I: unpacking kernel $kernel..." >&2
(cd "$out/deb" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq download "$kernel")
dpkg-deb --fsys-tarfile "$out"/deb/linux-*.deb | tar -x -C "$out/kernel" --wildcards \
	'./boot/vmlinuz-*' './lib/modules/*'
version=${kernel#linux-image-}
cp "$out/kernel/boot/vmlinuz-$version" "$out/vmlinuz"

# The modules that a virtual machine and its containers can use.
from=$out/kernel/lib/modules/$version
to=$root/usr/lib/modules/$version
mkdir -p "$to"
cp "$from"/modules.builtin "$from"/modules.builtin.modinfo "$from"/modules.order "$to"
(cd "$from" && for m in \
	kernel/arch/*/crypto kernel/crypto kernel/lib kernel/net \
	kernel/drivers/virtio kernel/drivers/char/virtio_console.ko \
	kernel/drivers/char/hw_random/virtio-rng.ko \
	kernel/drivers/block/virtio_blk.ko kernel/drivers/block/loop.ko \
	kernel/drivers/block/nbd.ko \
	kernel/drivers/net/virtio_net.ko kernel/drivers/net/net_failover.ko \
	kernel/drivers/net/veth.ko kernel/drivers/net/tun.ko \
	kernel/drivers/net/dummy.ko kernel/drivers/net/ifb.ko \
	kernel/drivers/net/macvlan.ko kernel/drivers/net/ipvlan \
	kernel/drivers/net/vxlan kernel/drivers/net/vrf.ko \
	kernel/drivers/net/wireguard \
	kernel/fs/9p kernel/fs/netfs kernel/fs/fscache kernel/fs/overlayfs \
	kernel/fs/erofs kernel/fs/ext4 kernel/fs/jbd2 kernel/fs/mbcache.ko \
	kernel/fs/fuse kernel/fs/squashfs kernel/fs/isofs kernel/fs/nls \
	kernel/fs/binfmt_misc.ko
do
	if test -e "$m"; then echo "$m"; fi
done | tar -c -T - | tar -x -C "$to")
for m in 6lowpan appletalk atm ax25 batman-adv bluetooth can ceph dccp hsr \
	ieee802154 lapb mac80211 mac802154 netrom nfc phonet rds rose rxrpc \
	smc sunrpc tipc wireless x25
do
	rm -rf "$to/kernel/net/$m"
done
chroot "$root" depmod "$version"
rm -f "$to"/modules.*.bin.tmp

# The modules that PID 1 loads before there is a modprobe, each with those it
# needs before it: "name path path...", for vm to pack into the initramfs.
for m in virtio_mmio virtio_blk virtio_console virtio_net erofs overlay ext4 \
	crc32c_generic 9p 9pnet_virtio
do
	echo "$m" $(chroot "$root" modprobe -S "$version" --show-depends "$m" |
		sed -n 's,^insmod /usr/lib/modules/[^/]*/\([^ ]*\).*,\1,p; s,^insmod /lib/modules/[^/]*/\([^ ]*\).*,\1,p')
done >"$out/load"
(cd "$to" && tar -c -f "$out/modules.tar" -C "$out" load \
	-C "$to" $(cut -d' ' -s -f2- "$out/load" | tr ' ' '\n' | sort -u))

chroot "$root" dpkg-query -W -f '${Package} ${Version}\n' >"$out/packages"
echo "$kernel $(dpkg-deb -f "$out"/deb/linux-*.deb Version)" >>"$out/packages"

# mk is 9ci's, which the initramfs brings; 9base's stands beside it.
chroot "$root" dpkg-divert --quiet --rename --divert /usr/lib/plan9/bin/mk.9base \
	--add /usr/lib/plan9/bin/mk

# /usr/lib/plan9 goes into containers that have another C library, or none, so
# its programs bring their own.
mkdir -p "$root/usr/lib/plan9/lib"
for f in $loader libc.so.6 libm.so.6; do
	cp -L "$root/lib/$lib/$f" "$root/usr/lib/plan9/lib/$f"
done
(cd "$out/deb" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq download patchelf)
dpkg-deb --fsys-tarfile "$out"/deb/patchelf_*.deb | tar -x -C "$out" ./usr/bin/patchelf
chroot "$root" sh -c '/9ci/usr/bin/patchelf --set-interpreter "/usr/lib/plan9/lib/$0" \
	--force-rpath --set-rpath /usr/lib/plan9/lib /usr/lib/plan9/bin/*' "$loader"

# podman without systemd, on whatever PID 1 mounts at /var/lib/containers.
mkdir -p "$root/etc/containers"
cat >"$root/etc/containers/containers.conf" <<'E'
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
[network]
network_backend = "netavark"
E
cat >"$root/etc/containers/storage.conf" <<'E'
[storage]
driver = "overlay"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
E
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$root/etc/containers/policy.json"
echo 'unqualified-search-registries = ["docker.io"]' >"$root/etc/containers/registries.conf.d/search.conf"
rm -f "$root/etc/cni/net.d/87-podman-bridge.conflist"

# What the host lent, and what PID 1 writes at boot.
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* \
	"$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/apt/auth.conf.d/* \
	"$root"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
rm -f "$root"/etc/resolv.conf "$root"/etc/hostname "$root"/etc/hosts \
	"$root"/etc/machine-id "$root"/var/lib/dbus/machine-id "$root"/etc/localtime
ln -s /usr/share/zoneinfo/Etc/UTC "$root/etc/localtime"
: >"$root/etc/resolv.conf"; : >"$root/etc/hostname"; : >"$root/etc/hosts"; : >"$root/etc/machine-id"
# What differs from build to build, or is of no use.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/* "$root"/var/log/* \
	"$root"/var/lib/dpkg/*-old "$root"/etc/*- "$root"/var/lib/apt/extended_states \
	"$root"/boot/* "$root"/usr/share/doc/* "$root"/usr/share/man/* \
	"$root"/usr/share/info/* "$root"/var/lib/dpkg/lock* "$root"/var/lib/dpkg/triggers/Lock \
	"$root"/var/backups/*
mkdir -p "$root"/var/cache/apt/archives/partial "$root"/var/lib/apt/lists/partial \
	"$root"/src "$root"/n "$root"/var/lib/containers "$root"/usr/lib/plan9/bin \
	"$root"/usr/lib/9ci "$root"/var/log/apt

# /proc and /sys are mounted here now; PID 1 makes them.
echo "I: making the file system..." >&2
rm -rf "$out/kernel" "$out/deb" "$out/usr"
mkfs.erofs --quiet -x-1 -T"$SOURCE_DATE_EPOCH" -U"$CORE_OS_UUID" \
	--exclude-regex='^(9ci|proc|sys)$' --exclude-regex='^(9ci|proc|sys|dev|run|tmp)/.' \
	"$out/root.erofs" "$root" >&2
