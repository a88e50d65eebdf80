#!/usr/bin/env bash
# make_image.sh FOLDER   makes FOLDER/{disk.raw,vmlinuz,initrd.img}: Debian 12 with systemd, cgroup v2, and what the package needs.
#
# The disk has one ext4 file system without a boot loader: the kernel is started from outside. A root shell waits on the first
# virtio console (/dev/hvc0), so that a test can give commands without a network. Made once for a list of packages, then kept.
set -euo pipefail
folder=$1
packages=(systemd systemd-sysv dbus udev linux-image-cloud-amd64 kmod iproute2 nftables curl procps busybox-static python3-minimal
  crun runc conmon ca-certificates stress-ng e2fsprogs apparmor
  libarchive13 libboost-filesystem1.81.0 libboost-json1.81.0 libcurl4 libelf1 libgrpc++1.51 libgrpc29 libmnl0 libnftnl11 libprotobuf32
  libre2-9 libseccomp2 libspdlog1.10-fmt9 libssl3 libsystemd0 libyaml-0-2 libnghttp2-14 libzstd1)
mark="$(printf '%s ' "${packages[@]}") $(sha256sum <"$0")"
[ "$(cat "$folder/made-of" 2>/dev/null)" != "$mark" ] || exit 0
rm -rf "$folder"
mkdir -p "$folder"
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mmdebstrap --quiet --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" bookworm "$tree" \
  "deb http://deb.debian.org/debian bookworm main" >"$folder/log" 2>&1 || { tail -20 "$folder/log" >&2; exit 1; }

echo vm >"$tree/etc/hostname"
echo "/dev/vda / ext4 errors=remount-ro 0 1" >"$tree/etc/fstab"
# Synced, so that a hard power-off leaves the packages that were just installed whole.
cat >"$tree/etc/systemd/system/test-shell.service" <<'UNIT'
[Unit]
Description=A root shell for the test
After=multi-user.target
[Service]
ExecStart=/bin/bash --norc --noprofile
Environment=PS1= HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/hvc0
KillMode=process
Restart=always
[Install]
WantedBy=multi-user.target
UNIT
mkdir -p "$tree/etc/systemd/system/multi-user.target.wants"
ln -sf ../test-shell.service "$tree/etc/systemd/system/multi-user.target.wants/test-shell.service"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-timesyncd.service; do
  ln -sf /dev/null "$tree/etc/systemd/system/$unit"
done
mv "$tree"/boot/vmlinuz-* "$folder/vmlinuz"
mv "$tree"/boot/initrd.img-* "$folder/initrd.img"
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* "$tree"/usr/share/{doc,man,locale}/*
truncate -s 6G "$folder/disk.raw"
mkfs.ext4 -q -F -E lazy_itable_init=1 -d "$tree" "$folder/disk.raw"
echo "$mark" >"$folder/made-of"
