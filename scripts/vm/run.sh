#!/bin/bash
# Boots Debian's cloud kernel in a virtual machine that has cgroup version 2 alone and an initramfs
# for its root, and checks there what a host with version 1, or without vsock(7), cannot show: see init.sh.
#
# The machine is emulated, so it runs wherever the tests do and takes about half a minute.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/apt.sh

bin=${CONTI_BIN_DIR-}
if [ -z "$bin" ]; then
    # With a feature that the release has not, so beside its binaries.
    bin=${CARGO_TARGET_DIR:-target}/bin-vsock
    INTO=$bin scripts/build.sh --features contid/vsock,contictl/vsock
fi
packages=()
command -v qemu-system-x86_64 >/dev/null || packages+=(qemu-system-x86)
command -v cpio >/dev/null || packages+=(cpio)
[ -x /usr/bin/busybox ] && ! ldd /usr/bin/busybox >/dev/null 2>&1 || packages+=(busybox-static)
[ ${#packages[@]} -eq 0 ] || apt_install "${packages[@]}"

dir=$(mktemp -d "${TMPDIR:-/tmp}/conti-vm.XXXXXX")
trap 'rm -rf "$dir"' EXIT

# Only the kernel itself and a few modules of it are wanted: nothing of the package is installed.
kernel_package() {
    apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image/ {print $2; exit}'
}
[ -n "$(kernel_package)" ] || apt-get update -q >"$dir/apt.log" 2>&1
(
    cd "$dir"
    apt-get download -q "$(kernel_package)" >apt.log 2>&1 ||
        { apt-get update -q && apt-get download -q "$(kernel_package)"; } >apt.log 2>&1 ||
        { cat apt.log >&2; exit 1; }
    dpkg-deb -x linux-image-*.deb kernel
)

root=$dir/root
mkdir -p "$root"/{bin,lib,proc,sys,dev,tmp,run,etc,root}
cp /usr/bin/busybox "$bin"/{contid,contictl,conti-runtime} "$root/bin/"
for module in overlay vsock vmw_vsock_virtio_transport_common vsock_loopback; do
    find "$dir/kernel/lib/modules" -name "$module.ko" -exec cp {} "$root/lib/" \;
done
cp scripts/vm/init.sh "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1 >"$dir/initramfs")

timeout 300 qemu-system-x86_64 -accel tcg -cpu max -m 1024 -smp 2 -nographic -no-reboot -net none \
    -kernel "$dir"/kernel/boot/vmlinuz-* -initrd "$dir/initramfs" \
    -append "console=ttyS0 quiet panic=-1 cgroup_no_v1=all" </dev/null >"$dir/console" 2>&1 || true
tr -d '\r' <"$dir/console" | sed -n 's/.*== Linux/== Linux/; /== Linux/,$p'
# Said at the end of init.sh, and only there.
grep -q '^Every claim held' "$dir/console"
