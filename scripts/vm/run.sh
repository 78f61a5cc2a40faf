#!/bin/bash
# Boots Debian's cloud kernel in a virtual machine that has cgroup version 2 alone and an initramfs
# for its root, and checks there what a host with version 1, or without vsock(7), cannot show: see init.sh.
#
# The machine is emulated, so it runs wherever the tests do and takes about half a minute.
set -euo pipefail
cd "$(dirname "$0")/../.."

bin=${CONTI_BIN_DIR-}
if [ -z "$bin" ]; then
    # With a feature that the release has not, so beside its binaries.
    bin=${CARGO_TARGET_DIR:-target}/bin-vsock
    INTO=$bin scripts/build.sh --features contid/vsock,contictl/vsock
fi
# Unpacked beside the project's other tools, and not installed: it may not go together with what is installed.
tools=$PWD/.tools/vm
wanted=(qemu-system-x86 cpio busybox-static)
if [ ! -e "$tools/complete" ]; then
    rm -rf "$tools"
    mkdir -p "$tools"
    with_needed() {
        apt-get install -s -q --no-install-recommends --reinstall "${wanted[@]}" 2>/dev/null | awk '/^Inst/ {print $2}'
    }
    [ -n "$(with_needed)" ] || apt-get update -q >/dev/null 2>&1
    mapfile -t packages < <(with_needed)
    [ ${#packages[@]} -gt 0 ] || { echo "apt-get finds no packages for ${wanted[*]}" >&2; exit 1; }
    (
        cd "$tools"
        apt-get download -q "${packages[@]}" >apt.log 2>&1 || { cat apt.log >&2; exit 1; }
        for package in *.deb; do dpkg-deb -x "$package" .; done
        rm -f -- *.deb apt.log
    )
    touch "$tools/complete"
fi
tool() { LD_LIBRARY_PATH=$tools/usr/lib/$(uname -m)-linux-gnu:$tools/lib/$(uname -m)-linux-gnu "$@"; }

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
cp "$tools"/bin/busybox "$bin"/{contid,contictl,conti-runtime} "$root/bin/"
for module in overlay loop vsock vmw_vsock_virtio_transport_common vsock_loopback; do
    find "$dir/kernel/lib/modules" -name "$module.ko" -exec cp {} "$root/lib/" \;
done
cp scripts/vm/init.sh "$root/init"
(cd "$root" && find . | tool "$tools/bin/cpio" --quiet -o -H newc | gzip -1 >"$dir/initramfs")

tool timeout 300 "$tools/usr/bin/qemu-system-x86_64" -L "$tools/usr/share/qemu" -L "$tools/usr/share/seabios" -accel tcg -cpu max -m 1024 -smp 2 -nographic -no-reboot -net none \
    -kernel "$dir"/kernel/boot/vmlinuz-* -initrd "$dir/initramfs" \
    -append "console=ttyS0 quiet panic=-1 cgroup_no_v1=all" </dev/null >"$dir/console" 2>&1 || true
tr -d '\r' <"$dir/console" | sed -n 's/.*== Linux/== Linux/; /== Linux/,$p'
# Said at the end of init.sh, and only there.
grep -q '^Every claim held' "$dir/console"
