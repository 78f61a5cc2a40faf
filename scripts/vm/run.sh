#!/bin/bash
# Boots Debian's cloud kernel in a virtual machine that has cgroup version 2 alone and an initramfs for its root, and
# checks there what the tests' host may not show: see claims/.
#
# The machine is emulated, so it runs wherever the tests do and takes about a minute. With $CONTI_BIN_DIR it takes the
# binaries there, and checks of vsock(7) only if they have that feature.
set -euo pipefail
cd "$(dirname "$0")/../.."

bin=${CONTI_BIN_DIR-}
if [ -z "$bin" ]; then
    # With a feature that the release has not, so beside its binaries.
    bin=${CARGO_TARGET_DIR:-target}/bin-vsock
    INTO=$bin scripts/build.sh --features contid/vsock,contictl/vsock
fi
if ldd "$bin/contid" 2>/dev/null | grep -q '=>'; then
    echo "$bin/contid needs shared libraries, and the machine has none: build with scripts/build.sh" >&2
    exit 1
fi
scripts/vm/setup.sh
tools=$PWD/.tools/vm
tool() { LD_LIBRARY_PATH=$tools/usr/lib/x86_64-linux-gnu:$tools/lib/x86_64-linux-gnu "$@"; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/conti-vm.XXXXXX")
trap 'rm -rf "$dir"' EXIT
root=$dir/root
mkdir -p "$root"/{bin,lib,claims,proc,sys,dev,tmp,run,etc,root}
cp "$tools/bin/busybox" "$bin"/{contid,contictl,conti-runtime} "$root/bin/"
cp "$tools"/modules/*.ko "$root/lib/"
cp scripts/vm/claims/*.sh "$root/claims/"
cp scripts/vm/init.sh "$root/init"
case $("$bin/contictl" --host vsock://1:1 ps 2>&1) in
*'built without the feature'*) rm "$root/claims/vsock.sh" ;;
esac
(cd "$root" && find . | tool "$tools/bin/cpio" --quiet -o -H newc | gzip -1 >"$dir/initramfs")

tool timeout 600 "$tools/usr/bin/qemu-system-x86_64" -L "$tools/usr/share/qemu" -L "$tools/usr/share/seabios" \
    -accel tcg -cpu max -m 1024 -smp 2 -nographic -no-reboot -net none -kernel "$tools/kernel" -initrd "$dir/initramfs" \
    -append "console=ttyS0 quiet panic=-1 cgroup_no_v1=all" </dev/null >"$dir/console" 2>&1 || true
tr -d '\r' <"$dir/console" | sed -n 's/.*== Linux/== Linux/; /== Linux/,$p'
# Said at the end of init.sh, and only there.
grep -q '^Every claim held' "$dir/console"
